package postcopy

import (
	"context"
	"errors"
	"runtime"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

// read reads the events of a space and answers what needs no network, until halt. It waits in poll(2), in an OS thread that
// does nothing else meanwhile, so that no wake-up of the scheduler comes between the kernel and it. It is not bound to that
// thread: what needs the network is handed to a worker, which takes over the thread at once, and that costs no wake-up of
// another thread either. Measured over NBD on loopback that saves a third of what is not the round trip.
func (s *space) read() {
	var idle time.Duration // since when there was nothing to do
	events, answers := true, true
	for try := 0; !s.stopping.Load(); {
		var n int
		var err error
		if events {
			n, err = s.pump()
		}
		s.p.serveNear(s)
		if d := s.direct(); d != nil {
			d.serve(answers)
		}
		if s.handed.Swap(false) && !s.p.near.Load() {
			runtime.Gosched()
		}
		now := s.p.now()
		if n > 0 {
			idle = now
		}
		switch {
		case again(err):
			try++
			_ = s.p.pause(context.Background(), try) // the layout is changing: its thread has to come to the end of it
			continue
		case err != nil:
			s.readerFailed(err)
			return
		case n == len(s.batch) || now-idle < s.p.cfg.Spin:
			events, answers = true, true
			continue
		}
		try = 0
		if events, answers, err = s.wait(); err != nil {
			s.readerFailed(err)
			return
		}
		idle = s.p.now()
	}
}

func (s *space) readerFailed(err error) {
	if !s.root && errors.Is(err, ErrGone) {
		s.p.mu.Lock()
		defer s.p.mu.Unlock()
		s.bury()
		return
	}
	s.p.fail(err)
}

// again is whether the kernel wants its events to be read before it goes on.
func again(err error) bool { return errors.Is(err, syscall.EAGAIN) }

// pump takes a batch of messages and answers what zeros answer. It tells how many messages there were. EAGAIN says that
// some zeros could not be placed yet.
func (s *space) pump() (int, error) {
	n, err := s.take()
	if err != nil && !again(err) {
		return n, err
	}
	return n, s.flush()
}

// take reads a batch and notes it in the books.
func (s *space) take() (int, error) {
	s.lay.Lock() // without events there is nobody else, and it costs a few nanoseconds
	defer s.lay.Unlock()
	n, err := s.src.Read(s.batch)
	if n == 0 {
		return 0, err
	}
	p := s.p
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.dead {
		return 0, nil
	}
	for i := range s.batch[:n] {
		if err := s.handle(&s.batch[i], now); err != nil {
			return n, err
		}
	}
	return n, nil
}

// handle notes one message. The caller holds lay for writing and Pager.mu.
func (s *space) handle(e *fault.Event, now time.Duration) error {
	switch e.Kind {
	case sys.EventPageFault:
		return s.handleFault(e.Addr, now)
	case sys.EventRemove:
		for _, pt := range s.layout.parts(e.Start, e.End) {
			s.discard(pt, now)
			s.discardKin(pt, now)
		}
	case sys.EventUnmap:
		for _, pt := range s.layout.unmap(e.Start, e.End) {
			s.discard(pt, now)
		}
		return s.src.Wake(e.Start, e.End-e.Start)
	case sys.EventRemap:
		s.layout.move(e.From, e.To, e.Length)
		return s.src.Wake(e.From, e.Length)
	case sys.EventFork:
		return s.forked(e.FD)
	}
	return nil
}

func (s *space) handleFault(addr uint64, now time.Duration) error {
	p := s.p
	block, page, ok := s.layout.page(addr)
	switch {
	case !ok && !p.cfg.Events:
		return s.placeError("serve a fault", noBlock, addr, ErrUnknownFault)
	case block == noBlock: // what a process has grown or moved away from: the source knows nothing of it
		s.zeros = append(s.zeros, zeroFault{addr &^ (basePage - 1), noBlock, 0, now, false})
		return nil
	}
	switch s.books.fault(block, page, now) {
	case giveZeros:
		size := uint64(p.cfg.Blocks[block].PageSize)
		s.zeros = append(s.zeros, zeroFault{addr &^ (size - 1), block, page, now, false})
		return nil
	case fetchIt:
		p.pace.fault(now)
		if s.direct() != nil && p.runningLocked() != nil {
			p.fresh.push(want{s, ref{block, page}})
			break
		}
		p.queue.push(want{s, ref{block, page}})
		p.wantDemand.Signal()
		s.handed.Store(true)
	}
	if p.cfg.Trace != nil && s.root {
		p.cfg.Trace.Fault(block, page, now)
	}
	return nil
}

// discardKin notes that pages of shared memory are zeros in the other processes, too: there is one copy of them. The
// caller holds the lay that all have in common, and Pager.mu.
func (s *space) discardKin(pt part, now time.Duration) {
	if pt.block >= len(s.p.cfg.Shared) || !s.p.cfg.Shared[pt.block] {
		return
	}
	for _, kin := range s.p.spaces {
		if kin == s || kin.dead {
			continue
		}
		kin.discard(pt, now)
		if len(kin.zeros) > 0 {
			_ = kin.src.Interrupt() // its reader places them; should this fail, it does so at its next message
		}
	}
}

// discard notes that pages are zeros from now on. Who waited for one of them gets zeros.
func (s *space) discard(pt part, now time.Duration) {
	s.books.discard(pt, func(r ref, w wait) {
		if addr, _, ok := s.layout.addr(r.block, r.page); ok {
			s.zeros = append(s.zeros, zeroFault{addr, r.block, r.page, w.since, true})
		}
	})
	s.p.checkDone()
}

// flush places zeros for the faults that they answer.
func (s *space) flush() error {
	for {
		s.p.mu.Lock()
		n := len(s.zeros)
		if n == 0 {
			s.p.mu.Unlock()
			return nil
		}
		z := s.zeros[n-1]
		s.zeros = s.zeros[:n-1]
		s.p.mu.Unlock()
		err := s.zero(z)
		if err == nil {
			continue
		}
		if again(err) {
			s.p.mu.Lock()
			s.zeros = append(s.zeros, z)
			s.p.mu.Unlock()
		}
		return err
	}
}

// zero answers a fault with zeros.
func (s *space) zero(z zeroFault) error {
	s.lockRead()
	defer s.unlockRead()
	if block, page, _ := s.layout.page(z.addr); block != z.block || page != z.page {
		return s.src.Wake(z.addr, basePage) // it has moved meanwhile, so the thread has to look again
	}
	size := int64(basePage)
	if z.block != noBlock {
		size = s.p.cfg.Blocks[z.block].PageSize
	}
	if err := s.placeZeros(z.addr, size); err != nil {
		if again(err) {
			return err
		}
		if errors.Is(err, syscall.ENOENT) { // it is not watched any more, so the kernel itself answers
			return s.src.Wake(z.addr, uint64(size))
		}
		return s.placeError("place zeros", z.block, z.addr, err)
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	took := s.p.now() - z.since
	if z.remote {
		s.p.stats.RemoteFaults++
		s.p.remote.record(took)
		return nil
	}
	s.p.stats.LocalFaults++
	s.p.local.record(took)
	return nil
}

// placeZeros makes one page zeros, unless it is there. The caller holds lay, and an ENOENT is true, as it is of copy.
func (s *space) placeZeros(addr uint64, size int64) error {
	var err error
	if size == basePage {
		if _, err = s.src.ZeroPage(addr, uint64(size)); errors.Is(err, syscall.ENOENT) {
			_, err = s.src.ZeroPage(addr, uint64(size))
		}
	} else {
		_, err = s.copy(addr, s.p.zeroPage(size), int(size), nil)
	}
	if errors.Is(err, syscall.EEXIST) {
		return s.src.Wake(addr, uint64(size))
	}
	return err
}

// copy places pages of one size, and perhaps not all of them. The caller holds lay.
//
// The kernel looks for the mapping before it looks whether the layout is changing. So a call that waits while memory is
// unmapped or moved finds nothing there and says ENOENT, with the event unread. A call that begins after that says EAGAIN,
// for nobody reads events while lay is held: what says ENOENT twice is not watched, by the layout that is known. The
// second call asks for one page alone, since pages of two mappings are ENOENT, too.
func (s *space) copy(addr uint64, src []byte, size int, q *quiet) (int, error) {
	var n int
	var err error
	if q != nil && q.s == s {
		n, err = q.copy(addr, src)
	} else {
		n, err = s.src.Copy(addr, src)
	}
	if !errors.Is(err, syscall.ENOENT) {
		return n, err
	}
	more, err := s.src.Copy(addr+uint64(n), src[n:n+size])
	return n + more, err
}

// calm lets the thread that changes the layout go on: its events are read, and it is given the processor, for the longer the
// more often it was tried.
func (s *space) calm(ctx context.Context, try int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.p.cfg.Events {
		return s.p.pause(ctx, try)
	}
	n, err := s.pump()
	if err != nil && !again(err) {
		return err
	}
	if n > 0 || err != nil {
		_ = s.src.Interrupt() // the reader asks for what is wanted, and has the zeros that could not be placed yet; should this fail, it finds them at the next message
	}
	return s.p.pause(ctx, try)
}

const (
	triesAtOnce = 16
	shortPause  = 50 * time.Microsecond
)

// pause gives the processor away.
func (p *Pager) pause(ctx context.Context, try int) error {
	if try < triesAtOnce {
		runtime.Gosched()
		return nil
	}
	t := time.NewTimer(shortPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
