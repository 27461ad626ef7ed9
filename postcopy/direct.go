package postcopy

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

// DirectMost is the largest page that the thread which reads faults fetches itself: others would wait for it for too long.
const DirectMost = 64 << 10

// directWay is how the reader of the guest's faults asks the source itself. The workers do what it cannot: wait for a link,
// and tell of errors.
type directWay struct {
	p   *Pager
	way Direct
	// mu is held while asks are sent, taken up and dropped. It comes before all other locks.
	mu     sync.Mutex
	idle   []*Ask
	flying []*Ask
}

// newDirect gives nil where faults have to be handed to workers.
func (p *Pager) newDirect(from Fetcher) *directWay {
	way, ok := from.(Direct)
	_, pairs := p.cfg.Faults.(fault.PairWaiter)
	if !ok || !pairs || p.demandBytes > DirectMost {
		return nil
	}
	d := &directWay{p: p, way: way}
	for range p.cfg.DemandFetches {
		d.idle = append(d.idle, &Ask{})
	}
	wake := func() { _ = p.cfg.Faults.Interrupt() } // should it fail, the next fault brings the reader here
	way.Watch(wake, d.done)
	return d
}

// running is the context of the Run that is under way, or nil when it ends.
func (p *Pager) runningLocked() context.Context {
	if p.runCtx == nil || p.runCtx.Err() != nil {
		return nil
	}
	return p.runCtx
}

// serve takes answers up and asks for what is wanted.
func (d *directWay) serve(answers bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if answers {
		d.way.Take()
	}
	for len(d.idle) > 0 {
		d.p.mu.Lock()
		w, pt, ok := d.next()
		d.p.mu.Unlock()
		if !ok {
			return
		}
		d.send(w.s, pt)
	}
}

// next is what is wanted next. The caller holds Pager.mu.
func (d *directWay) next() (want, part, bool) {
	if d.p.runningLocked() == nil {
		return want{}, part{}, false
	}
	w, ok := d.p.popWanted(&d.p.fresh)
	if !ok {
		return want{}, part{}, false
	}
	return w, w.s.books.around(w.block, w.page, d.p.cfg.Around), true
}

func (d *directWay) send(s *space, pt part) {
	a := d.idle[len(d.idle)-1]
	if a.P == nil {
		a.P = make([]byte, d.p.demandBytes)
	}
	size := d.p.cfg.Blocks[pt.block].PageSize
	a.Block, a.Offset, a.P = pt.block, int64(pt.lo)*size, a.P[:int64(pt.hi-pt.lo)*size]
	a.s, a.pt, a.asked = s, pt, d.p.now()
	if !d.way.Send(a) {
		d.p.giveBack(s, pt) // to the workers
		return
	}
	d.idle, d.flying = d.idle[:len(d.idle)-1], append(d.flying, a)
}

// done places what has come.
func (d *directWay) done(a *Ask) {
	p := d.p
	i := slices.Index(d.flying, a)
	d.flying = slices.Delete(d.flying, i, i+1)
	d.idle = append(d.idle, a)
	p.heard(a.asked, int64(len(a.P)), true, a.Err)
	p.mu.Lock()
	ctx, cancel := p.runCtx, p.cancel
	p.mu.Unlock()
	if a.Err != nil {
		p.giveBack(a.s, a.pt) // to the workers
		return
	}
	if err := p.land(ctx, a.s, a.pt, a.P, a.Holes, nil); err != nil {
		cancel(err)
	}
}

// end gives up what is under way, at the end of a Run.
func (d *directWay) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.flying {
		d.way.Drop(a)
		d.p.giveBack(a.s, a.pt)
	}
	d.idle, d.flying = append(d.idle, d.flying...), d.flying[:0]
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	for {
		w, ok := d.p.fresh.pop()
		if !ok {
			return
		}
		d.p.queue.push(w)
	}
}

// wait sleeps until there may be something to do, and tells what.
func (s *space) wait() (events, answers bool, err error) {
	d := s.direct()
	if d == nil {
		err = s.src.Wait()
		return true, true, s.interrupted(err)
	}
	fd := d.way.Descriptor()
	if fd < 0 {
		err = s.src.Wait()
		return true, true, s.interrupted(err)
	}
	events, answers, err = s.src.(fault.PairWaiter).WaitWith(fd)
	if err != nil {
		events, answers = true, true
	}
	return events, answers, s.interrupted(err)
}

func (s *space) interrupted(err error) error {
	if errors.Is(err, fault.ErrInterrupted) {
		return nil
	}
	return err
}

// direct is how the reader of the space asks by itself, or nil.
func (s *space) direct() *directWay {
	if !s.root {
		return nil
	}
	return s.p.direct.Load()
}
