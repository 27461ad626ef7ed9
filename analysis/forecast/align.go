package forecast

import (
	"math"
	"sort"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Cycles that are not all of the same length smear each other when they are folded. What follows lays each cycle over the later
// ones, from the last one back, so that it is known how the cycle looks, where in it the guest is now, and by how much the next one
// may be longer or shorter.

const (
	alignBins = 120
	alignMost = 0.2  // a cycle is at most that share of a period shorter or longer
	alignGain = 0.75 // what has to be left of the squared error for it to be no chance
)

// grid is the mean of what is known in each bin.
type grid struct {
	values []float64 // by time, whole cycles only; NaN is missing
	bins   int
	cycles int
}

func (p phase) grid(s sample.Series) grid {
	bins := min(binsOf(seconds(p.period), s.Step), alignBins)
	g := grid{bins: bins, cycles: int(p.anchor.Sub(s.Start).Seconds() / p.period)}
	sums, counts := make([]float64, g.cycles*bins), make([]float64, g.cycles*bins)
	width := p.period / float64(bins)
	at, step := s.Start.Sub(p.anchor).Seconds(), s.Step.Seconds()
	for _, v := range s.Values {
		i := int(math.Floor(at/width)) + len(sums)
		if !math.IsNaN(v) && i >= 0 && i < len(sums) {
			sums[i] += v
			counts[i]++
		}
		at += step
	}
	for i := range sums {
		sums[i] /= counts[i] // 0/0 is NaN
	}
	g.values = sums
	return g
}

// apart is the mean squared error between the template and the cycle that begins at bin first.
func (g grid) apart(template []float64, first int) float64 {
	sum, n := 0.0, 0.0
	for b, t := range template {
		i := first + b
		if i < 0 || i >= len(g.values) || math.IsNaN(g.values[i]) || math.IsNaN(t) {
			continue
		}
		d := g.values[i] - t
		sum, n = sum+d*d, n+1
	}
	if n < float64(g.bins)/3 {
		return math.Inf(1)
	}
	return sum / n
}

// align lays cycles over each other, if that explains much more than to take them for equally long.
func (p phase) align(s sample.Series) phase {
	g := p.grid(s)
	if g.cycles < 3 || g.bins < 12 {
		return p
	}
	most := int(alignMost * float64(g.bins))
	template, weight := make([]float64, g.bins), make([]float64, g.bins)
	plain, plainWeight := make([]float64, g.bins), make([]float64, g.bins)
	add := func(to, weight []float64, first int) {
		for b := range to {
			if i := first + b; i >= 0 && i < len(g.values) && !math.IsNaN(g.values[i]) {
				weight[b]++
				to[b] += (g.values[i] - to[b]) / weight[b]
			}
		}
	}
	first := len(g.values) - g.bins
	add(template, weight, first)
	add(plain, plainWeight, first)
	starts, steps := []float64{-p.period}, []float64{}
	aligned, equal := 0.0, 0.0
	for m := 1; m < g.cycles; m++ {
		before := first - g.bins
		best, at := g.apart(template, before), before
		for d := -most; d <= most; d++ {
			if e := g.apart(template, before+d); e < best*0.999 {
				best, at = e, before+d
			}
		}
		where := len(g.values) - (m+1)*g.bins
		if e := g.apart(plain, where); !math.IsInf(best, 1) && !math.IsInf(e, 1) {
			aligned, equal = aligned+best, equal+e
			steps = append(steps, float64(first-at-g.bins))
		}
		first = at
		add(template, weight, first)
		add(plain, plainWeight, where)
		starts = append(starts, float64(first-len(g.values))*p.period/float64(g.bins))
	}
	if len(steps) < 2 || !(aligned < alignGain*equal) {
		return p
	}
	p.starts, p.wobble = starts, deviation(steps)*p.period/float64(g.bins)
	return p
}

// part is where in its cycle an offset from the anchor lies, 0 to 1.
func (p phase) part(offset float64) float64 {
	if len(p.starts) > 0 && offset < 0 {
		m := sort.Search(len(p.starts), func(m int) bool { return p.starts[m] <= offset })
		if m < len(p.starts) {
			return min((offset-p.starts[m])/p.period, 0.999)
		}
		offset -= p.starts[len(p.starts)-1]
	}
	x := offset / p.period
	return x - math.Floor(x)
}

func deviation(v []float64) float64 {
	m, sum := mean(v), 0.0
	for _, x := range v {
		sum += (x - m) * (x - m)
	}
	return math.Sqrt(sum / float64(len(v)))
}
