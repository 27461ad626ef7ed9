package postcopy

import "github.com/vmmigrate/vmmigrate/postcopy/fault"

// quietMost is how many faults are answered before who waits is woken: the first of them waits for the others.
const quietMost = 16

// quiet is what is placed while several threads wait: they are woken by one call, in the end. Woken one by one, they take
// the processor from the one who serves the others. It belongs to the reader of a space.
//
// Whoever else waits in the range looks again, and comes back as another message.
type quiet struct {
	s      *space
	to     fault.QuietPlacer
	lo, hi uint64
	n      int
}

// newQuiet gives nil where each placement has to wake.
func newQuiet(s *space) *quiet {
	to, ok := s.src.(fault.QuietPlacer)
	if !ok {
		return nil
	}
	return &quiet{s: s, to: to}
}

// copy places pages.
func (q *quiet) copy(addr uint64, src []byte) (int, error) {
	n, err := q.to.CopyQuiet(addr, src)
	if n > 0 {
		if q.lo == q.hi {
			q.lo, q.hi = addr, addr
		}
		q.lo, q.hi = min(q.lo, addr), max(q.hi, addr+uint64(n))
		q.n++
	}
	return n, err
}

// wake wakes who waits for what was placed.
func (q *quiet) wake() error {
	if q == nil || q.lo == q.hi {
		return nil
	}
	lo, n := q.lo, q.hi-q.lo
	q.lo, q.hi, q.n = 0, 0, 0
	if err := q.s.src.Wake(lo, n); err != nil {
		return q.s.placeError("wake", noBlock, lo, err)
	}
	return nil
}
