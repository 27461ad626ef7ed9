package cycle

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/gonum/dsp/fourier"
)

// candidates are periods at which something may repeat, in the level's steps: peaks of the spectrum, and of the autocorrelation
// octave by octave. They are cheap to have too many of, as each one is confirmed or not.
func candidates(l *level) []float64 {
	found := append(peaks(l), octaves(l)...)
	slices.Sort(found)
	var out []float64
	for _, p := range found {
		if p < l.from || p > l.to {
			continue
		}
		if len(out) == 0 || p > 1.02*out[len(out)-1] {
			out = append(out, p)
		}
	}
	return out
}

// spectrum is the power of values under a Hann window, what is missing counted as the mean: that adds a floor but moves no
// peak, where filled-in values would. The length is a power of two at least twice as long: gonum is slow with large primes.
func spectrum(x []float64) []float64 {
	n := 1
	for n < 2*len(x) {
		n *= 2
	}
	mean := average(x)
	padded := make([]float64, n)
	for i, v := range x {
		if !math.IsNaN(v) {
			padded[i] = (v - mean) * (0.5 - 0.5*math.Cos(2*math.Pi*(float64(i)+0.5)/float64(len(x))))
		}
	}
	coefficients := fourier.NewFFT(n).Coefficients(nil, padded)
	power := make([]float64, len(coefficients))
	for i, c := range coefficients {
		power[i] = real(c)*real(c) + imag(c)*imag(c)
	}
	return power
}

// plain is the power of values without a window and without padding beyond what keeps the length a product of small primes, what
// is missing counted as the mean; and that length.
func plain(x []float64) (power []float64, n int) {
	n = len(x)
	for !smooth(n) {
		n++
	}
	mean := average(x)
	padded := make([]float64, n)
	for i, v := range x {
		if !math.IsNaN(v) {
			padded[i] = v - mean
		}
	}
	coefficients := fourier.NewFFT(n).Coefficients(nil, padded)
	for _, c := range coefficients {
		power = append(power, real(c)*real(c)+imag(c)*imag(c))
	}
	return power, n
}

// smooth says whether n has no prime factor above five.
func smooth(n int) bool {
	for _, p := range []int{2, 3, 5} {
		for n%p == 0 && n > 0 {
			n /= p
		}
	}
	return n == 1
}

// peak is one of a spectrum.
type peak struct{ period, power, ratio float64 }

// peaks are the periods of those that stand out from what is around them, and of the highest.
func peaks(l *level) []float64 {
	const keep = 8
	power := spectrum(l.values)
	n := 2 * (len(power) - 1)
	var all []peak
	for k := 2; k < len(power)-1; k++ {
		if power[k] < power[k-1] || power[k] < power[k+1] || power[k] == 0 {
			continue
		}
		at := float64(k) + vertex(power[k-1], power[k], power[k+1])
		if p := float64(n) / at; p >= l.from && p <= l.to {
			all = append(all, peak{p, power[k], power[k] / around(power, k)})
		}
	}
	var out []float64
	for _, by := range []func(p peak) float64{func(p peak) float64 { return p.power }, func(p peak) float64 { return p.ratio }} {
		slices.SortStableFunc(all, func(a, b peak) int { return cmp.Compare(by(b), by(a)) })
		for _, p := range all[:min(keep, len(all))] {
			out = append(out, p.period)
		}
	}
	return out
}

// around is the background that a peak is measured against: the median of some bins of the half octave below and above it,
// those of the peak itself left out. A harmonic-rich cycle's other peaks are few of them.
func around(power []float64, k int) float64 {
	const samples = 24
	some := make([]float64, 0, 2*samples)
	lo, hi := float64(k)/math.Sqrt2, float64(k)*math.Sqrt2
	for i := range 2 * samples {
		j := int(lo + (hi-lo)*(float64(i)+0.5)/(2*samples))
		if j > 0 && j < len(power) && (j < k-4 || j > k+4) {
			some = append(some, power[j])
		}
	}
	if len(some) < 4 {
		return math.Inf(1)
	}
	slices.Sort(some)
	return max(some[len(some)/2], math.SmallestNonzeroFloat64)
}

// vertex is where the parabola through three points of which the middle one is the highest has its top, -0.5 to 0.5.
func vertex(a, b, c float64) float64 {
	d := a - 2*b + c
	if d >= 0 {
		return 0
	}
	return min(max(0.5*(a-c)/d, -0.5), 0.5)
}

// octaves are the highest peaks of the autocorrelation within each octave of periods. For each the level is put into bins of a
// sixteenth of the octave's shortest period, and what is slower than the octave is taken off first: else slow change, of which
// every long series has some, would drown what is fast.
func octaves(l *level) []float64 {
	const bins, keep = 16, 3
	var out []float64
	for low := l.from; low < l.to; low *= 2 {
		width := max(1, low/bins)
		g := into(l.values, width, most)
		g.highpass(2 * low / width)
		first, last := max(2, int(low/width*0.9)), int(math.Ceil(2*low/width*1.1))
		r := g.correlations(0, last+1)
		var all []peak
		for i := first; i <= last; i++ {
			if r[i] > 0 && r[i] >= r[i-1] && r[i] >= r[i+1] {
				all = append(all, peak{period: (float64(i) + vertex(r[i-1], r[i], r[i+1])) * width, power: r[i]})
			}
		}
		slices.SortStableFunc(all, func(a, b peak) int { return cmp.Compare(b.power, a.power) })
		for _, p := range all[:min(keep, len(all))] {
			out = append(out, p.period)
		}
	}
	return out
}
