package postcopy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

var (
	errAllPlaced = errors.New("all pages are placed")
	errClosed    = errors.New("the pager is closed")
)

// Run serves faults and fetches the rest until nothing is missing, unregisters all and returns nil: only then is the
// guest whole. It returns an error that wraps ErrLink when the source cannot be reached, ctx's error when that ended,
// and others when the kernel or the source refused. Pages that were missing then are missing still, and Run can be called
// again. Faults that were read meanwhile are not forgotten; those that need no network are answered between Runs, too.
func (p *Pager) Run(ctx context.Context) error {
	if err := p.enter(); err != nil {
		return err
	}
	defer p.leave()
	for {
		if err := p.fetchAll(ctx); err != nil {
			return err
		}
		done, err := p.finish(ctx)
		if done || err != nil {
			return err
		}
	}
}

// enter starts the reader at the first Run. Faults whose messages were read by a pager before this one are woken, so that they come
// again.
func (p *Pager) enter() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return errClosed
	case p.running:
		return ErrRunning
	case p.broken != nil:
		return p.broken
	}
	if !p.started {
		p.started = true
		for _, s := range p.spaces {
			if err := s.wakeAll(); err != nil {
				p.started = false
				return err
			}
			p.readers.Go(s.read)
		}
	}
	p.running = true
	p.checkDone()
	return nil
}

func (p *Pager) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
}

// fetchAll runs the workers until nothing is missing.
func (p *Pager) fetchAll(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	start := func(n int, work func(context.Context) error) {
		for range n {
			workers.Go(func() {
				if err := work(ctx); err != nil {
					cancel(err)
				}
			})
		}
	}
	near := p.begin(ctx, cancel)
	if !near {
		start(p.cfg.DemandFetches, p.demandWorker)
	}
	start(p.cfg.BulkFetches, p.bulkWorker)
	select {
	case <-ctx.Done():
	case <-p.doneCh:
		cancel(errAllPlaced)
	case <-p.brokenCh:
		cancel(p.brokenErr())
	}
	p.wakeWorkers()
	workers.Wait()
	if d := p.direct.Load(); d != nil {
		d.end()
	}
	p.end()
	if err := context.Cause(ctx); !errors.Is(err, errAllPlaced) {
		return err
	}
	return nil
}

// begin tells the readers, which serve demand faults themselves where the source is near, that they may.
func (p *Pager) begin(ctx context.Context, cancel context.CancelCauseFunc) (near bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runCtx, p.cancel = ctx, cancel
	near = p.near.Load()
	if near && p.queue.len() > 0 {
		for _, s := range p.spaces {
			_ = s.src.Interrupt() // should it fail, the next fault brings the reader here
		}
	}
	return near
}

func (p *Pager) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runCtx, p.cancel = nil, nil
}

func (p *Pager) brokenErr() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

func (p *Pager) wakeWorkers() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wantDemand.Broadcast()
	p.wantBulk.Broadcast()
}

// demandWorker fetches what somebody waits for, page by page.
func (p *Pager) demandWorker(ctx context.Context) error {
	var buf []byte
	for {
		w, ok := p.nextDemand(ctx)
		if !ok {
			return nil
		}
		if buf == nil {
			buf = make([]byte, p.demandBytes)
		}
		if err := p.serve(ctx, w, buf, nil); err != nil {
			return err
		}
	}
}

// nextDemand waits for a page that somebody waits for.
func (p *Pager) nextDemand(ctx context.Context) (want, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return want{}, false
		}
		if w, ok := p.popWanted(&p.queue); ok {
			return w, true
		}
		p.wantDemand.Wait()
	}
}

// popWanted takes the first page of a queue that is still missing.
func (p *Pager) popWanted(q *fifo) (want, bool) {
	for {
		w, ok := q.pop()
		if !ok || w.s.books.missing[w.block].Test(w.page) {
			return w, ok
		}
		w.s.books.drop(part{w.block, w.page, w.page + 1})
	}
}

// serve fetches and places a page that somebody waits for, and what goes with it.
func (p *Pager) serve(ctx context.Context, w want, buf []byte, q *quiet) error {
	p.mu.Lock()
	pt := w.s.books.around(w.block, w.page, p.cfg.Around)
	p.mu.Unlock()
	return p.bring(ctx, p.demand, w.s, pt, buf, true, q)
}

// bring fetches and places a part that is under way.
func (p *Pager) bring(ctx context.Context, from Fetcher, s *space, pt part, buf []byte, demand bool, q *quiet) error {
	b := p.cfg.Blocks[pt.block]
	off, n := int64(pt.lo)*b.PageSize, int64(pt.hi-pt.lo)*b.PageSize
	asked := p.now()
	holes, err := from.Fetch(ctx, pt.block, off, buf[:n])
	p.heard(asked, n, demand, err)
	if err != nil {
		p.giveBack(s, pt)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &FetchError{Block: b.Name, Offset: off, Length: n, Demand: demand, Err: err}
	}
	return p.land(ctx, s, pt, buf[:n], holes, q)
}

