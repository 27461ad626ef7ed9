package synth

import (
	"math"
	"math/rand/v2"
)

// Noise is what a series without a cycle is made of, or what is laid over one.
type Noise string

const (
	// White is independent from sample to sample.
	White Noise = "white"
	// Red remembers the last sample (autoregressive of first order).
	Red Noise = "red"
	// Pink has the same power in each octave.
	Pink Noise = "pink"
	// Walk is the sum of all that came before.
	Walk Noise = "walk"
	// Poisson is bursts of random height and length at random moments.
	Poisson Noise = "poisson"
	// Heavy is mostly low with rare high peaks that last for a while, as the load of most guests (log-normal with a memory).
	Heavy Noise = "heavy"
	// Steps is a level that jumps a few times.
	Steps Noise = "steps"
	// Ramp is one slope.
	Ramp Noise = "ramp"
	// Constant never changes.
	Constant Noise = "constant"
)

// Noises are all of them.
func Noises() []Noise { return []Noise{White, Red, Pink, Walk, Poisson, Heavy, Steps, Ramp, Constant} }

// make gives n samples; most have a standard deviation near 1. Memory, 0 to 1, is that of Red and Heavy.
func (k Noise) make(n int, memory float64, r *rand.Rand) []float64 {
	out := make([]float64, n)
	switch k {
	case White:
		for i := range out {
			out[i] = r.NormFloat64()
		}
	case Red:
		red(out, memory, 1, r)
	case Pink:
		for octave := 2.0; octave < 4*float64(n); octave *= 4 {
			red(out, math.Exp(-1/octave), 0.5, r)
		}
	case Walk:
		sum := 0.0
		for i := range out {
			sum += r.NormFloat64()
			out[i] = sum / math.Sqrt(float64(n)/6)
		}
	case Poisson:
		bursts(out, r)
	case Heavy:
		red(out, memory, 1.5, r)
		for i, v := range out {
			out[i] = math.Exp(v) / 3
		}
	case Steps:
		steps(out, r)
	case Ramp:
		for i := range out {
			out[i] = 4 * float64(i) / float64(n)
		}
	case Constant:
	}
	return out
}

// red adds first-order noise of that standard deviation.
func red(out []float64, memory, sd float64, r *rand.Rand) {
	fresh := sd * math.Sqrt(1-memory*memory)
	last := sd * r.NormFloat64()
	for i := range out {
		out[i] += last
		last = memory*last + fresh*r.NormFloat64()
	}
}

// bursts adds between three and a few hundred of them.
func bursts(out []float64, r *rand.Rand) {
	n := float64(len(out))
	between := n / math.Exp(math.Log(4)+r.Float64()*math.Log(60))
	length := between * (0.05 + 0.3*r.Float64())
	for at := r.ExpFloat64() * between; at < n; at += r.ExpFloat64() * between {
		height, end := 1+2*r.ExpFloat64(), at+1+r.ExpFloat64()*length
		for i := int(at); i < len(out) && float64(i) < end; i++ {
			out[i] += height
		}
	}
}

// steps makes one to twelve jumps.
func steps(out []float64, r *rand.Rand) {
	level, jumps := r.NormFloat64(), 1+r.IntN(12)
	p := float64(jumps) / float64(len(out))
	for i := range out {
		if r.Float64() < p {
			level = r.NormFloat64()
		}
		out[i] = level
	}
}
