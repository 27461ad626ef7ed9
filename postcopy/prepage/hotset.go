package prepage

import "github.com/vmmigrate/vmmigrate/migrate/ram"

// hotset brings first what the source saw dirtied last: a page that was just written is likely to be touched soon.
// Faults are heard by bubbles, which share the turns with the list until it is through and have them all then. Each fault of
// a page of the list gives the list a larger share, each other fault a smaller one.
type hotset struct {
	list  []Ref
	hot   books
	at    int
	share int // of parts turns, the list's
	turn  int
	swell *bubbles
}

// parts is in how many parts the turns are shared; each side has one at least.
const parts = 8

func newHotset(blocks []ram.Block, hot []Ref) *hotset {
	h := &hotset{list: append([]Ref(nil), hot...), swell: newBubbles(true), share: parts / 2}
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
	if h.hot[block].has(page) {
		h.share = min(h.share+1, parts-1)
	} else {
		h.share = max(h.share-1, 1)
	}
}

func (h *hotset) next(left books, limit int) (Run, bool) {
	listed := h.turn*h.share%parts >= parts-h.share
	h.turn++
	if !listed {
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
