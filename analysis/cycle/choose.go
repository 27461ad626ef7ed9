package cycle

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// chosen is a cycle that was accepted, and the period of what was taken off to see it, in its level's steps.
type chosen struct {
	found
	hidden float64
}

// cycle measures it.
func (c chosen) cycle(step time.Duration) Cycle {
	period, drift := c.drift(c.refine(c.hidden))
	return Cycle{
		Period:     scaled(period*c.level.step, step),
		Confidence: c.confidence(),
		Strength:   c.strength,
		Drift:      drift,
	}
}

// scaled is a number of steps as a time, at least 1 ns and at most the longest that there is.
func scaled(steps float64, step time.Duration) time.Duration {
	ns := steps * float64(step)
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(1, time.Duration(ns))
}

const (
	// apart is how different two periods of one series must be.
	apart = 1.6
	// enough cycles are taken, before those that were not asked for are left out.
	enough = 4
	// faint is the share of the variance below which a cycle is of no use to anyone.
	faint = 0.02
)

// choose takes the strongest cycle, faster ones inside of it, and slower ones that stand when all of these are taken off.
func choose(all []found, o Options) []chosen {
	accepted := o.accept(all, 0)
	if len(accepted) == 0 {
		return nil
	}
	out := []chosen{{found: surest(fundamental(accepted[0], accepted, 0), accepted)}}
	for _, f := range accepted {
		if f.steps() < out[0].steps() && beside(f, out) {
			out = append(out, chosen{found: surest(f, accepted)})
		}
	}
	out = independent(out, o)
	for len(out) < enough {
		c, ok := slower(all, out, o)
		if !ok {
			break
		}
		out = append(out, c)
	}
	out = slices.DeleteFunc(slices.Clone(out), func(c chosen) bool { return c.partOf(out) })
	slices.SortStableFunc(out, func(a, b chosen) int { return cmp.Compare(b.strength, a.strength) })
	return out
}

// partOf says whether c is a harmonic of a slower one, now that faster ones can be taken off.
func (c chosen) partOf(taken []chosen) bool {
	for _, t := range taken {
		if c.hidden > 0 && t.steps() > c.steps() && c.after(t.steps()/c.level.step, c.hidden) > 1.5*c.once {
			return true
		}
	}
	return false
}

// accept are those that are sure enough and explain enough, strongest first; hidden (in steps of the series) was taken off.
func (o Options) accept(all []found, hidden float64) []found {
	out := slices.DeleteFunc(slices.Clone(all), func(f found) bool {
		return f.strength < faint || f.confidence() < o.Confidence || !f.tamed(hidden/f.level.step)
	})
	slices.SortStableFunc(out, func(a, b found) int { return cmp.Compare(b.strength, a.strength) })
	return out
}

// tamed says whether the cycle is still there when high values count for less. One that a few very high ones make by
// chance, as the loads of many guests have them, is not.
func (f found) tamed(hidden float64) bool {
	tame := *f.level
	tame.values = make([]float64, len(f.level.values))
	for i, v := range f.level.values {
		tame.values[i] = math.Asinh(3*v) / 2
	}
	again, ok := confirm(&tame, f.period, hidden)
	return ok && again.score() > 0
}

// slower is the strongest cycle that is slower than all that were taken, which are taken off before it is looked for.
func slower(all []found, taken []chosen, o Options) (chosen, bool) {
	slowest := 0.0
	for _, t := range taken {
		slowest = max(slowest, t.steps())
	}
	var again []found
	for _, f := range all {
		if f.steps() < apart*slowest {
			continue
		}
		g, ok := confirm(f.level, f.period, slowest/f.level.step)
		if ok && math.Abs(g.period/f.period-1) < 0.15 {
			again = append(again, g)
		}
	}
	again = o.accept(again, slowest)
	if len(again) == 0 {
		return chosen{}, false
	}
	best := surest(fundamental(again[0], again, slowest/again[0].level.step), again)
	return chosen{best, slowest / best.level.step}, true
}

// fundamental is the shortest period of which f's is a multiple and that explains nearly as much, or after which the series is
// as like itself: all that repeats every hour also repeats every two.
func fundamental(f found, all []found, hidden float64) found {
	best := f
	for _, g := range all {
		k := math.Round(f.steps() / g.steps())
		if k < 2 || g.steps() >= best.steps() || math.Abs(f.steps()/g.steps()/k-1) > 0.05 {
			continue
		}
		if g.strength >= 0.7*f.strength || g.strength >= 0.4*f.strength && f.after(g.steps()/f.level.step, hidden) >= 0.8*f.once {
			best = g
		}
	}
	return best
}

// surest is the candidate near f with the best score; those that are near differ by little but their luck.
func surest(f found, all []found) found {
	best := f
	for _, g := range all {
		if math.Abs(g.steps()/f.steps()-1) < 0.12 && g.score() > best.score() {
			best = g
		}
	}
	return best
}

// beside asks whether f may be a cycle of its own beside those that were taken: it is not near one, and if it is faster than
// one it is not a harmonic of it. What is like itself after a whole slow cycle, but not after a fast one, is the slow one's shape.
func beside(f found, taken []chosen) bool {
	for _, t := range taken {
		ratio := f.steps() / t.steps()
		if ratio < apart && ratio > 1/apart {
			return false
		}
		if ratio < 1 && f.after(t.steps()/f.level.step, 0) > 1.5*f.once {
			return false
		}
	}
	return true
}

// after is the autocorrelation of f's level, without what is slower than f and without what is hidden, near a lag in the
// level's steps.
func (f found) after(lag, hidden float64) float64 {
	width := max(1, f.period/bins)
	g := into(f.level.values, width, longest)
	if hidden > 0 {
		g.lowpass(hidden / width)
	}
	g.highpass(f.period / width)
	center, reach := int(lag/width), int(0.3*f.period/width)+1
	_, top := highest(g.correlations(max(0, center-reach-1), center+reach+1), 0, float64(2*reach+2))
	return top
}

// independent leaves out, from the fastest to the slowest, what does not stand once the faster ones are taken off.
func independent(taken []chosen, o Options) []chosen {
	slices.SortStableFunc(taken, func(a, b chosen) int { return cmp.Compare(a.steps(), b.steps()) })
	var out []chosen
	for _, c := range taken {
		for {
			again, stands := c.without(out, o)
			if stands {
				out = append(out, again)
				break
			}
			last := len(out) - 1
			if c.strength < 2.5*out[last].strength {
				break
			}
			out = out[:last] // the faster one was but a part of this one
		}
	}
	return out
}

// without is c once the slowest of some faster cycles is taken off, and whether enough of it is left.
func (c chosen) without(faster []chosen, o Options) (chosen, bool) {
	if len(faster) == 0 {
		return c, true
	}
	last := faster[len(faster)-1]
	hidden := last.steps() / c.level.step
	again, ok := confirm(c.level, c.period, hidden)
	if !ok || again.confidence() < o.Confidence || again.strength < faint || math.Abs(again.period/c.period-1) > 0.1 {
		return c, false
	}
	if c.strength > 2.5*last.strength && again.strength < 0.5*(c.strength-last.strength) {
		return c, false
	}
	return chosen{again, hidden}, true
}
