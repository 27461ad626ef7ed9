package synth

import (
	"math"
	"math/rand/v2"
	"time"
)

// Shape is what one cycle looks like.
type Shape string

const (
	// Sine is a plain sine.
	Sine Shape = "sine"
	// Square is high for the first half and low for the second.
	Square Shape = "square"
	// Pulse is high for Duty of the cycle, as a job that runs at a fixed hour.
	Pulse Shape = "pulse"
	// Saw rises slowly and falls at once, as memory that is collected.
	Saw Shape = "saw"
	// Bursts are spikes at random moments of the first Duty of the cycle, never the same twice.
	Bursts Shape = "bursts"
)

// Shapes are all of them.
func Shapes() []Shape { return []Shape{Sine, Square, Pulse, Saw, Bursts} }

// Wave is one cycle of a series.
type Wave struct {
	Shape     Shape
	Period    time.Duration
	Amplitude float64
	// Duty is the share of a Pulse or of Bursts that is busy.
	Duty float64
	// Drift is by how much the period grows from the first to the last cycle, as a share of it.
	Drift float64
	// Jitter is the standard deviation of each single cycle's length, as a share of it.
	Jitter float64
}

// add puts the wave into values and gives the mean length of the cycles it really drew.
func (w Wave) add(values []float64, step time.Duration, r *rand.Rand) time.Duration {
	period := float64(w.Period) / float64(step)
	n := float64(len(values))
	begin := -r.Float64() * period
	first, cycles := begin, 0
	for begin < n {
		length := w.length(period, begin/n, r)
		for i := max(0, int(math.Ceil(begin))); i < len(values) && float64(i) < begin+length; i++ {
			values[i] += w.Amplitude * w.at((float64(i)-begin)/length, r)
		}
		begin += length
		cycles++
	}
	return time.Duration((begin - first) / float64(cycles) * float64(step))
}

// length draws the length of the cycle that begins at that share of the series.
func (w Wave) length(period, at float64, r *rand.Rand) float64 {
	jitter := 1 + w.Jitter*min(max(r.NormFloat64(), -2.5), 2.5)
	return max(1, period*(1+w.Drift*(at-0.5))*jitter)
}

// at is the wave at that share of a cycle, -1 to 1.
func (w Wave) at(phase float64, r *rand.Rand) float64 {
	switch w.Shape {
	case Sine:
		return math.Sin(2 * math.Pi * phase)
	case Square:
		return high(phase < 0.5)
	case Pulse:
		return high(phase < w.Duty)
	case Saw:
		return 2*phase - 1
	case Bursts:
		return high(phase < w.Duty && r.Float64() < 0.6)
	}
	return 0
}

func high(yes bool) float64 {
	if yes {
		return 1
	}
	return -1
}
