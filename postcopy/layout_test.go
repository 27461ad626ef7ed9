package postcopy

import (
	"math/rand/v2"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

const testPage = 4096

// place is what a model knows of one page of addresses: which page of which block, or zeros.
type place struct{ block, page int }

// A layout does what a map of addresses does, whatever is remapped and unmapped.
func TestLayoutIsAMap(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		blocks := []ram.Block{{Name: "a", Size: 40 * testPage, PageSize: testPage}, {Name: "b", Size: 25 * testPage, PageSize: testPage}}
		l := newLayout(blocks, []uint64{100 * testPage, 200 * testPage})
		model := map[uint64]place{}
		for i, b := range blocks {
			for p := range b.Pages() {
				model[uint64((i+1)*100+p)] = place{i, p}
			}
		}
		for range 30 {
			from, n := uint64(90+rng.IntN(160)), uint64(1+rng.IntN(12))
			if rng.IntN(2) == 0 {
				l.unmap(from*testPage, (from+n)*testPage)
				for a := from; a < from+n; a++ {
					delete(model, a)
				}
			} else {
				moveModel(&l, model, from, uint64(300+rng.IntN(100)), n)
			}
			checkLayout(t, &l, model)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func moveModel(l *layout, model map[uint64]place, from, to, n uint64) {
	l.move(from*testPage, to*testPage, n*testPage)
	for a := to; a < to+n; a++ {
		delete(model, a)
	}
	for a := from; a < from+n; a++ {
		if m, ok := model[a]; ok {
			model[a-from+to] = m
			model[a] = place{noBlock, 0}
		}
	}
}

func checkLayout(t *testing.T, l *layout, model map[uint64]place) {
	t.Helper()
	where := map[place]uint64{}
	for a := uint64(80); a < 420; a++ {
		m, mapped := model[a]
		block, page, ok := l.page(a*testPage + 7)
		if ok != mapped || (ok && (block != m.block || page != m.page)) {
			t.Fatalf("address page %d is %d of block %d (%t), not %+v (%t)", a, page, block, ok, m, mapped)
		}
		if mapped && m.block != noBlock {
			where[m] = a
		}
	}
	for i, b := range l.blocks {
		for p := range b.Pages() {
			addr, room, ok := l.addr(i, p)
			a, mapped := where[place{i, p}]
			if ok != mapped || (ok && addr != a*testPage) {
				t.Fatalf("page %d of block %d is at %#x (%t), not %d (%t)", p, i, addr, ok, a, mapped)
			}
			for k := range room {
				if where[place{i, p + k}] != a+uint64(k) {
					t.Fatalf("page %d of block %d has no %d pages behind it", p, i, room)
				}
			}
		}
	}
}

// Holes count for a page only where they cover it as a whole, together if need be, and the edges are cleared.
func TestHoles(t *testing.T) {
	const k = 1024
	holes := []ram.Extent{{Offset: 2 * k, Length: 2 * k}, {Offset: 4 * k, Length: k}, {Offset: 5 * k, Length: 3 * k}, {Offset: 12 * k, Length: 9 * k}}
	h := holeReader{holes, 4 * k}
	for page, want := range []bool{false, true, false, true, true, false} {
		if first, again := h.covers(page), h.covers(page); first != want || again != want {
			t.Errorf("page %d: %t", page, !want)
		}
	}
	buf := make([]byte, 24*k)
	for i := range buf {
		buf[i] = 1
	}
	clearEdges(buf, 0, 4*k, holes)
	for kib, want := range []byte{0: 1, 1: 1, 2: 0, 3: 0, 8: 1, 9: 1, 20: 0, 21: 1} {
		if kib > 3 && kib < 8 || kib > 9 && kib < 20 {
			continue // pages that are holes as a whole: what is in them is not looked at
		}
		if buf[kib*k] != want {
			t.Errorf("KiB %d: %d", kib, buf[kib*k])
		}
	}
}

func TestQueueKeepsOrder(t *testing.T) {
	var q fifo
	rng, in, out := rand.New(rand.NewPCG(1, 1)), 0, 0
	for range 5000 {
		if rng.IntN(2) == 0 {
			q.push(want{ref: ref{0, in}})
			in++
		} else if w, ok := q.pop(); ok {
			if w.page != out {
				t.Fatalf("%d came, not %d", w.page, out)
			}
			out++
		}
		if q.len() != in-out {
			t.Fatalf("length %d of %d", q.len(), in-out)
		}
	}
}
