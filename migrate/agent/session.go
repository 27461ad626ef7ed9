package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// maxRegions bounds the RAM blocks of a guest.
const maxRegions = 512

// session is one coordinator's connection at the agent: it knows the ends that were opened over it.
type session struct {
	impl Agent
	log  *slog.Logger

	mu   sync.Mutex
	last uint64
	ends map[uint64]*end
}

// end is an open source or destination of RAM or of disks, or what is exported. blocks bounds what a set may be.
type end struct {
	source   Source
	dest     Dest
	exported Exported
	diskFrom DiskSource
	diskTo   DiskDest
	blocks   []ram.Block

	mu    sync.Mutex
	calls map[*call]struct{}
}

// call is one request to an end that has not returned.
type call struct {
	ctx  context.Context
	done chan struct{}
}

// enter begins a request. It first waits for requests that the coordinator has given up, so that a cancelled Fetch has
// returned before what follows it begins, as it has without a wire in between.
func (e *end) enter(ctx context.Context) (leave func(), err error) {
	c := &call{ctx, make(chan struct{})}
	for {
		old := e.add(c)
		if old == nil {
			return func() { e.remove(c) }, nil
		}
		select {
		case <-old.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a request that was given up: %w", ctx.Err())
		}
	}
}

// add enters c, unless there is one that was given up.
func (e *end) add(c *call) (old *call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for o := range e.calls {
		if o.ctx.Err() != nil {
			return o
		}
	}
	e.calls[c] = struct{}{}
	return nil
}

func (e *end) remove(c *call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.calls, c)
	close(c.done)
}

func (s *session) register(e *end) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.calls = map[*call]struct{}{}
	s.last++
	s.ends[s.last] = e
	return s.last
}

// find gives an end; none, and no error, if it was there and is closed.
func (s *session) find(handle uint64) (*end, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if handle == 0 || handle > s.last {
		return nil, fmt.Errorf("there is no end of a migration with the number %d", handle)
	}
	return s.ends[handle], nil
}

func (s *session) forget(handle uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ends, handle)
}

// atSource runs f on an open source.
func (s *session) atSource(ctx context.Context, handle uint64, f func(*end) error) error {
	e, err := s.find(handle)
	switch {
	case err != nil:
		return err
	case e == nil || e.source == nil:
		return fmt.Errorf("the source's end of the migration: %w", ErrClosed)
	}
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return f(e)
}

// atDest runs f on an open destination.
func (s *session) atDest(ctx context.Context, handle uint64, f func(*end) error) error {
	e, err := s.find(handle)
	switch {
	case err != nil:
		return err
	case e == nil || e.dest == nil:
		return fmt.Errorf("the destination's end of the migration: %w", ErrClosed)
	}
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return f(e)
}

// blocksOf checks what a coordinator says of a guest's RAM, before anything is made of that size.
func blocksOf(regions []Region) ([]ram.Block, error) {
	if len(regions) == 0 || len(regions) > maxRegions {
		return nil, fmt.Errorf("a guest of %d RAM blocks is not one of 1 to %d", len(regions), maxRegions)
	}
	blocks, seen := make([]ram.Block, len(regions)), map[string]bool{}
	for i, r := range regions {
		if err := r.Check(); err != nil {
			return nil, err
		}
		if seen[r.Name] {
			return nil, fmt.Errorf("RAM block %q is there twice", r.Name)
		}
		seen[r.Name], blocks[i] = true, r.Block
	}
	return blocks, nil
}

func (s *session) hello(ctx context.Context, _ *empty) (*Identity, error) {
	id, err := s.impl.Hello(ctx)
	return &id, err
}

func (s *session) openSource(ctx context.Context, spec *SourceSpec) (*opened, error) {
	blocks, err := blocksOf(spec.Regions)
	if err != nil {
		return nil, err
	}
	src, err := s.impl.OpenSource(ctx, *spec)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // nobody will know that it is open
		return nil, errors.Join(ctx.Err(), src.Close(context.WithoutCancel(ctx)))
	}
	return &opened{Handle: s.register(&end{source: src, blocks: blocks})}, nil
}

