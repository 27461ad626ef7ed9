package prepage

const (
	streams = 4
	// reach is how far from the last fault of a stream, in pages, a fault still belongs to it.
	reach = 4096
	// votes is how many of the last deltas are heard at most.
	votes = 32
	// stale is after how many pages in a row that are not left any more a walk is given up: it was run before.
	stale = 1024
	// firstLead and lastLead bound how many steps a walk may be ahead of the guest: it doubles with each fault that
	// proves the walk right.
	firstLead, lastLead = 16, 1024
)

// strides looks for a stride in the last faults and runs ahead of it, after Al Maruf and Chowdhury, "Effectively
// prefetching remote memory with Leap", USENIX ATC 2020: the majority of the deltas of a short window of the last faults,
// else of one twice as long. Faults are told apart by place into streams first, since several processors of a guest walk
// at once. Where there is no majority, and where a walk has left the block, bubbles take over.
type strides struct {
	all  []*stream
	turn int
	rest *bubbles
}

// stream is a walk through one block.
type stream struct {
	block, last int
	deltas      [votes]int
	n           int
	delta       int // 0 when there is no trend
	at          int // the next page to run ahead with
	lead        int // how many steps at may be ahead of last
}

func newStrides() *strides { return &strides{rest: newBubbles(true)} }

func (s *strides) fault(block, page int) {
	s.rest.fault(block, page)
	i := s.find(block, page)
	if i < 0 {
		if len(s.all) < streams {
			s.all = append(s.all, nil)
		}
		i = len(s.all) - 1
		s.all[i] = &stream{block: block, last: page}
	} else {
		s.all[i].hear(page)
	}
	toFront(s.all, i)
	s.turn = 0
}

// find is the stream whose last fault is nearest to the page, or -1 when none is within reach.
func (s *strides) find(block, page int) int {
	best, dist := -1, reach+1
	for i, w := range s.all {
		if d := distance(w.last, page); w.block == block && d < dist {
			best, dist = i, d
		}
	}
	return best
}

func distance(a, b int) int { return max(a-b, b-a) }

// hear takes a fault of this stream.
func (w *stream) hear(page int) {
	d := page - w.last
	if d == 0 {
		return
	}
	w.last = page
	if w.delta != 0 && d%w.delta == 0 && d/w.delta > 0 {
		d = w.delta // the pages between came before the guest asked for them
	}
	w.deltas[w.n%votes] = d
	w.n++
	was := w.delta
	w.delta = w.trend()
	if w.delta != was {
		w.at, w.lead = page+w.delta, firstLead
		return
	}
	if behind := (w.at-page)*w.delta <= 0; behind {
		w.at = page + w.delta
	}
	if d == w.delta {
		w.lead = min(2*w.lead, lastLead)
	}
}

// trend is the majority of the last deltas, of a window that doubles until there is one, or 0.
func (w *stream) trend() int {
	for window := 4; window <= votes; window *= 2 {
		if w.n < window {
			return 0
		}
		if d, ok := w.majority(window); ok {
			return d
		}
	}
	return 0
}

// majority is the vote of Boyer and Moore over the last deltas.
func (w *stream) majority(window int) (int, bool) {
	delta, lead := 0, 0
	for k := 1; k <= window; k++ {
		switch d := w.deltas[(w.n-k)%votes]; {
		case lead == 0:
			delta, lead = d, 1
		case d == delta:
			lead++
		default:
			lead--
		}
	}
	n := 0
	for k := 1; k <= window; k++ {
		if w.deltas[(w.n-k)%votes] == delta {
			n++
		}
	}
	return delta, 2*n > window
}

// next runs ahead of the walks in turn.
func (s *strides) next(left books, limit int) (Run, bool) {
	for range len(s.all) {
		w := s.all[s.turn%len(s.all)]
		s.turn++
		if run, ok := w.ahead(left, limit); ok {
			return run, true
		}
	}
	return s.rest.next(left, limit)
}

// ahead gives the next pages of a walk: a run where it visits neighbours, else one page.
func (w *stream) ahead(left books, limit int) (Run, bool) {
	t := left[w.block]
	end := w.last + (w.lead+1)*w.delta // the first page that is too far ahead
	switch {
	case w.delta == 0:
		return Run{}, false
	case w.delta == 1:
		if page := t.up(w.at); page >= 0 && page < end {
			run := left.runUp(w.block, page, min(limit, end-page))
			w.at = run.Hi
			return run, true
		}
		return Run{}, false
	case w.delta == -1:
		if page := t.down(w.at); page >= 0 && page > end {
			run := left.runDown(w.block, page, min(limit, page-end))
			w.at = run.Lo - 1
			return run, true
		}
		return Run{}, false
	}
	for range stale {
		if w.at < 0 || w.at >= t.pages || (end-w.at)*w.delta <= 0 {
			return Run{}, false
		}
		page := w.at
		w.at += w.delta
		if t.has(page) {
			return Run{w.block, page, page + 1}, true
		}
	}
	w.delta = 0
	return Run{}, false
}
