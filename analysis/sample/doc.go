// Package sample holds what was seen of a guest over time: series on a regular grid, with gaps, and their exchange as CSV.
//
// It knows neither where samples come from nor who reads them, and has no clock: times come in as values. Nothing here is safe
// for use by several goroutines at once.
package sample
