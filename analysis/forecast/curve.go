package forecast

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// DefaultFresh is the share of a second half's pages that are taken for new where no windows were measured: twice the time
// writes 1.6 times as many distinct pages. The ranges go from 0.3 to 0.9.
const (
	DefaultFresh = 0.6
	freshSpread  = 0.3
	freshSeen    = 0.1 // the spread of what was measured
)

// Sources is what a Curve is made of.
type Sources struct {
	// Dirty is distinct bytes per second, of windows of one step. It may be empty where Windows are there.
	Dirty sample.Series
	// Windows are distinct bytes by the window's length; they may be empty.
	Windows sample.Windows
	// DiskWrites is bytes per second; it may be empty.
	DiskWrites sample.Series
	// Cycles is what was detected in Dirty.
	Cycles cycle.Result
	// Fresh replaces DefaultFresh: 0 to 1, negative is 0.
	Fresh float64
}

// Folded is the Curve of a guest by the part of its cycle, or of its recent level where there is none.
type Folded struct {
	dirty, disk table
	step        time.Duration
	period      time.Duration // 0: no cycle
	wobble      float64       // seconds by which a cycle's length strays
}

// Step is how finely the curve is known.
func (f *Folded) Step() time.Duration { return f.step }

// Period is the length of the cycle, as refined; 0 is none.
func (f *Folded) Period() time.Duration { return f.period }

// Dirtied implements Curve.
func (f *Folded) Dirtied(from time.Time, window time.Duration) Range {
	return f.around(&f.dirty, from, window)
}

// DiskWrites implements Curve.
func (f *Folded) DiskWrites(from time.Time, window time.Duration) Range {
	return f.around(&f.disk, from, window)
}

// stray is by how much the cycle may have come earlier or later by then.
func (f *Folded) stray(from time.Time) time.Duration {
	if f.wobble == 0 {
		return 0
	}
	ahead := from.Sub(f.dirty.origin).Seconds() / f.period.Seconds()
	if s := seconds(f.wobble * math.Sqrt(max(ahead, 0))); s > f.step {
		return min(s, f.period/4)
	}
	return 0
}

// around is what is written if the cycle comes as expected, earlier or later.
func (f *Folded) around(t *table, from time.Time, window time.Duration) Range {
	r := t.ranges(from, window)
	if s := f.stray(from); s > 0 {
		a, b := t.ranges(from.Add(-s), window), t.ranges(from.Add(s), window)
		r = Range{min(r.Low, a.Low, b.Low), (a.Expected + 2*r.Expected + b.Expected) / 4, max(r.High, a.High, b.High)}
	}
	return r
}

// expect is around's Expected.
func (f *Folded) expect(t *table, from time.Time, window time.Duration) float64 {
	v := t.expect(from, window)
	if s := f.stray(from); s > 0 {
		v = (t.expect(from.Add(-s), window) + 2*v + t.expect(from.Add(s), window)) / 4
	}
	return v
}

func (f *Folded) dirtied(from time.Time, window time.Duration) float64 {
	return f.expect(&f.dirty, from, window)
}

func (f *Folded) diskWrites(from time.Time, window time.Duration) float64 {
	return f.expect(&f.disk, from, window)
}

// NewCurve makes the curve of a guest from what was seen of it.
func NewCurve(s Sources) (*Folded, error) {
	base, err := s.base()
	if err != nil {
		return nil, err
	}
	out := &Folded{step: base.Step, period: 0}
	var p phase
	if len(s.Cycles.Cycles) > 0 && s.Cycles.Cycles[0].Period > base.Step && base.Span() >= 2*s.Cycles.Cycles[0].Period {
		var last sample.Series
		p, last = phaseOf(base, s.Cycles.Cycles)
		out.period = seconds(p.period)
		out.step, out.wobble = seconds(p.width()), p.wobble
		out.dirty = p.table(p.fold(last, 1), base.Step)
	} else {
		p = phase{anchor: base.End(), period: base.Step.Seconds(), bins: 1}
		out.dirty = p.table(recent(base, 1), base.Step)
	}
	s.widen(&out.dirty, p)
	out.disk = p.disks(s.DiskWrites)
	return out, nil
}

