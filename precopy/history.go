package precopy

import (
	"cmp"
	"slices"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// PageRef names one page.
type PageRef struct {
	Block, Page int
}

// volatileRounds in a row with a write make a page volatile.
const volatileRounds = 2

// history remembers for each page in which of the last eight rounds it was written: the highest bit is the last round.
// As a number that is how hot the page is: written later beats written more often, and among pages written in the last
// round the one that was written in the round before is hotter.
type history struct {
	rounds [][]uint8
	// touched has the pages with any bit, volatile those that were written in each of the last rounds.
	touched, volatile ram.Set
}

func newHistory(blocks []ram.Block) *history {
	h := &history{touched: ram.NewSet(blocks), volatile: ram.NewSet(blocks)}
	for _, b := range blocks {
		h.rounds = append(h.rounds, make([]uint8, b.Pages()))
	}
	return h
}

// add closes a round in which these pages were written.
func (h *history) add(dirtied ram.Set) {
	h.touched.Or(dirtied)
	h.volatile.Reset()
	const wanted = uint8(0xff << (8 - volatileRounds) & 0xff)
	for b, touched := range h.touched {
		for lo, hi := range touched.Runs() {
			for p := lo; p < hi; p++ {
				r := h.rounds[b][p] >> 1
				if dirtied[b].Test(p) {
					r |= 0x80
				}
				h.rounds[b][p] = r
				if r&wanted == wanted {
					h.volatile[b].Set(p)
				}
				if r == 0 {
					touched.Clear(p)
				}
			}
		}
	}
}

// hottest gives pages of the set that were written before, hottest first, at most limit of them.
func (h *history) hottest(of ram.Set, limit int) []PageRef {
	var levels [256]int
	h.each(of, func(_, _ int, heat uint8) { levels[heat]++ })
	cut, room := 255, limit
	for ; cut > 0 && levels[cut] <= room; cut-- {
		room -= levels[cut]
	}
	out := make([]PageRef, 0, limit-room)
	h.each(of, func(b, p int, heat uint8) {
		switch {
		case int(heat) > cut:
		case int(heat) == cut && room > 0:
			room--
		default:
			return
		}
		out = append(out, PageRef{b, p})
	})
	slices.SortStableFunc(out, func(x, y PageRef) int {
		return cmp.Compare(h.rounds[y.Block][y.Page], h.rounds[x.Block][x.Page])
	})
	return out
}

// each visits the pages of the set that were written in a round that is remembered.
func (h *history) each(of ram.Set, visit func(block, page int, heat uint8)) {
	for b, touched := range h.touched {
		for lo, hi := range touched.Runs() {
			for p := lo; p < hi; p++ {
				if of[b].Test(p) {
					visit(b, p, h.rounds[b][p])
				}
			}
		}
	}
}
