package cycle

import "math"

const (
	// parts that a series is cut into to see a period change, each of at least three cycles.
	parts = 12
	// sure is by how many standard errors a period must change to be called drifting.
	sure = 3.5
	// change is the least change of a period over the whole series that is worth a word, as a share of it.
	change = 0.015
)

// drift is by how much the period grows per period, 0 if that cannot be told from chance, and the mean period (in the level's
// steps) that goes with it.
func (c chosen) drift(period float64) (mean, drift float64) {
	width := max(1, period/bins)
	g := into(c.level.values, width, longest)
	if c.hidden > 0 {
		g.lowpass(c.hidden / width)
	}
	g.highpass(period / width)
	per, n := period/width, float64(len(g.values))
	slope := trend(g, per)
	if slope == 0 || math.Abs(slope)*n/per < change {
		return period, 0
	}
	per, slope = g.tune(per, slope)
	return per * width, slope
}

// trend is the slope of the period over the parts of a grid, both in bins; 0 if it is not sure.
func trend(g grid, per float64) float64 {
	n := len(g.values)
	count := min(parts, int(float64(n)/per/observed))
	if count < 4 {
		return 0
	}
	var at, length []float64
	for p := range count {
		lo, hi := p*n/count, (p+1)*n/count
		part := grid{values: g.values[lo:hi], known: g.known[lo:hi]}
		if local, ok := part.local(per); ok {
			at, length = append(at, float64(lo+hi)/2), append(length, local)
		}
	}
	slope, deviation := line(at, length)
	if len(at) < 4 || math.Abs(slope) < sure*deviation {
		return 0
	}
	return slope
}

// local is the period of a few cycles, near per: by the autocorrelation at the double if there is one, else at the period.
func (g grid) local(per float64) (float64, bool) {
	r := g.correlations(0, int(2.5*per)+1)
	lag, top := highest(r, 0.75*per, 1.25*per)
	if top < 0.2 {
		return 0, false
	}
	if twice, top := highest(r, 1.9*lag, 2.1*lag); top > 0.2 {
		return twice / 2, true
	}
	return lag, true
}

// line is the slope of the straight line through points, and its standard error.
func line(x, y []float64) (slope, deviation float64) {
	n := float64(len(x))
	if n < 3 {
		return 0, math.Inf(1)
	}
	mx, my := average(x), average(y)
	var xx, xy, yy float64
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
		yy += (y[i] - my) * (y[i] - my)
	}
	slope = xy / xx
	return slope, math.Sqrt(max(0, yy-slope*xy) / (n - 2) / xx)
}

// tune moves the mean period and its slope a little so that the cycles, each laid at its own length, fit best over one another:
// a small error of the slope grows with the square of the number of cycles.
func (g grid) tune(per, slope float64) (float64, float64) {
	cycles := float64(len(g.values)) / per
	best := g.fit(per, slope)
	reach := [2]float64{0.5 * per / cycles, 2 / cycles / cycles} // half a cycle off at the far end
	for range 5 {
		at := [2]float64{per, slope}
		for i := -4.0; i <= 4; i++ {
			for j := -4.0; j <= 4; j++ {
				p, s := at[0]+i/4*reach[0], at[1]+j/4*reach[1]
				if fit := g.fit(p, s); fit > best {
					best, per, slope = fit, p, s
				}
			}
		}
		reach[0], reach[1] = reach[0]/2.5, reach[1]/2.5
	}
	return per, slope
}

// fit is how much of the variance is in the mean cycle of that mean period and slope.
func (g grid) fit(per, slope float64) float64 {
	var sums, counts [bins]float64
	n := len(g.values)
	last := per * (1 + slope*float64(n)/per/2)
	if last <= 0 {
		return 0
	}
	for i, v := range g.values {
		if g.known[i] == 0 {
			continue
		}
		phase := -cyclesAgo((float64(n-i)-0.5)/last, slope)
		b := min(int((phase-math.Floor(phase))*bins), bins-1)
		sums[b] += v
		counts[b]++
	}
	total := 0.0
	for b, s := range sums {
		if counts[b] > 0 {
			total += s * s / counts[b]
		}
	}
	return total
}
