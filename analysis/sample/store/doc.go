// Package store keeps series of guests in one SQLite file: each step for hours, minutes for weeks, five minutes for months.
//
//	Put ──► level 0: values as they came ──Tidy──► level 1: min, mean, max ──Tidy──► level 2: the same ──Tidy──► gone
//	        each step, for hours                   of about a minute, for weeks      of about five, for months
//
// Ages count from the newest sample of each series and not from a clock, so that a trace of years ago is kept like any other. One
// process writes and any number read meanwhile; what Put has returned from survives the process being killed at any point. A file
// that reaches its size limit forgets the older halves of all series, again and again until it fits.
//
// It is a package of its own so that who only analyses does not link a database.
package store
