// Package synth makes series whose cycles are known, and series that have none, so that a detector can be judged.
//
// A case comes from its seed alone: the same seed gives the same values on every machine. Set and Case draw everything by lot
// (shape, period, step, length, noise, drift, jitter, gaps, trend); Spec makes one series to order.
//
//	value = level + trend + Σ waves(phase) + noise,   then samples are taken away
//
// Amplitude is half of the way from a wave's lowest to its highest value; noise is a standard deviation as a share of it, so
// that 100 % of noise on a sine has twice the variance of the sine.
package synth
