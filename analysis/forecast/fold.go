package forecast

import (
	"math"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

const (
	maxBins   = 240
	bothBins  = 480 // where a cycle is folded that has others inside
	maxCycles = 32  // the last ones count: a workload changes
)

// phase is where in the cycle a time lies. It is anchored at the end of what was seen, so that an error of the period grows into
// the past and not into the future.
type phase struct {
	anchor time.Time
	period float64 // seconds
	bins   int
	// starts are where the cycles before the anchor began, the last one first, where they are not of one length; and wobble how far
	// their lengths stray. Both in seconds.
	starts []float64
	wobble float64
}

// binOf is the bin to which a window's begin is nearest.
func (p phase) binOf(offset float64) int {
	return int(math.Round(p.part(offset)*float64(p.bins))) % p.bins
}

func (p phase) width() float64 { return p.period / float64(p.bins) }

// phaseOf finds the period close to the detected one that folds the last cycles best.
func phaseOf(s sample.Series, all []cycle.Cycle) (phase, sample.Series) {
	c, inside := folds(all, s)
	if all := float64(s.Span()) / float64(c.Period); c.Drift != 0 && math.Abs(c.Drift)*all < 1 { // the period is now another than on average
		now := all/2 - min(all, maxCycles)/2
		c.Period = time.Duration(float64(c.Period) * (1 + c.Drift*now))
	}
	last := s.Last(maxCycles * c.Period)
	p := phase{anchor: last.End(), period: c.Period.Seconds(), bins: binsOf(c.Period, s.Step)}
	if inside {
		p.bins = min(max(int(math.Round(float64(c.Period)/float64(s.Step))), 1), bothBins)
	}
	n := last.Span().Seconds() / p.period
	if n < 2 {
		return p, last
	}
	coarse := last.Reduce(int(p.period / last.Step.Seconds() / explainBins))
	best, tries := p.explains(coarse, p.period), 12.0
	for _, step := range []float64{1 / (16 * n), 1 / (64 * n), 1 / (256 * n)} {
		center := p.period
		for k := -tries; k <= tries; k++ {
			period := center * (1 + k*step)
			if v := p.explains(coarse, period); v > best {
				best, p.period = v, period
			}
		}
		tries = 4
	}
	return p.align(last), last
}

// folds picks the cycle to fold on: the strongest, or a longer one that the stronger ones fit into a whole number of times, such
// as a week of days, since that shows both. It has to be seen three times.
func folds(all []cycle.Cycle, s sample.Series) (c cycle.Cycle, inside bool) {
	c = all[0]
	for i, long := range all[1:] {
		if long.Period <= c.Period || long.Strength < 0.05 || s.Span() < 3*long.Period {
			continue
		}
		fit := true
		for _, short := range all[:i+1] {
			ratio := float64(long.Period) / float64(short.Period)
			fit = fit && ratio <= bothBins/8 && math.Abs(ratio-math.Round(ratio)) <= min(0.03*ratio, 0.2)
		}
		if fit {
			c, inside = long, true
		}
	}
	return c, inside
}

func binsOf(period, step time.Duration) int {
	return min(max(int(math.Round(float64(period)/float64(step))), 1), maxBins)
}

// explainBins are few, so that noise does not fit itself.
const explainBins = 60

// explains is the variance between bins if that is the period.
func (p phase) explains(s sample.Series, period float64) float64 {
	bins := min(p.bins, explainBins)
	var sums, counts [explainBins]float64
	x, step := s.Start.Sub(p.anchor).Seconds()/period*float64(bins), s.Step.Seconds()/period*float64(bins)
	whole := float64(bins)
	x -= whole * math.Floor(x/whole)
	total, known := 0.0, 0.0
	for _, v := range s.Values {
		if !math.IsNaN(v) {
			b := min(int(x), bins-1)
			sums[b] += v
			counts[b]++
			total += v
			known++
		}
		if x += step; x >= whole {
			x -= whole
		}
	}
	mean, between := total/max(known, 1), 0.0
	for b, n := range counts {
		if n > 0 {
			d := sums[b]/n - mean
			between += n * d * d
		}
	}
	return between
}

// folded is a row per end of the range.
type folded struct{ low, mid, high []float64 }

// fold gathers the samples of each bin: 10 %, a mean without the outermost, 90 %. Bins without a sample are filled from their
// neighbours.
func (p phase) fold(s sample.Series, scale float64) folded {
	bins := make([][]float64, p.bins)
	at, step := s.Start.Sub(p.anchor).Seconds(), s.Step.Seconds()
	for _, v := range s.Values {
		if !math.IsNaN(v) {
			b := p.binOf(at)
			bins[b] = append(bins[b], v*scale)
		}
		at += step
	}
	out := folded{make([]float64, p.bins), make([]float64, p.bins), make([]float64, p.bins)}
	for b, values := range bins {
		out.low[b], out.mid[b], out.high[b] = middle(values)
	}
	fill(out.low)
	fill(out.mid)
	fill(out.high)
	return out
}

// middle is the 10 %, the mean of what is clipped to 10 and 90 %, and the 90 %; NaN without values. It sorts them.
func middle(values []float64) (low, mid, high float64) {
	if len(values) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	slices.Sort(values)
	low, high = quantile(values, 0.1), quantile(values, 0.9)
	sum := 0.0
	for _, v := range values {
		sum += min(max(v, low), high)
	}
	return low, sum / float64(len(values)), high
}

// quantile of sorted values.
func quantile(sorted []float64, q float64) float64 {
	x := q * float64(len(sorted)-1)
	i := int(x)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (x-float64(i))*(sorted[i+1]-sorted[i])
}

// fill replaces NaN by what lies between the nearest neighbours, around the cycle. A row with nothing is zero.
func fill(row []float64) {
	n := len(row)
	first := slices.IndexFunc(row, func(v float64) bool { return !math.IsNaN(v) })
	if first < 0 {
		clear(row)
		return
	}
	last := first
	for k := 1; k <= n; k++ {
		i := first + k
		if math.IsNaN(row[i%n]) {
			continue
		}
		for j := last + 1; j < i; j++ {
			f := float64(j-last) / float64(i-last)
			row[j%n] = row[last%n] + f*(row[i%n]-row[last%n])
		}
		last = i
	}
}
