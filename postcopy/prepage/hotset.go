package prepage

import "github.com/vmmigrate/vmmigrate/migrate/ram"

// hotset brings first what the source saw dirtied last: a page that was just written is likely to be touched soon.
// Faults are heard by bubbles, which share the link with the list until it is through and have it to themselves then.
type hotset struct {
	list  []Ref
	hot   books
	at    int
	turn  bool
	swell *bubbles
}

func newHotset(blocks []ram.Block, hot []Ref) *hotset {
	h := &hotset{list: append([]Ref(nil), hot...), swell: newBubbles(true)}
	for _, b := range blocks {
		h.hot = append(h.hot, newTree(b.Pages()))
	}
	for _, r := range hot {
		h.hot[r.Block].setRange(r.Page, r.Page+1)
	}
	return h
}

func (h *hotset) fault(block, page int) {
	h.swell.fault(block, page)
	h.turn = true
}

func (h *hotset) next(left books, limit int) (Run, bool) {
	if h.turn = !h.turn; h.turn {
		if run, ok := h.swell.next(left, limit); ok {
			return run, true
		}
	}
	if run, ok := h.hottest(left, limit); ok {
		return run, true
	}
	return h.swell.next(left, limit)
}

// hottest is the run around the hottest page left, of neighbours that are hot as well.
func (h *hotset) hottest(left books, limit int) (Run, bool) {
	for ; h.at < len(h.list); h.at++ {
		r := h.list[h.at]
		l, hot := left[r.Block], h.hot[r.Block]
		if !l.has(r.Page) {
			continue
		}
		hi := min(l.runUp(r.Page, limit), hot.runUp(r.Page, limit))
		room := limit - (hi - r.Page) + 1
		lo := max(l.runDown(r.Page, room), hot.runDown(r.Page, room))
		return Run{r.Block, lo, hi}, true
	}
	return Run{}, false
}
