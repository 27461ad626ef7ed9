package cycle

import (
	"math"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Bin is what was seen at one part of a cycle.
type Bin struct {
	// Low, Median and High are what a tenth, a half and nine tenths of the samples were at most.
	Low, Median, High float64
	// N is how many samples there were. 0: none, and the bin repeats its nearest neighbour's values.
	N int
}

// Profile is a series folded on one of its cycles: what to expect at which part of it.
type Profile struct {
	// Period is the cycle's, at the end of the series.
	Period time.Duration
	// Origin is when a cycle begins, and bin 0 with it: the end of the series that was folded.
	Origin time.Time
	Bins   []Bin
}

// Fold lays the cycles of a series over one another, each by its own length if the period drifts. The number of bins is cut to
// that of the steps in a period; it is at least 1. The zero Profile comes of a series or cycle that is empty.
func Fold(s sample.Series, c Cycle, bins int) Profile {
	if c.Period <= 0 || s.Step <= 0 || s.Len() == 0 {
		return Profile{}
	}
	period, drift := c.latest(s.Span()), c.Drift
	bins = max(1, min(bins, int(period/s.Step)))
	seen := make([][]float64, bins)
	for i, v := range s.Values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		// The middle of the step, as cycles before the end.
		ago := (float64(s.Len()-i) - 0.5) * float64(s.Step) / float64(period)
		phase := -cyclesAgo(ago, drift)
		b := int((phase - math.Floor(phase)) * float64(bins))
		b = min(b, bins-1)
		seen[b] = append(seen[b], v)
	}
	p := Profile{Period: period, Origin: s.End(), Bins: make([]Bin, bins)}
	for b, values := range seen {
		p.Bins[b] = quantiles(values)
	}
	p.fill()
	return p
}

// latest is the period at the end of a series of that span, of which Period is the mean.
func (c Cycle) latest(span time.Duration) time.Duration {
	grow := 1 + c.Drift*float64(span)/float64(c.Period)/2
	return scaled(min(max(grow, 0.5), 2), c.Period)
}

// cyclesAgo is how many cycles fit into a time before the end, that being given in periods as long as the last one: the k-th
// before it was 1 - drift × k as long.
func cyclesAgo(ago, drift float64) float64 {
	if inner := 1 - 2*drift*ago; math.Abs(drift) > 1e-9 && inner > 0 {
		return (1 - math.Sqrt(inner)) / drift
	}
	return ago
}

// quantiles of values, which are sorted in place.
func quantiles(values []float64) Bin {
	n := len(values)
	if n == 0 {
		return Bin{}
	}
	slices.Sort(values)
	at := func(q float64) float64 { return values[int(q*float64(n-1)+0.5)] }
	return Bin{Low: at(0.1), Median: at(0.5), High: at(0.9), N: n}
}

// fill gives bins in which nothing was seen the values of the nearest one, around the end of the cycle too.
func (p *Profile) fill() {
	n := len(p.Bins)
	for b := range p.Bins {
		for d := 1; p.Bins[b].N == 0 && d <= n/2; d++ {
			for _, near := range []Bin{p.Bins[(b-d+n)%n], p.Bins[(b+d)%n]} {
				if near.N > 0 {
					p.Bins[b] = Bin{near.Low, near.Median, near.High, 0}
					break
				}
			}
			if p.Bins[b] != (Bin{}) {
				break
			}
		}
	}
}

// At is what to expect at a time, before the end of the series or after it. The zero Profile expects nothing.
func (p Profile) At(t time.Time) Bin {
	if len(p.Bins) == 0 {
		return Bin{}
	}
	return p.Bins[min(int(p.Phase(t)*float64(len(p.Bins))), len(p.Bins)-1)]
}

// Phase is how much of a cycle is over at a time, 0 to 1.
func (p Profile) Phase(t time.Time) float64 {
	if p.Period <= 0 {
		return 0
	}
	d := t.Sub(p.Origin) % p.Period
	if d < 0 {
		d += p.Period
	}
	return float64(d) / float64(p.Period)
}
