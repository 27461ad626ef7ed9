package libvirthost

import (
	"context"
	"errors"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// slow is a copying that does not end by itself; the guest writes faster.
const slow = 2 << 20

// until waits for a state that must come.
func (p *pair) until(ctx context.Context, what string, ok func() bool) {
	p.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("waiting until %s: %v", what, context.Cause(ctx))
		}
	}
}

// run of a side; "" if there is no such domain.
func (p *pair) runOf(ctx context.Context, h *Host) migrate.RunState {
	p.t.Helper()
	s, err := h.State(ctx, p.name)
	if err != nil && !errors.Is(err, migrate.ErrNoDomain) {
		p.t.Fatal(err)
	}
	return s.Run
}

// want fails unless the ends come to be in these states, with or without a job at the source.
func (p *pair) want(ctx context.Context, src, dst migrate.RunState, job bool) {
	p.t.Helper()
	var s migrate.GuestState
	var d migrate.RunState
	p.until(ctx, "the source is "+string(src)+" and the destination "+string(dst), func() bool {
		s, _ = p.a.State(ctx, p.name)
		d = p.runOf(ctx, p.b)
		return s.Run == src && d == dst && s.Job == job
	})
}

// way is a migration under way.
type way struct {
	*pair
	params migrate.Params
	offer  migrate.Offer
	ticket migrate.Ticket
	perf   chan error
}

func (p *pair) begin(ctx context.Context, params migrate.Params) *way {
	p.t.Helper()
	w := &way{pair: p, params: params, perf: make(chan error, 1)}
	var err error
	if w.offer, err = p.a.Begin(ctx, p.name, params); err != nil {
		p.t.Fatal(err)
	}
	return w
}

func (w *way) prepare(ctx context.Context) *way {
	w.t.Helper()
	var err error
	if w.ticket, err = w.b.Prepare(ctx, w.offer, w.params); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// performing starts Perform and returns when RAM is on its way.
func (w *way) performing(ctx context.Context) *way {
	w.t.Helper()
	go func() {
		t, err := w.a.Perform(ctx, w.offer, w.params, w.ticket)
		if err == nil {
			w.ticket = t
		}
		w.perf <- err
	}()
	w.until(ctx, "RAM is on its way", func() bool {
		s, err := w.a.Stats(ctx, w.name)
		return err == nil && s.Status == "active" && s.RAMSent != nil && *s.RAMSent > 0
	})
	return w
}

// performed waits for Perform; a post-copy is switched first.
func (w *way) performed(ctx context.Context) *way {
	w.t.Helper()
	w.performing(ctx)
	var err error
	if w.params.Strategy.Postcopy() {
		err = w.a.StartPostcopy(ctx, w.name)
	} else {
		err = w.a.Tune(ctx, w.name, migrate.Tuning{Bandwidth: 1 << 40, MaxDowntime: 5 * time.Second})
	}
	if err == nil {
		err = <-w.perf
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w
}

// finishing starts Finish and returns when the guest runs at the destination.
func (w *way) finishing(ctx context.Context) chan error {
	w.t.Helper()
	done := make(chan error, 1)
	b := w.b
	go func() { done <- b.Finish(ctx, w.offer, w.params, w.ticket, true) }()
	w.until(ctx, "the guest runs at the destination", func() bool {
		r := w.runOf(ctx, w.b)
		return r == migrate.RunRunning || r == migrate.RunPostcopy
	})
	return done
}

func (w *way) finished(ctx context.Context) *way {
	w.t.Helper()
	if err := w.b.Finish(ctx, w.offer, w.params, w.ticket, true); err != nil {
		w.t.Fatal(err)
	}
	return w
}