// heard takes note of how long a fetch took.
func (p *Pager) heard(asked time.Duration, n int64, demand bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	switch {
	case !demand:
		p.pace.done(now, n)
		p.wantBulk.Signal()
	case err == nil:
		p.pace.fetched(now - asked)
	}
}

// bytes is the size of a part.
func (p *Pager) bytes(pt part) int64 { return int64(pt.hi-pt.lo) * p.cfg.Blocks[pt.block].PageSize }

// bulkWorker fetches what the plan says, run by run.
func (p *Pager) bulkWorker(ctx context.Context) error {
	var buf []byte
	for {
		s, pt, ok := p.nextBulk(ctx)
		if !ok {
			return nil
		}
		if buf == nil {
			buf = make([]byte, max(p.cfg.BulkBytes, p.huge))
		}
		if err := p.bring(ctx, p.bulk, s, pt, buf, false, nil); err != nil {
			return err
		}
		if err := p.holdBack(ctx, p.bytes(pt)); err != nil {
			return err
		}
	}
}

// nextBulk waits for a run of the plan. The spaces take turns.
func (p *Pager) nextBulk(ctx context.Context) (*space, part, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return nil, part{}, false
		}
		for range p.spaces {
			p.turn++
			s := p.spaces[p.turn%len(p.spaces)]
			room := p.pace.room(p.now(), p.cfg.BulkBytes)
			if s.dead || p.hold || room == 0 {
				continue
			}
			if pt, ok := s.books.nextBulk(room); ok {
				p.pace.sent(p.bytes(pt))
				p.wantBulk.Signal() // there may be more
				return s, pt, true
			}
		}
		p.wantBulk.Wait()
	}
}

// holdBack waits until the limiter lets n bytes more pass. They have passed already: what is limited is what follows.
func (p *Pager) holdBack(ctx context.Context, n int64) error {
	l := p.cfg.Limiter
	if l == nil {
		return nil
	}
	for n > 0 {
		part := min(n, int64(l.Burst()))
		if part <= 0 { // a limiter without burst is one that does not limit
			return nil
		}
		if err := l.WaitN(ctx, int(part)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("hold the bulk back: %w", err)
		}
		n -= part
	}
	return nil
}

// serveNear lets the calling reader serve demand faults, where the source is near.
func (p *Pager) serveNear(s *space) {
	if !p.near.Load() {
		return
	}
	defer p.wakeQuiet(s) // however this ends
	for {
		p.mu.Lock()
		ctx, cancel := p.runCtx, p.cancel
		var w want
		ok := false
		if ctx != nil && ctx.Err() == nil {
			w, ok = p.popWanted(&p.queue)
		}
		more := p.queue.len() > 0
		p.mu.Unlock()
		if !ok {
			return
		}
		if s.page == nil {
			s.page, s.quiet = make([]byte, p.demandBytes), newQuiet(s)
		}
		if err := p.serveOne(ctx, s, w, more); err != nil {
			cancel(err)
			return
		}
	}
}

// serveOne serves a fault of a near source. It wakes nobody if more of them wait to be served at once.
func (p *Pager) serveOne(ctx context.Context, s *space, w want, more bool) error {
	q := s.quiet
	if !more && (q == nil || q.n == 0) {
		return p.serve(ctx, w, s.page, nil)
	}
	err := p.serve(ctx, w, s.page, q)
	if q != nil && q.n >= quietMost {
		err = errors.Join(err, q.wake())
	}
	return err
}

// wakeQuiet wakes who waits for what the reader has placed.
func (p *Pager) wakeQuiet(s *space) {
	if err := s.forgive(s.quiet.wake()); err != nil {
		p.fail(err)
	}
}

// finish unregisters all and verifies the books. It is not done when a process has forked off meanwhile that lacks pages.
func (p *Pager) finish(ctx context.Context) (done bool, err error) {
	p.mu.Lock()
	spaces := slices.Clone(p.spaces)
	p.mu.Unlock()
	for _, s := range spaces {
		if err := s.forgive(s.unregister(ctx)); err != nil {
			return false, err
		}
	}
	for _, s := range spaces { // what happened before that: a fork gives a space more
		if _, err := s.pump(); err != nil && !again(err) {
			return false, s.forgive(err)
		}
	}
	return p.verify()
}

// verify tells whether the books add up.
func (p *Pager) verify() (done bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.spaces {
		if s.books.left > 0 {
			return false, nil
		}
	}
	for _, s := range p.spaces {
		if t := s.books.tally; t.settled() != t.total || !s.books.missing.Empty() {
			return false, fmt.Errorf("%w: %+v, %d missing", ErrBooks, t, s.books.missing.Count())
		}
	}
	return true, nil
}