// base is the series of the shortest windows, in bytes per window.
func (s Sources) base() (sample.Series, error) {
	out := s.Dirty
	scale := out.Step.Seconds()
	if len(s.Windows) > 0 && s.Windows[0].Known() > 0 && covered(s.Windows[0]) >= covered(out)/2 {
		out, scale = s.Windows[0], 1
	}
	if out.Step <= 0 || out.Known() == 0 {
		return out, fmt.Errorf("the curve of a guest: %w", sample.ErrNoSamples)
	}
	for _, c := range append([]sample.Series{out, s.DiskWrites}, s.Windows...) {
		for _, v := range c.Values {
			if v < 0 || math.IsInf(v, 0) {
				return out, fmt.Errorf("the curve of a guest: %g in the series %s", v, c.Name)
			}
		}
	}
	if scale == 1 {
		return out, nil
	}
	out.Values = slices.Clone(out.Values)
	for i := range out.Values {
		out.Values[i] *= scale
	}
	return out, nil
}

// covered is how much time a series knows of.
func covered(s sample.Series) time.Duration { return time.Duration(s.Known()) * s.Step }

func level(row []float64) face { return face{levels: [][]float64{row}} }

func (p phase) table(f folded, base time.Duration) table {
	return table{
		origin: p.anchor, bin: p.width(), n: p.bins, wrap: true, base: base.Seconds(), sub: 1,
		low: level(f.low), mid: level(f.mid), high: level(f.high),
	}
}

// recent is what a guest without a cycle wrote lately: half the last few steps, half the last quarter of an hour, and between
// what was seen in the last hour.
func recent(s sample.Series, scale float64) folded {
	var parts [3][]float64
	for i, span := range []time.Duration{max(5*s.Step, 5*time.Second), max(15*time.Minute, 15*s.Step), max(time.Hour, 60*s.Step)} {
		for _, v := range s.Last(span).Values {
			if !math.IsNaN(v) {
				parts[i] = append(parts[i], v*scale)
			}
		}
	}
	if len(parts[2]) == 0 {
		for _, v := range s.Values {
			if !math.IsNaN(v) {
				parts[2] = append(parts[2], v*scale)
			}
		}
	}
	low, mid, high := middle(parts[2])
	if len(parts[1]) > 0 {
		_, mid, _ = middle(parts[1])
	}
	if len(parts[0]) > 0 {
		_, now, _ := middle(parts[0])
		mid = (mid + now) / 2
	}
	return folded{[]float64{min(low, mid)}, []float64{mid}, []float64{max(high, mid)}}
}

// widen makes the longer windows.
func (s Sources) widen(t *table, p phase) {
	below, seen := s.fresh(p, t.base)
	spread := freshSeen
	if len(seen) == 0 {
		share := s.Fresh
		if share == 0 {
			share = DefaultFresh
		}
		spread = freshSpread
		if len(below) > 0 { // what was seen of shorter windows says more of longer ones than what is assumed
			share, spread = below[len(below)-1], freshSpread/2
		}
		seen = [][]float64{{min(max(share, 0), 1)}}
	}
	for w := t.base * math.Exp2(float64(len(seen))); w < longest(t, p) && len(seen) < 24; w *= 2 {
		seen = append(seen, []float64{mean(seen[len(seen)-1])})
	}
	t.sub = (1 + math.Log2(1+mean(seen[0]))) / 2
	if len(below) > 0 {
		t.sub = math.Log2(1 + mean(below))
	}
	t.mid = t.grow(t.mid.levels[0], seen, 0)
	if t.wrap {
		t.low, t.high = t.grow(t.low.levels[0], seen, -spread), t.grow(t.high.levels[0], seen, spread)
	}
}

