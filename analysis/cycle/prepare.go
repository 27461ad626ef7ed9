package cycle

import (
	"math"
	"slices"
)

// level is (a part of) a series, ready to be looked at: values around 0 and within a few units, NaN where nothing is known.
type level struct {
	values []float64
	// step in steps of the series.
	step float64
	// from and to are the shortest and longest period to look for, in this level's steps.
	from, to float64
}

const (
	// most is the number of values that one level has: a longer series is looked at twice, its latest part as it is for short
	// periods, and the whole of it reduced for long ones.
	most = 1 << 15
	// shortest is the shortest period in steps: below it nothing can be told from noise that alternates.
	shortest = 4
	// observed is how often a cycle must have been seen.
	observed = 3
	// flat is the spread, as a share of the largest value, below which a series is constant but for rounding.
	flat = 1e-9
)

// normal scales values to within -1 to 1, and takes infinite ones for missing. It cuts off what is missing at both ends, and
// gives how many are known. The values given are not changed.
func normal(values []float64) (out []float64, known int) {
	top := 0.0
	lo, hi := -1, -1
	for i, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		if known == 0 {
			lo = i
		}
		hi = i
		known++
		top = max(top, math.Abs(v))
	}
	if known == 0 {
		return nil, 0
	}
	out = make([]float64, hi+1-lo)
	for i, v := range values[lo : hi+1] {
		switch {
		case math.IsInf(v, 0):
			out[i] = math.NaN()
		case top > 0:
			out[i] = v / top
		}
		if math.IsNaN(v) {
			out[i] = v
		}
	}
	return out, known
}

// straighten takes off the median and a straight line, clips outliers and scales to a spread of one; false if there is none.
func straighten(x []float64) bool {
	slope := slope(x)
	for i := range x {
		x[i] -= slope * float64(i)
	}
	low, median, high := limits(x)
	if !(high-low > flat) {
		return false
	}
	variance, n := 0.0, 0.0
	for i, v := range x {
		x[i] = min(max(v, low), high) - median
		if !math.IsNaN(v) {
			variance += x[i] * x[i]
			n++
		}
	}
	scale := 1 / math.Sqrt(variance/n)
	for i := range x {
		x[i] *= scale
	}
	return true
}

// slope is the median of the slopes between parts that are half of the series apart: neither an outlier nor a jump in one
// place, nor the phase in which a cycle begins and ends, moves it much.
func slope(x []float64) float64 {
	const parts = 24
	if len(x) < 2*parts {
		return 0
	}
	var at, mean [parts]float64
	for p := range parts {
		lo, hi := p*len(x)/parts, (p+1)*len(x)/parts
		at[p], mean[p] = float64(lo+hi)/2, average(x[lo:hi])
	}
	var slopes []float64
	for p := range parts / 2 {
		q := p + parts/2
		if s := (mean[q] - mean[p]) / (at[q] - at[p]); !math.IsNaN(s) {
			slopes = append(slopes, s)
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	slices.Sort(slopes)
	return middle(slopes)
}

// middle is the median of sorted values.
func middle(sorted []float64) float64 {
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// average of what is known; NaN if nothing is.
func average(x []float64) float64 {
	sum, n := 0.0, 0.0
	for _, v := range x {
		if !math.IsNaN(v) {
			sum += v
			n++
		}
	}
	return sum / n
}

// limits are what values are clipped to, and their median. A few values in a thousand may be outliers; a pulse is none, however
// short, so what counts is how far the rest reaches, not a multiple of its spread.
func limits(x []float64) (low, median, high float64) {
	const enough = 20000
	stride := len(x)/enough + 1
	some := make([]float64, 0, len(x)/stride+1)
	for i := 0; i < len(x); i += stride {
		if !math.IsNaN(x[i]) {
			some = append(some, x[i])
		}
	}
	if len(some) == 0 {
		return 0, 0, 0
	}
	slices.Sort(some)
	out := 2 * len(some) / 1000
	low, median, high = some[out], middle(some), some[len(some)-1-out]
	if high-low <= flat {
		return some[0], median, some[len(some)-1]
	}
	return low - (median - low), median, high + (high - median)
}

// levels gives the parts to look at of normal values.
func levels(x []float64) []*level {
	n := len(x)
	longest := float64(n) / observed
	if n <= most {
		return []*level{{slices.Clone(x), 1, shortest, longest}}
	}
	by := (n + most - 1) / most
	step := float64(by)
	return []*level{
		{slices.Clone(x[n-most:]), 1, shortest, most / observed},
		{reduce(x, by), step, 2 * shortest, longest / step},
	}
}

// reduce averages each so many values.
func reduce(x []float64, by int) []float64 {
	out := make([]float64, 0, len(x)/by+1)
	for part := range slices.Chunk(x, by) {
		out = append(out, average(part))
	}
	return out
}