func (s *session) openDest(ctx context.Context, spec *DestSpec) (*opened, error) {
	blocks, err := blocksOf(spec.Regions)
	if err != nil {
		return nil, err
	}
	dst, err := s.impl.OpenDest(ctx, *spec)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // nobody will know that it is open; with pages missing it refuses, and goes on
		return nil, errors.Join(ctx.Err(), dst.Close(context.WithoutCancel(ctx), false))
	}
	return &opened{Handle: s.register(&end{dest: dst, blocks: blocks}), Addr: dst.Addr(), Held: dst.Held()}, nil
}

func (s *session) harvest(ctx context.Context, m *ofEnd) (out *harvested, err error) {
	err = s.atSource(ctx, m.Handle, func(e *end) error {
		h, err := e.source.Harvest(ctx)
		if err != nil {
			return err
		}
		if err := h.Dirty.Fits(e.blocks); err != nil {
			return err
		}
		out = &harvested{Took: h.Took, Tracker: h.Tracker}
		out.set, err = encodeSet(h.Dirty)
		return err
	})
	return out, err
}

func (s *session) sourceStats(ctx context.Context, m *ofEnd) (out *SourceStats, err error) {
	err = s.atSource(ctx, m.Handle, func(e *end) error {
		st, err := e.source.Stats(ctx)
		out = &st
		return err
	})
	return out, err
}

func (s *session) streamUp(ctx context.Context, m *ofEnd) (*empty, error) {
	return &empty{}, s.atSource(ctx, m.Handle, func(e *end) error { return e.source.StreamUp(ctx) })
}

func (s *session) keep(ctx context.Context, m *ofEnd, tell func(Progress)) (p Progress, err error) {
	err = s.atSource(ctx, m.Handle, func(e *end) error {
		p, err = e.source.Keep(ctx, tell)
		return err
	})
	return p, err
}

func (s *session) closeSource(ctx context.Context, m *ofEnd) (*empty, error) {
	if e, err := s.find(m.Handle); err == nil && e == nil {
		return &empty{}, nil // it was closed before
	}
	return &empty{}, s.atSource(ctx, m.Handle, func(e *end) error {
		if err := e.source.Close(ctx); err != nil {
			return err
		}
		s.forget(m.Handle)
		return nil
	})
}

func (s *session) fetch(ctx context.Context, m *fetching, tell func(Progress)) (p Progress, err error) {
	err = s.atDest(ctx, m.Handle, func(e *end) error {
		set, err := decodeSet(m.set, e.blocks)
		if err != nil {
			return err
		}
		p, err = e.dest.Fetch(ctx, set, tell)
		return err
	})
	return p, err
}

func (s *session) tune(ctx context.Context, m *tuning) (*empty, error) {
	return &empty{}, s.atDest(ctx, m.Handle, func(e *end) error { return e.dest.Tune(ctx, m.Bandwidth, m.Paging) })
}

func (s *session) pass(ctx context.Context, m *fetching) (*empty, error) {
	return &empty{}, s.atDest(ctx, m.Handle, func(e *end) error {
		set, err := decodeSet(m.set, e.blocks)
		if err != nil {
			return err
		}
		return e.dest.Pass(ctx, set)
	})
}

func (s *session) doSwitch(ctx context.Context, m *switching) (*empty, error) {
	return &empty{}, s.atDest(ctx, m.Handle, func(e *end) error {
		n := len(m.setAndH) - 1
		if n < 0 {
			return errors.New("a switch without pages")
		}
		set, err := decodeSet(m.setAndH[:n], e.blocks)
		if err != nil {
			return err
		}
		hot, err := decodeRefs(m.setAndH[n], e.blocks)
		if err != nil {
			return err
		}
		return e.dest.Switch(ctx, set, hot)
	})
}

func (s *session) release(ctx context.Context, m *ofEnd) (*empty, error) {
	return &empty{}, s.atDest(ctx, m.Handle, func(e *end) error { return e.dest.Release(ctx) })
}

func (s *session) page(ctx context.Context, m *ofEnd, tell func(Progress)) (p Progress, err error) {
	err = s.atDest(ctx, m.Handle, func(e *end) error {
		p, err = e.dest.Page(ctx, tell)
		return err
	})
	return p, err
}

func (s *session) closeDest(ctx context.Context, m *closing) (*empty, error) {
	if e, err := s.find(m.Handle); err == nil && e == nil {
		return &empty{}, nil // it was closed before
	}
	return &empty{}, s.atDest(ctx, m.Handle, func(e *end) error {
		if err := e.dest.Close(ctx, m.Abandon); err != nil {
			return err
		}
		s.forget(m.Handle)
		return nil
	})
}
