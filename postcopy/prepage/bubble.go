package prepage

const (
	// pivots is how many bubbles grow at once. Hines and Gopalan found about 7 best.
	pivots = 7
	// near is how far from a bubble a fault, in pages, still belongs to it.
	near = 64
)

// bubbles grows bands of pages around the pages that faulted last, after Hines and Gopalan, "Post-copy based live virtual
// machine migration using adaptive pre-paging and dynamic self-ballooning", VEE 2009, section 3.2. A fault inside or near
// a bubble moves that bubble to it; another one starts a new bubble, and the one that had no fault for the longest time
// goes. What the paper discards at a fault stays planned here: the faulting page overtakes it.
type bubbles struct {
	both bool
	// all is ordered by their last fault, the latest first.
	all  []bubble
	turn int
}

// bubble covers the pages lo up to, but not with, hi around its pivot, none of which is left, and grows at its open edges.
type bubble struct {
	block, lo, hi    int
	upOpen, downOpen bool
	turns            int
}

// newBubbles makes bubbles that grow in both directions, or only upwards.
func newBubbles(both bool) *bubbles { return &bubbles{both: both, all: make([]bubble, 0, pivots)} }

func (b *bubbles) fault(block, page int) {
	i := b.find(block, page)
	if i < 0 {
		if len(b.all) < pivots {
			b.all = b.all[:len(b.all)+1]
		}
		i = len(b.all) - 1
	}
	b.all[i] = bubble{block: block, lo: page, hi: page + 1, upOpen: true, downOpen: b.both}
	toFront(b.all, i)
	b.turn = 0
}

// find is the bubble that a page belongs to, or -1.
func (b *bubbles) find(block, page int) int {
	for i := range b.all {
		if c := &b.all[i]; c.block == block && page >= c.lo-near && page < c.hi+near {
			return i
		}
	}
	return -1
}

// next lets the bubbles grow in turn.
func (b *bubbles) next(left books, limit int) (Run, bool) {
	for range len(b.all) {
		c := &b.all[b.turn%len(b.all)]
		b.turn++
		if run, ok := b.grow(c, left, limit); ok {
			return run, true
		}
	}
	return Run{}, false
}

// grow moves an edge of one bubble: in turn, as long as both are open.
func (b *bubbles) grow(c *bubble, left books, limit int) (Run, bool) {
	for c.upOpen || c.downOpen {
		c.turns++
		if c.upOpen && (!c.downOpen || c.turns%2 == 1) {
			page := left[c.block].up(c.hi)
			if c.upOpen = page >= 0 && !b.held(c, page); c.upOpen {
				run := left.runUp(c.block, page, limit)
				c.hi = run.Hi
				return run, true
			}
			continue
		}
		page := left[c.block].down(c.lo - 1)
		if c.downOpen = page >= 0 && !b.held(c, page); c.downOpen {
			run := left.runDown(c.block, page, limit)
			c.lo = run.Lo
			return run, true
		}
	}
	return Run{}, false
}

// held is whether reaching the page means to have met another bubble and to stand at its edge, which then is its to move.
func (b *bubbles) held(c *bubble, page int) bool {
	for i := range b.all {
		d := &b.all[i]
		if d == c || d.block != c.block {
			continue
		}
		if (page >= d.hi && c.hi <= d.lo && d.upOpen) || (page < d.lo && c.lo >= d.hi && d.downOpen) {
			return true
		}
	}
	return false
}
