package cycle

import "math"

// grid is values in bins of equal width, 0 where nothing is known.
type grid struct {
	values, known []float64
	width         float64
	// spread is the variance of what was in the bins before anything was taken off.
	spread float64
}

// into puts values into bins of that width (in steps, at least 1), at most so many and then the latest ones. A bin is known
// when half of it is.
func into(x []float64, width float64, limit int) grid {
	width = max(width, 1)
	n := int(float64(len(x)) / width)
	skip := max(0, n-limit)
	offset := len(x) - int(float64(n-skip)*width)
	n -= skip
	g := grid{make([]float64, n), make([]float64, n), width, 0}
	count := make([]float64, n)
	for i, v := range x[offset:] {
		b := int(float64(i) / width)
		if b >= n {
			break
		}
		count[b]++
		if !math.IsNaN(v) {
			g.values[b] += v
			g.known[b]++
		}
	}
	for b := range g.values {
		if g.known[b] == 0 || 2*g.known[b] < count[b] {
			g.values[b], g.known[b] = 0, 0
			continue
		}
		g.values[b] /= g.known[b]
		g.known[b] = 1
	}
	return g
}

// smooth gives the mean over that many bins around each one, of those that are known.
func (g grid) smooth(window float64) []float64 {
	n := len(g.values)
	sums, counts := make([]float64, n+1), make([]float64, n+1)
	for i, v := range g.values {
		sums[i+1], counts[i+1] = sums[i]+v, counts[i]+g.known[i]
	}
	half := window / 2
	whole := int(half)
	rest := half - float64(whole) - 0.5 // what the two bins at the ends count
	if rest < 0 {
		whole, rest = whole-1, rest+1
	}
	out := make([]float64, n)
	for i := range out {
		lo, hi := max(0, i-whole), min(n, i+whole+1)
		sum, count := sums[hi]-sums[lo], counts[hi]-counts[lo]
		for _, end := range []int{i - whole - 1, i + whole + 1} {
			if end >= 0 && end < n {
				sum += rest * g.values[end]
				count += rest * g.known[end]
			}
		}
		if count > 0 {
			out[i] = sum / count
		}
	}
	return out
}

// highpass takes off the mean over that many bins around each one: all that is slower, and nothing of a cycle of that length.
func (g *grid) highpass(window float64) {
	for i, mean := range g.smooth(window) {
		if g.known[i] > 0 {
			g.values[i] -= mean
		}
	}
}

// lowpass leaves that mean alone: all of a cycle of that length is gone, harmonics too.
func (g *grid) lowpass(window float64) {
	for i, mean := range g.smooth(window) {
		if g.known[i] > 0 {
			g.values[i] = mean
		}
	}
}

// variance of what is known.
func (g grid) variance() float64 {
	sum, sum2, n := 0.0, 0.0, 0.0
	for i, v := range g.values {
		if g.known[i] > 0 {
			sum += v
			sum2 += v * v
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return max(0, sum2/n-sum/n*sum/n)
}

// rounding is a variance below which values, of which the whole variance is one, are but errors of arithmetic.
const rounding = 1e-20

// correlation at a lag, of the pairs of which both are known: gaps take pairs away and change nothing else.
func (g grid) correlation(lag int) float64 {
	n := len(g.values)
	if lag < 0 || lag >= n {
		return 0
	}
	var xy, xx, yy float64
	a, b, ka, kb := g.values[:n-lag], g.values[lag:], g.known[:n-lag], g.known[lag:]
	for i, v := range a {
		w := b[i]
		xy += v * w
		xx += v * v * kb[i]
		yy += w * w * ka[i]
	}
	if min(xx, yy) <= rounding*float64(n) {
		return 0
	}
	return xy / (math.Sqrt(xx) * math.Sqrt(yy))
}

// correlations at the lags from first up to last.
func (g grid) correlations(first, last int) []float64 {
	out := make([]float64, 0, max(0, last-first+1))
	for lag := first; lag <= last; lag++ {
		out = append(out, g.correlation(lag))
	}
	return out
}

// pairs is how many pairs there are at a lag.
func (g grid) pairs(lag int) float64 {
	n := 0.0
	for i := 0; i+lag < len(g.known); i++ {
		n += g.known[i] * g.known[i+lag]
	}
	return n
}
