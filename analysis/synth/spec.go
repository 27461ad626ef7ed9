package synth

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Spec is one series to order. The zero value of all but Samples and Step is "none of it".
type Spec struct {
	Seed    uint64
	Start   time.Time
	Step    time.Duration
	Samples int
	Level   float64
	Waves   []Wave
	// Noise is laid over the waves with a standard deviation of NoiseLevel; empty is White. Memory is that of Red and Heavy.
	Noise      Noise
	NoiseLevel float64
	Memory     float64
	// Trend is by how much the level rises from begin to end.
	Trend float64
	// Scattered and Blocks are the shares of samples that are missing one by one, and in a few long blocks.
	Scattered, Blocks float64
}

// Make gives the series and the mean period that each wave really has in it, in the order of Waves.
func (s Spec) Make() (sample.Series, []time.Duration) {
	r := rand.New(rand.NewPCG(s.Seed, 0x76d5c1))
	values := make([]float64, s.Samples)
	var periods []time.Duration
	for _, w := range s.Waves {
		periods = append(periods, w.add(values, s.Step, r))
	}
	kind := s.Noise
	if kind == "" {
		kind = White
	}
	if s.NoiseLevel != 0 {
		for i, v := range kind.make(s.Samples, s.Memory, r) {
			values[i] += s.NoiseLevel * v
		}
	}
	for i := range values {
		values[i] += s.Level + s.Trend*float64(i)/float64(s.Samples)
	}
	s.takeAway(values, r)
	return sample.Series{Name: "synthetic", Start: s.Start, Step: s.Step, Values: values}, periods
}

// takeAway makes the gaps.
func (s Spec) takeAway(values []float64, r *rand.Rand) {
	for i := range values {
		if r.Float64() < s.Scattered {
			values[i] = math.NaN()
		}
	}
	n := len(values)
	for left := int(s.Blocks * float64(n)); left > 0; {
		length := min(left, 1+int((0.005+0.045*r.Float64())*float64(n)))
		at := r.IntN(n - length + 1)
		for i := at; i < at+length; i++ {
			values[i] = math.NaN()
		}
		left -= length
	}
}
