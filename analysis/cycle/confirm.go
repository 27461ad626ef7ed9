package cycle

import "math"

// found is a candidate with what the autocorrelation says about it.
type found struct {
	level  *level
	period float64 // in steps of the level
	// cycles that were seen, gaps left out.
	cycles float64
	// once and twice are the autocorrelation at the period and its double; contrast is by how much they stand above the lowest
	// values before them, summed.
	once, twice, contrast float64
	// noise is the standard deviation of such a value if nothing repeats.
	noise float64
	// steady is the mean likeness of neighbouring cycles in standard errors.
	steady float64
	// strength is the share of the variance that repeats.
	strength float64
}

const (
	// bins that a cycle is looked at in.
	bins = 24
	// longest grid that is looked at, in bins: some hundred cycles say all that there is to say.
	longest = 12000
)

// steps of the series that the period takes.
func (f found) steps() float64 { return f.period * f.level.step }

// score is the log of the odds that it is a cycle. The weights are those of a logistic regression over the candidates of
// 2,000 series of package synth (seeds 1 to 1000); the figures in the documentation are of other seeds.
func (f found) score() float64 {
	z := max(0, (f.once+f.twice)/math.Sqrt2/f.noise)
	steady := min(max(0, f.steady), 50)
	return -17.4 + 8.8*math.Log1p(z) + 6.8*math.Log1p(steady) + 1.8*min(f.once, f.twice) + 1.2*f.contrast - 2.4*math.Log(f.cycles)
}

// confidence is the score as a probability.
func (f found) confidence() float64 { return 1 / (1 + math.Exp(-f.score())) }

// confirm looks at a candidate: is the level, without what is slower, like itself one and two periods later? If hidden is not
// 0 then what has that period is taken off before, with its harmonics. False means that this cannot be asked.
func confirm(l *level, period, hidden float64) (found, bool) {
	f := found{level: l, period: period}
	for _, ask := range []func(g grid) bool{f.aim, f.ask} { // the second time in bins that fit
		if f.period < l.from*0.95 || f.period > l.to*1.05 {
			return f, false
		}
		width := max(1, f.period/bins)
		g := into(l.values, width, longest)
		if hidden > 0 {
			g.lowpass(hidden / width)
		}
		g.highpass(f.period / width)
		if !ask(g) {
			return f, false
		}
	}
	return f, f.cycles >= observed-0.5
}

// aim corrects the period alone.
func (f *found) aim(g grid) bool {
	per := f.period / g.width
	first := max(0, int(0.8*per)-1)
	r := g.correlations(first, int(1.2*per)+2)
	lag, top := highest(r, 0.8*per-float64(first), 1.2*per-float64(first))
	f.period = (lag + float64(first)) * g.width
	return top > 0
}

// ask fills in all that the grid says about the period, and corrects the period.
func (f *found) ask(g grid) bool {
	per := f.period / g.width
	r := g.correlations(0, int(per*2.75))
	lag, top := highest(r, 0.8*per, 1.2*per)
	if top <= 0 {
		return false
	}
	f.once = top
	_, f.twice = highest(r, 1.8*lag, 2.2*lag)
	valley1, valley2 := lowest(r, 0.25*per, 0.8*per), lowest(r, 1.2*per, 1.8*per)
	f.contrast = f.once - valley1 + f.twice - max(valley1, valley2)
	pairs := g.pairs(int(per))
	f.noise = math.Sqrt(bartlett(r, per) / max(pairs, 1))
	f.cycles = pairs/per + 1
	f.steady = steadiness(g, int(lag+0.5), per)
	f.strength = min(1, f.once*g.variance())
	f.period = lag * g.width
	return true
}

// bartlett is the variance of an autocorrelation times the number of pairs if nothing repeats: it grows with how much
// neighbouring values are alike, which tells a cycle from noise that is merely slow.
func bartlett(r []float64, per float64) float64 {
	sum := 1.0
	for lag := 1; lag < len(r) && float64(lag) <= max(1, 0.7*per); lag++ {
		sum += 2 * r[lag] * r[lag]
	}
	return sum
}

// highest is the highest of r between two lags that has neighbours: where, by a parabola, and how high.
func highest(r []float64, lo, hi float64) (lag, top float64) {
	best := -1
	for i := max(1, int(lo+0.5)); i+1 < len(r) && float64(i) <= hi+0.5; i++ {
		if best < 0 || r[i] > r[best] {
			best = i
		}
	}
	if best < 0 {
		return 0, 0
	}
	return float64(best) + vertex(r[best-1], r[best], r[best+1]), r[best]
}

// lowest is the lowest of r between two lags, and at most 1.
func lowest(r []float64, lo, hi float64) float64 {
	low := 1.0
	for i := max(0, int(lo)); i < len(r) && float64(i) <= math.Ceil(hi); i++ {
		low = min(low, r[i])
	}
	return low
}

// steadiness asks each cycle whether it is like the next one. A repetition that a few large bursts feign is not steady.
func steadiness(g grid, lag int, per float64) float64 {
	var sum, squares, rows float64
	for begin := 0.0; int(begin+per)+lag <= len(g.values); begin += per {
		like, count := 0.0, 0.0
		for i := int(begin); i < int(begin+per); i++ {
			like += g.values[i] * g.values[i+lag]
			count += g.known[i] * g.known[i+lag]
		}
		if count < per/3 {
			continue
		}
		like /= count
		sum, squares, rows = sum+like, squares+like*like, rows+1
	}
	if rows < 2 {
		return 0
	}
	mean := sum / rows
	// One cycle more that is off by the whole variance: two that are alike by chance are no proof.
	own := g.variance()
	variance := max(0, squares/rows-mean*mean) + own*own/rows
	return mean / max(math.Sqrt(variance/(rows-1)), math.SmallestNonzeroFloat64)
}

// refine measures the period over as many cycles as it stays in step for, which is far more exact than over one.
func (f found) refine(hidden float64) float64 {
	width := max(1, f.period/(2*bins))
	g := into(f.level.values, width, 2*longest)
	if hidden > 0 {
		g.lowpass(hidden / width)
	}
	g.highpass(f.period / width)
	per, reach := f.period/width, 0.2
	for k := 1; ; k *= 2 {
		at := float64(k) * per
		if at*(1+reach) > 0.6*float64(len(g.values)) {
			break
		}
		first := max(0, int(at-reach*per)-1)
		r := g.correlations(first, int(at+reach*per)+1)
		lag, top := highest(r, 1, float64(len(r)-2))
		if top < 0.7*f.once {
			break
		}
		per = (float64(first) + lag) / float64(k)
	}
	return per * width
}
