// Package cycle finds the cycles of a workload.
package cycle

import "time"

// Cycle is one that was found.
type Cycle struct {
	Period time.Duration
	// Confidence is 0 to 1; Strength the share of the variance that the cycle explains.
	Confidence, Strength float64
	// Drift is the change of the period per period; 0 is none.
	Drift float64
}

// Result is what was found.
type Result struct {
	// Cycles are the strongest first; none is no cycle.
	Cycles []Cycle
	// Why says it in words, also why there is none.
	Why string
	// Known is the share of samples that were there.
	Known float64
}
