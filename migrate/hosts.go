package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// hosts are the two hosts of a run, replaced by new connections when the old ones are gone. It closes what it opened
// itself, at the end.
type hosts struct {
	mu     sync.Mutex
	source Host
	dest   Host
	opened []Host
	dial   func(ctx context.Context, uri string) (Host, error)
	limit  time.Duration
}

func (h *hosts) both() (source, dest Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.source, h.dest
}

func (h *hosts) get(s Side) Host {
	source, dest := h.both()
	if s == SideSource {
		return source
	}
	return dest
}

func (h *hosts) replace(s Side, n Host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened = append(h.opened, n)
	if s == SideSource {
		h.source = n
	} else {
		h.dest = n
	}
}

// ask asks both ends at the same time.
func (h *hosts) ask(ctx context.Context, source, dest string) Ends {
	var e Ends
	var wg sync.WaitGroup
	wg.Go(func() { e.Source, e.SourceErr = h.answer(ctx, SideSource, source) })
	wg.Go(func() { e.Dest, e.DestErr = h.answer(ctx, SideDestination, dest) })
	wg.Wait()
	return e
}

// answer is nil, nil where the host says that it has no such domain.
func (h *hosts) answer(ctx context.Context, s Side, name string) (*GuestState, error) {
	st, err := h.state(ctx, s, name)
	switch {
	case errors.Is(err, ErrNoDomain):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &st, nil
}

// state asks one host, and over a new connection if the one at hand does not answer.
func (h *hosts) state(ctx context.Context, s Side, name string) (GuestState, error) {
	host := h.get(s)
	var st GuestState
	err := fmt.Errorf("no connection: %w", ErrLinkLost)
	if host != nil {
		st, err = h.stateOf(ctx, host, name)
		if err == nil || errors.Is(err, ErrNoDomain) || h.dial == nil || ctx.Err() != nil {
			return st, err
		}
	}
	return h.stateAnew(ctx, s, host, name, err)
}

func (h *hosts) stateOf(ctx context.Context, host Host, name string) (GuestState, error) {
	ctx, stop := context.WithTimeout(ctx, h.limit)
	defer stop()
	return host.State(ctx, name)
}

func (h *hosts) stateAnew(ctx context.Context, s Side, old Host, name string, err error) (GuestState, error) {
	if old == nil || h.dial == nil {
		return GuestState{}, err
	}
	fresh, derr := h.dialAnew(ctx, old.URI())
	if derr != nil {
		return GuestState{}, errors.Join(err, derr)
	}
	h.replace(s, fresh)
	return h.stateOf(ctx, fresh, name)
}

func (h *hosts) dialAnew(ctx context.Context, uri string) (Host, error) {
	ctx, stop := context.WithTimeout(ctx, h.limit)
	defer stop()
	return h.dial(ctx, uri)
}

// pairOf is the connections to both hosts that a session was opened with.
type pairOf struct{ source, dest Host }

// renew makes sure that both hosts answer, dials anew where one does not, and gives the connections that do.
func (h *hosts) renew(ctx context.Context, source, dest string) (pairOf, error) {
	e := h.ask(ctx, source, dest)
	if err := errors.Join(e.SourceErr, e.DestErr); err != nil {
		return pairOf{}, fmt.Errorf("%w: %w", ErrLinkLost, err)
	}
	s, d := h.both()
	return pairOf{s, d}, nil
}

// close closes what was opened here.
func (h *hosts) close() {
	h.mu.Lock()
	opened := h.opened
	h.opened = nil
	h.mu.Unlock()
	for _, o := range opened {
		o.Close() //nolint:errcheck // nothing hangs on it any more
	}
}