// average is the mean of what is known of a series; 0 where that is nothing.
func average(s sample.Series) float64 {
	sum, n := 0.0, 0.0
	for _, v := range s.Values {
		if !math.IsNaN(v) {
			sum, n = sum+v, n+1
		}
	}
	return sum / max(n, 1)
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// fresh is, per doubling of the window and part of the cycle, the share of the lesser half's pages that were new; by the measured
// windows from base on. Of those below base it is one for all parts.
func (s Sources) fresh(p phase, base float64) (below []float64, from [][]float64) {
	pool := s.growth()
	for k := 1; k < len(s.Windows); k++ {
		short, long := s.Windows[k-1], s.Windows[k]
		if short.Step <= 0 || math.Abs(long.Step.Seconds()/short.Step.Seconds()-2) > 0.02 || long.Known() == 0 {
			continue
		}
		if p.period > 2*base { // a cycle: the last ones count
			long = long.Last(seconds(p.period * maxCycles))
		}
		if short.Step.Seconds() < 0.99*base {
			below = append(below, mean(p.shares(short, long, pool)))
			continue
		}
		from = append(from, p.shares(short, long, pool))
	}
	return below, from
}

// growth is the share of new pages by which the longest windows known differ from the shortest, as if it were the same for all
// doublings between; negative where that is not known.
func (s Sources) growth() float64 {
	for k := len(s.Windows) - 1; k > 0; k-- {
		one, all := average(s.Windows[0]), average(s.Windows[k])
		if doublings := math.Log2(s.Windows[k].Step.Seconds() / s.Windows[0].Step.Seconds()); one > 0 && all > 0 && doublings >= 0.9 {
			return min(max(math.Pow(all/one, 1/doublings)-1, 0), 1)
		}
	}
	return -1
}

// pooled is how many windows of a length have to be known for what they say of it to weigh as much as what all lengths say
// together.
const pooled = 4

func (p phase) shares(short, long sample.Series, pool float64) []float64 {
	news, smalls := make([]float64, p.bins), make([]float64, p.bins)
	sumNew, sumSmall, n := 0.0, 0.0, 0.0
	for i, both := range long.Values {
		j := short.Index(long.At(i).Add(short.Step / 4))
		if math.IsNaN(both) || j < 0 || j+1 >= short.Len() || math.IsNaN(short.Values[j]+short.Values[j+1]) {
			continue
		}
		one, two := short.Values[j], short.Values[j+1]
		less := min(one, two)
		fresh := min(max(both-max(one, two), 0), less)
		b := p.binOf(long.At(i).Sub(p.anchor).Seconds())
		news[b] += fresh
		smalls[b] += less
		sumNew, sumSmall, n = sumNew+fresh, sumSmall+less, n+1
	}
	all := DefaultFresh
	switch one, two := average(short), average(long); {
	case sumSmall > 0:
		all = sumNew / sumSmall
	case one > 0 && two > 0 && pool >= 0: // who measures one window at a time has none beside each other, but many of each
		n := float64(long.Known())
		all = (n*min(max(two/one-1, 0), 1) + pooled*pool) / (n + pooled)
	}
	for b := range news {
		if smalls[b] <= 0 {
			news[b] = all
			continue
		}
		weight := sumSmall / n / 2
		news[b] = (news[b] + all*weight) / (smalls[b] + weight)
	}
	return news
}

// disks are bytes written to disks, in which every write counts.
func (p phase) disks(s sample.Series) table {
	if s.Step <= 0 || s.Known() == 0 {
		zero := level([]float64{0})
		return table{origin: p.anchor, bin: p.width(), n: 1, wrap: true, base: 1, sub: 1, low: zero, mid: zero, high: zero}
	}
	f := folded{}
	if p.bins > 1 {
		f = p.fold(s.Last(seconds(p.period*maxCycles)), s.Step.Seconds())
	} else {
		f = recent(s, s.Step.Seconds())
	}
	t := p.table(f, s.Step)
	var all [][]float64
	for w := t.base; w < max(4*p.period, 4096) && len(all) < 24; w *= 2 {
		all = append(all, []float64{1})
	}
	t.low, t.mid, t.high = t.grow(f.low, all, 0), t.grow(f.mid, all, 0), t.grow(f.high, all, 0)
	return t
}

// longest is up to which window a table is made.
func longest(t *table, p phase) float64 {
	if !t.wrap {
		return max(p.period/4, min(p.period, 4096))
	}
	return max(4*p.period, 4096)
}
