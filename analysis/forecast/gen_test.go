package forecast

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const mib = 1 << 20

// part of a cycle: so many writes a second, each to a page of a set of that size.
type part struct {
	lasts      float64 // seconds
	rate, hot  float64 // bytes/s, bytes
	diskWrites float64
}

// workload is a guest whose distinct bytes are known in closed form: each part of the cycle has a set of pages of its own, and
// writes hit it evenly.
type workload []part

func (w workload) period() float64 {
	sum := 0.0
	for _, p := range w {
		sum += p.lasts
	}
	return sum
}

// distinct bytes within a window, from seconds after begin.
func (w workload) distinct(from, window float64) float64 {
	sum := 0.0
	for i := range w {
		sum += w[i].hot * (1 - math.Exp(-w[i].rate*w.spent(i, from, window)/w[i].hot))
	}
	return sum
}

// spent is how many seconds of the window lie in part i.
func (w workload) spent(i int, from, window float64) float64 {
	upTo := func(t float64) float64 {
		n := math.Floor(t / w.period())
		rest, before := t-n*w.period(), 0.0
		for _, p := range w[:i] {
			before += p.lasts
		}
		return n*w[i].lasts + min(max(rest-before, 0), w[i].lasts)
	}
	return upTo(from+window) - upTo(from)
}

// Dirtied implements Curve: what is true.
func (w workload) Dirtied(from time.Time, window time.Duration) Range {
	v := w.distinct(from.Sub(begin).Seconds(), window.Seconds())
	return Range{v, v, v}
}

// DiskWrites implements Curve.
func (w workload) DiskWrites(from time.Time, window time.Duration) Range {
	sum := 0.0
	for i, p := range w {
		sum += p.diskWrites * w.spent(i, from.Sub(begin).Seconds(), window.Seconds())
	}
	return Range{sum, sum, sum}
}

// sources samples it for so long, each sample off by a relative error of that deviation.
func (w workload) sources(span time.Duration, noise float64, seed uint64) Sources {
	r := rand.New(rand.NewPCG(seed, 5))
	out := Sources{Dirty: sample.Series{Name: "dirty", Start: begin, Step: time.Second}}
	for step := time.Second; step <= 64*time.Second; step *= 2 {
		s := sample.Series{Name: "dirty", Start: begin, Step: step}
		for at := time.Duration(0); at+step <= span; at += step {
			v := w.distinct(at.Seconds(), step.Seconds()) * math.Exp(noise*r.NormFloat64())
			s.Values = append(s.Values, v)
		}
		out.Windows = append(out.Windows, s)
	}
	out.Dirty.Values = out.Windows[0].Values
	out.DiskWrites = sample.Series{Name: "disk-writes", Start: begin, Step: time.Second}
	for at := time.Duration(0); at < span; at += time.Second {
		out.DiskWrites.Values = append(out.DiskWrites.Values, w.DiskWrites(begin.Add(at), time.Second).Expected)
	}
	return out
}
