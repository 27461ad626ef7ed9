package cycle_test

import (
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/synth"
)

// A guest that writes for five minutes of every half hour.
func ExampleDetect() {
	series, _ := synth.Spec{Seed: 1, Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Step: 15 * time.Second, Samples: 2400, NoiseLevel: 0.3, Level: 2,
		Waves: []synth.Wave{{Shape: synth.Pulse, Duty: 1. / 6, Period: 30 * time.Minute, Amplitude: 1}}}.Make()
	result, err := cycle.Detect(series, cycle.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(result.Why)

	profile := cycle.Fold(series, result.Cycles[0], 6)
	busy := 0
	for _, bin := range profile.Bins {
		if bin.Median > 2 {
			busy++
		}
	}
	fmt.Println(busy, "of", len(profile.Bins), "parts of the cycle are busy")
	// Output:
	// it repeats every 30 min (seen 20 times, 71 % of the variation)
	// 1 of 6 parts of the cycle are busy
}

// Noise has no cycle, and the result says so.
func ExampleDetect_none() {
	series, _ := synth.Spec{Seed: 3, Step: time.Second, Samples: 1000, NoiseLevel: 1}.Make()
	result, err := cycle.Detect(series, cycle.Options{})
	fmt.Println(len(result.Cycles), err)
	fmt.Println(result.Why)
	// Output:
	// 0 <nil>
	// 4.47 min is the likeliest period, but it was seen only 4 times, which is too few to tell it from chance
}
