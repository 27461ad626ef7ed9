package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// levels of detail: as they came, minutes, five minutes.
const levels = 3

// slots in a block. A step of the next level always is a divisor of it, so that a block becomes a whole part of one.
const slots = 240

// aims are the steps that the levels above 0 come close to.
var aims = [levels]time.Duration{0, time.Minute, 5 * time.Minute}

// cell is what is known of a slot; NaN in all three when nothing is.
type cell struct{ min, mean, max float64 }

func unknown() cell { return cell{math.NaN(), math.NaN(), math.NaN()} }

func (c cell) known() bool { return !math.IsNaN(c.mean) }

type block [slots]cell

func emptyBlock() *block {
	b := new(block)
	for i := range b {
		b[i] = unknown()
	}
	return b
}

// ratios gives how many slots of the level before each level's slot has.
func ratios(step time.Duration) [levels]int64 {
	r := [levels]int64{1, 1, 1}
	for l := 1; l < levels; l++ {
		r[l] = divisorNear(float64(aims[l]) / float64(step))
		step *= time.Duration(r[l])
	}
	return r
}

// divisorNear is the divisor of slots that comes closest to that factor.
func divisorNear(want float64) int64 {
	best := int64(1)
	for d := int64(2); d <= slots; d++ {
		if slots%d == 0 && math.Abs(math.Log(want/float64(d))) < math.Abs(math.Log(want/float64(best))) {
			best = d
		}
	}
	return best
}

// reduce makes one cell of several: missing where less than half of them is known.
func reduce(cells []cell) cell {
	out, sum, known := cell{math.Inf(1), 0, math.Inf(-1)}, 0.0, 0
	for _, c := range cells {
		if c.known() {
			out.min, out.max = min(out.min, c.min), max(out.max, c.max)
			sum += c.mean
			known++
		}
	}
	if known == 0 || 2*known < len(cells) {
		return unknown()
	}
	out.mean = sum / float64(known)
	return out
}

// merge puts what is known in block n of the level before into b, which is block at, ratio slots into one.
func (b *block) merge(at, n int64, of *block, ratio int64) {
	first := n*slots/ratio - at*slots
	for i := range int64(slots) / ratio {
		if c := reduce(of[i*ratio : (i+1)*ratio]); c.known() {
			b[first+i] = c
		}
	}
}

// encode writes a block as its level has it.
func (b *block) encode(level int) []byte {
	if level == 0 {
		p := make([]byte, 0, slots*8)
		for _, c := range b {
			p = binary.LittleEndian.AppendUint64(p, math.Float64bits(c.mean))
		}
		return p
	}
	p := make([]byte, 0, slots*12)
	for _, c := range b {
		for _, v := range [3]float64{c.min, c.mean, c.max} {
			p = binary.LittleEndian.AppendUint32(p, math.Float32bits(narrow(v)))
		}
	}
	return p
}

// narrow keeps a value finite that a float32 cannot hold.
func narrow(v float64) float32 {
	return float32(max(-math.MaxFloat32, min(math.MaxFloat32, v)))
}

// decode reads what encode wrote.
func decode(level int, p []byte) (*block, error) {
	b := new(block)
	switch {
	case level == 0 && len(p) == slots*8:
		for i := range b {
			v := math.Float64frombits(binary.LittleEndian.Uint64(p[8*i:]))
			b[i] = cell{v, v, v}
		}
	case level > 0 && len(p) == slots*12:
		at := func(i int) float64 {
			return float64(math.Float32frombits(binary.LittleEndian.Uint32(p[4*i:])))
		}
		for i := range b {
			b[i] = cell{at(3 * i), at(3*i + 1), at(3*i + 2)}
		}
	default:
		return nil, fmt.Errorf("a block of %d bytes: %w", len(p), ErrDamaged)
	}
	return b, nil
}

// floorDiv rounds down, also below 0.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}
