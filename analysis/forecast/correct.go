package forecast

import (
	"math"
	"slices"
	"time"
)

// Past is a run of this guest: what was forecast for it, as corrected then or not, and what it took. A zero in Actual is not
// known.
type Past struct {
	Way
	// Predicted is the uncorrected forecast for the time at which the run began.
	Predicted Point
	// Actual is what it took; Converges is not used.
	Actual Point
}

// Correction is what past runs say of forecasts for one way.
type Correction struct {
	// Duration, Downtime and Bytes are the ratios by which a forecast is multiplied; 1 changes nothing.
	Duration, Downtime, Bytes Ratio
	// Runs is how many runs of the way it comes from.
	Runs int
}

// Ratio is actual over predicted: Expected its centre, Low and High around it what 9 in 10 runs fall into. Zero is not known.
type Ratio = Range

// Figures of the correction.
const (
	trust     = 3.0  // that many runs weigh as much as the belief that forecasts are right
	prior     = 0.15 // how far actual values stray from a good forecast, as a natural logarithm, where few runs say
	ninety    = 1.645
	outermost = 4.0 // no correction by more than that factor either way
)

// NewCorrection learns from the past runs of a way: the median ratio, shrunk towards 1 while there are few, with ranges by
// how far runs strayed from it.
func NewCorrection(w Way, past []Past) Correction {
	var c Correction
	var durations, downtimes, bytes []float64
	for _, p := range past {
		if p.Way != w {
			continue
		}
		c.Runs++
		durations = addRatio(durations, p.Actual.Duration, p.Predicted.Duration)
		downtimes = addRatio(downtimes, p.Actual.Downtime, p.Predicted.Downtime)
		bytes = addRatio(bytes, p.Actual.Bytes, p.Predicted.Bytes)
	}
	c.Duration, c.Downtime, c.Bytes = ratioOf(durations), ratioOf(downtimes), ratioOf(bytes)
	return c
}

// addRatio works on logarithms: twice as much and half as much stray as far.
func addRatio(to []float64, actual, predicted float64) []float64 {
	if actual > 0 && predicted > 0 && finite(actual) && finite(predicted) {
		return append(to, math.Log(actual/predicted))
	}
	return to
}

func ratioOf(logs []float64) Ratio {
	n := float64(len(logs))
	if n == 0 {
		return Ratio{1, 1, 1}
	}
	slices.Sort(logs)
	center := quantile(logs, 0.5) * n / (n + trust)
	center = min(max(center, -math.Log(outermost)), math.Log(outermost))
	width := stray(logs, center) * student(n)
	return Ratio{math.Exp(center - width), math.Exp(center), math.Exp(center + width)}
}

// stray is a standard deviation around the center, of which a run far astray is not let to make much, and for which few runs
// count little.
func stray(logs []float64, center float64) float64 {
	far := make([]float64, len(logs))
	for i, v := range logs {
		far[i] = math.Abs(v - center)
	}
	slices.Sort(far)
	most, sum, n := 4*quantile(far, 0.5)+0.01, 0.0, float64(len(far))
	for _, v := range far {
		sum += min(v, most)
	}
	seen := sum / n * math.Sqrt(math.Pi/2)
	return math.Sqrt((n*seen*seen + trust*prior*prior) / (n + trust))
}

// student is how many standard deviations nine in ten fall into when so many runs told the deviation. One
// or two say no less than three, as the belief counts beside them.
func student(n float64) float64 {
	n = max(n, trust)
	return 1.645 * (1 + 1.3/max(n-1, 1)) * math.Sqrt(1+1/n)
}

// Correct changes a forecast by what past runs of its way really took.
func Correct(c Cost, past []Past) Cost { return NewCorrection(c.Way, past).Apply(c) }

// Apply changes a cost; one of another way has no business here.
func (k Correction) Apply(c Cost) Cost {
	if k.Runs == 0 {
		return c
	}
	slow := c.Duration.Expected.Seconds()
	c.Duration = spanOf(k.Duration.apply(c.Duration.Range(), k.Runs))
	c.Downtime = spanOf(k.Downtime.apply(c.Downtime.Range(), k.Runs))
	c.Bytes = k.Bytes.apply(c.Bytes, k.Runs)
	if slow > 0 {
		by := c.Duration.Expected.Seconds() / slow
		c.SlowFor = spanOf(c.SlowFor.Range().scale(by))
	}
	return c
}

// Point changes expected values alone.
func (k Correction) Point(p Point) Point {
	if k.Runs == 0 {
		return p
	}
	p.Duration *= k.Duration.Expected
	p.SlowFor *= k.Duration.Expected
	p.Downtime *= k.Downtime.Expected
	p.Bytes *= k.Bytes.Expected
	return p
}

// apply moves a range. Its own width counts while there are few runs; after many, what they strayed counts, and a quarter of
// its own width, since that is about this start and not about runs as a whole.
func (k Range) apply(r Range, runs int) Range {
	own := max(0.25, trust/(trust+float64(runs)))
	mid := r.Expected * k.Expected
	low := mid * k.Low / k.Expected
	high := mid * k.High / k.Expected
	return Range{
		max(0, min(mid, low-own*(r.Expected-r.Low)*k.Expected)),
		mid,
		max(mid, high+own*(r.High-r.Expected)*k.Expected),
	}
}

// PastOf pairs an uncorrected forecast with what came.
func PastOf(c Cost, duration, downtime time.Duration, bytes int64) Past {
	return Past{Way: c.Way, Predicted: c.Expected(), Actual: Point{Duration: duration.Seconds(), Downtime: downtime.Seconds(), Bytes: float64(bytes)}}
}
