package disks

import (
	"context"
	"slices"
	"sync"
)

// span is a run of bytes: those from lo up to, but not with, hi.
type span struct{ lo, hi int64 }

// spans are bytes of a disk: runs in order that neither overlap nor touch.
type spans []span

// at is the first run that ends at or after off.
func (s spans) at(off int64) int {
	i, _ := slices.BinarySearchFunc(s, off, func(r span, off int64) int {
		if r.hi < off {
			return -1
		}
		return 1
	})
	return i
}

// add puts the bytes in.
func (s *spans) add(lo, hi int64) {
	if lo >= hi {
		return
	}
	from := s.at(lo)
	to := from
	for to < len(*s) && (*s)[to].lo <= hi {
		lo, hi = min(lo, (*s)[to].lo), max(hi, (*s)[to].hi)
		to++
	}
	*s = slices.Replace(*s, from, to, span{lo, hi})
}

// remove takes the bytes out.
func (s *spans) remove(lo, hi int64) {
	if lo >= hi {
		return
	}
	from := s.at(lo)
	to := from
	var rest []span
	for ; to < len(*s) && (*s)[to].lo < hi; to++ {
		r := (*s)[to]
		if r.lo < lo {
			rest = append(rest, span{r.lo, min(r.hi, lo)})
		}
		if r.hi > hi {
			rest = append(rest, span{hi, r.hi})
		}
	}
	*s = slices.Replace(*s, from, to, rest...)
}

// gaps calls f for each run of bytes from lo up to hi that is not in, until it fails.
func (s spans) gaps(lo, hi int64, f func(lo, hi int64) error) error {
	for i := s.at(lo); lo < hi; i++ {
		end, next := hi, hi
		if i < len(s) && s[i].lo < hi {
			end, next = s[i].lo, s[i].hi
		}
		if lo < end {
			if err := f(lo, end); err != nil {
				return err
			}
		}
		lo = max(lo, next)
	}
	return nil
}

// claims are the ranges of a disk that are on their way from the source. What its QEMU mirrors meanwhile is newer, or at
// least as new: whoever reads at the source reads what the guest wrote last, and then the mirror has sent it, or will. So
// each byte that is mirrored while its range is claimed is left alone when the range arrives. What was mirrored before the
// claim is in what is read afterwards.
type claims struct {
	mu   sync.Mutex
	open map[*claim]struct{}
}

// claim is a range that is on its way. busy holds a token while somebody writes what came, or notes what is newer.
type claim struct {
	all    *claims
	lo, hi int64
	busy   chan struct{}
	newer  spans
}

// take claims a range. It has to be done before the source is asked for it, and ended by drop.
func (c *claims) take(lo, hi int64) *claim {
	k := &claim{all: c, lo: lo, hi: hi, busy: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*claim]struct{}{}
	}
	c.open[k] = struct{}{}
	return k
}

// drop ends a claim.
func (k *claim) drop() {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	delete(k.all.open, k)
}

// newer notes that a range is about to be written by the mirror: after it nobody writes older bytes there. It waits for who
// is at it.
func (c *claims) newer(ctx context.Context, lo, hi int64) error {
	for _, k := range c.touched(lo, hi) {
		if err := k.lock(ctx); err != nil {
			return err
		}
		k.newer.add(max(lo, k.lo), min(hi, k.hi))
		k.unlock()
	}
	return nil
}

func (c *claims) touched(lo, hi int64) (out []*claim) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.open {
		if k.lo < hi && lo < k.hi {
			out = append(out, k)
		}
	}
	return out
}

// put calls write for each run of bytes of the claim that nothing newer was written to, and holds those back that come for
// the claim meanwhile.
func (k *claim) put(ctx context.Context, write func(lo, hi int64) error) error {
	if err := k.lock(ctx); err != nil {
		return err
	}
	defer k.unlock()
	return k.newer.gaps(k.lo, k.hi, write)
}

func (k *claim) lock(ctx context.Context) error {
	select {
	case k.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *claim) unlock() { <-k.busy }
