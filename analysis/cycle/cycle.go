package cycle

import "time"

// Cycle is something in a series that repeats.
type Cycle struct {
	// Period is the mean one over the series.
	Period time.Duration
	// Confidence that it is there at all, 0 to 1.
	Confidence float64
	// Strength is the share of the variance that it explains, 0 to 1, once a trend is taken off.
	Strength float64
	// Drift is by how much the period grows per period, as a share of it; 0 if it does not for all that can be told.
	Drift float64
}

// Result is what Detect found.
type Result struct {
	// Cycles, strongest first. None: there is no cycle, or it cannot be told.
	Cycles []Cycle
	// Why, in words: also why there is none.
	Why string
	// Known is the share of the samples that were there.
	Known float64
}
