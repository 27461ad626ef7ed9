package forecast

import (
	"math"
	"time"
)

// table holds distinct bytes by the begin of a window (bins of equal width) and its length (levels that double from base on).
type table struct {
	origin         time.Time
	bin            float64 // seconds between the begins of bins
	n              int
	wrap           bool    // bin n is bin 0 of the next cycle; else the ends last forever
	base           float64 // seconds: the window of level 0
	sub            float64 // exponent of the window's length below base
	low, mid, high face
}

// face is one end of the ranges.
type face struct {
	levels [][]float64
	// fresh is, per level and bin (or one for all), the share of the lesser half's pages that are new when two halves are put together.
	fresh [][]float64
}

// spot is where a time lies between two bins.
type spot struct {
	i, j int
	f    float64
}

func (t *table) spot(offset float64) spot {
	if t.n == 1 {
		return spot{}
	}
	x := offset / t.bin
	n := float64(t.n)
	if t.wrap {
		x -= n * math.Floor(x/n)
	}
	x = min(max(x, 0), n)
	i := min(int(x), t.n-1)
	j := i + 1
	if j == t.n {
		j = 0
		if !t.wrap {
			j = i
		}
	}
	return spot{i, j, x - float64(i)}
}

func (s spot) of(row []float64) float64 { return row[s.i] + s.f*(row[s.j]-row[s.i]) }

// get puts a window together from ones of the lengths that are known, the longest first, since the next part of a cycle may begin
// anywhere; what is shorter than the shortest is taken from it with both on logarithmic scales.
func (t *table) get(f *face, offset, window float64) float64 {
	if window <= 0 {
		return 0
	}
	if window <= t.base {
		return t.spot(offset).of(f.levels[0]) * math.Exp2(t.sub*math.Log2(window/t.base))
	}
	k := min(math.Ilogb(window/t.base), len(f.levels)-1)
	length, at := t.base*float64(int64(1)<<k), t.spot(offset)
	whole, rest := at.of(f.levels[k]), window-length
	if rest <= 0 {
		return whole
	}
	part := max(rest, length/32) // what is shorter is not worth the way down
	both := f.join(k, at, whole, t.get(f, offset+length, part), min(part/length, 1))
	if k+1 < len(f.levels) {
		both = min(both, max(at.of(f.levels[k+1]), whole))
	}
	return whole + (both-whole)*rest/part
}

// join is the pages of either of two windows that follow each other. The share of new ones that was seen is that of two windows
// of the same length; of a shorter one less is new, as it is where distinct bytes go with a power of the length.
func (f *face) join(k int, at spot, one, two, ratio float64) float64 {
	share := 1.0
	if len(f.fresh) > 0 {
		row := f.fresh[min(k, len(f.fresh)-1)]
		share = row[0]
		if len(row) > 1 {
			share = at.of(row)
		}
	}
	if ratio < 1 && share > 0 && share < 1 {
		share *= math.Exp2((1 - math.Log2(1+share)) * math.Log2(ratio))
	}
	return max(one, two) + share*min(one, two)
}

func (t *table) expect(from time.Time, window time.Duration) float64 {
	return t.get(&t.mid, from.Sub(t.origin).Seconds(), window.Seconds())
}

func (t *table) ranges(from time.Time, window time.Duration) Range {
	at, w := from.Sub(t.origin).Seconds(), window.Seconds()
	mid := t.get(&t.mid, at, w)
	return Range{min(t.get(&t.low, at, w), mid), mid, max(t.get(&t.high, at, w), mid)}
}

// grow makes the levels above level 0 by putting two halves together, with by added to the shares that are new.
func (t *table) grow(row []float64, fresh [][]float64, by float64) face {
	f := face{levels: make([][]float64, 1, len(fresh)+1)}
	f.levels[0] = row
	window := t.base
	for k, share := range fresh {
		f.fresh = append(f.fresh, shift(share, by))
		last, next := f.levels[k], make([]float64, t.n)
		for b := range next {
			at := spot{i: b, j: b}
			next[b] = f.join(k, at, last[b], t.spot(float64(b)*t.bin+window).of(last), 1)
		}
		f.levels, window = append(f.levels, next), 2*window
	}
	return f
}

func shift(row []float64, by float64) []float64 {
	if by == 0 {
		return row
	}
	out := make([]float64, len(row))
	for i, v := range row {
		out[i] = min(max(v+by, 0), 1)
	}
	return out
}
