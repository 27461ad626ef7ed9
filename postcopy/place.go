package postcopy

import (
	"context"
	"errors"
	"syscall"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// placeAtOnce is how many bytes go into one call: enough to make the call itself cheap, and few enough that a thread that waits for the first
// of them, or an event that waits for the lock, does not wait for long.
const placeAtOnce = 64 << 10

// land places what was fetched for a part, as far as it is still wanted. After an error what has not landed is given back. buf
// may be changed.
func (p *Pager) land(ctx context.Context, s *space, pt part, buf []byte, holes []ram.Extent, q *quiet) error {
	size := p.cfg.Blocks[pt.block].PageSize
	clearEdges(buf, int64(pt.lo)*size, size, holes)
	hr := holeReader{holes, size}
	for try := 0; pt.lo < pt.hi; {
		n, err := p.step(s, pt, buf, &hr, q)
		if n > 0 {
			pt.lo, buf, try = pt.lo+n, buf[int64(n)*size:], 0
		}
		if again(err) {
			if n == 0 {
				try++
				if err = q.wake(); err == nil {
					err = s.calm(ctx, try)
				}
			} else {
				err = nil
			}
		}
		if err != nil {
			p.giveBack(s, pt)
			return s.forgive(err)
		}
	}
	return nil
}

// clearEdges zeroes the holes that do not cover a page as a whole: such a page has contents, too.
func clearEdges(buf []byte, base, size int64, holes []ram.Extent) {
	for _, h := range holes {
		lo, hi := max(h.Offset, base), min(h.End(), base+int64(len(buf)))
		if lo >= hi {
			continue
		}
		if rest := lo % size; rest != 0 {
			clear(buf[lo-base : min(hi, lo-rest+size)-base])
		}
		if rest := hi % size; rest != 0 {
			clear(buf[max(lo, hi-rest)-base : hi-base])
		}
	}
}

// forgive takes the end of a process that forked off for no error: nobody wants its pages any more.
func (s *space) forgive(err error) error {
	if s.root || !errors.Is(err, ErrGone) {
		return err
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.bury()
	return nil
}

// step lands the first pages of a part, all in the same way, and tells how many.
func (p *Pager) step(s *space, pt part, buf []byte, hr *holeReader, q *quiet) (int, error) {
	s.lockRead()
	defer s.unlockRead()
	size := p.cfg.Blocks[pt.block].PageSize
	pt.hi = min(pt.hi, pt.lo+int(max(1, placeAtOnce/size)))
	p.mu.Lock()
	f, end := s.books.sort(pt, hr)
	pt.hi = end
	switch f {
	case dropIt:
		s.books.drop(pt)
	case leaveHole:
		p.settle(s, pt, wasZero)
	}
	p.mu.Unlock()
	if f == dropIt || f == leaveHole {
		return pt.hi - pt.lo, nil
	}
	addr, room, ok := s.layout.addr(pt.block, pt.lo)
	if !ok {
		return 0, s.placeError("place", pt.block, 0, syscall.ENOENT)
	}
	if f == placeZero {
		if err := s.placeZeros(addr, size); err != nil {
			return 0, s.refusal("place zeros", pt.block, addr, err)
		}
		p.settleLocking(s, pt, wasZero)
		return 1, nil
	}
	pt.hi = min(pt.hi, pt.lo+room)
	return p.copyPages(s, pt, addr, buf[:int64(pt.hi-pt.lo)*size], q)
}

// copyPages places contents. A page that is there already is as good as placed.
func (p *Pager) copyPages(s *space, pt part, addr uint64, src []byte, q *quiet) (int, error) {
	size := p.cfg.Blocks[pt.block].PageSize
	n, err := s.copy(addr, src, int(size), q)
	pages := int(int64(n) / size)
	if pages > 0 {
		p.settleLocking(s, part{pt.block, pt.lo, pt.lo + pages}, wasFetched)
	}
	if errors.Is(err, syscall.EEXIST) && pages < pt.hi-pt.lo {
		at := addr + uint64(pages)*uint64(size)
		if err := s.src.Wake(at, uint64(size)); err != nil {
			return pages, s.placeError("wake", pt.block, at, err)
		}
		p.settleLocking(s, part{pt.block, pt.lo + pages, pt.lo + pages + 1}, wasPresent)
		return pages + 1, nil
	}
	if err != nil {
		return pages, s.refusal("place", pt.block, addr+uint64(n), err)
	}
	return pages, nil
}

// refusal is EAGAIN as it is, for that is no error, and explains the others.
func (s *space) refusal(op string, block int, addr uint64, err error) error {
	if again(err) {
		return err
	}
	return s.placeError(op, block, addr, err)
}

func (p *Pager) settleLocking(s *space, pt part, h how) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle(s, pt, h)
}

// settle notes that pages are local. The caller holds mu, and lay for reading.
func (p *Pager) settle(s *space, pt part, h how) {
	now := p.now()
	s.books.settle(pt, h, func(w wait) {
		p.stats.RemoteFaults++
		if w.joined {
			p.stats.JoinedFaults++
		}
		p.remote.record(now - w.since)
	})
	if h == wasFetched {
		p.stats.Bytes += int64(pt.hi-pt.lo) * p.cfg.Blocks[pt.block].PageSize
	}
	p.checkDone()
}

// giveBack returns pages that did not land: those that somebody waits for to the queue, the others to the plan.
func (p *Pager) giveBack(s *space, pt part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.books.giveBack(pt, func(r ref) {
		p.queue.push(want{s, r})
		p.wantDemand.Signal()
	})
	p.wantBulk.Signal()
}

// zeroPage is a page of zeros, for those that the kernel cannot make itself.
func (p *Pager) zeroPage(size int64) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int64(len(p.zeros)) < size {
		p.zeros = make([]byte, p.huge)
	}
	return p.zeros[:size]
}
