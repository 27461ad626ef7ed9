package hosttest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// run is one test: a pair, and how far its migration has got.
type run struct {
	*Pair
	t      *testing.T
	ctx    context.Context
	able   Abilities
	p      migrate.Params
	offer  migrate.Offer
	ticket migrate.Ticket
}

// fast is a bandwidth that no test is held up by; long is a pause that every pre-copy gets along with.
const (
	fast = 1 << 40
	long = 5 * time.Second
)

func newRun(ctx context.Context, t *testing.T, p *Pair, a Abilities) *run {
	r := &run{Pair: p, t: t, ctx: ctx, able: a, p: p.Params}
	r.p.Strategy, r.p.MaxDowntime = migrate.StrategyPrecopy, long
	r.sentry()
	return r
}

// slow makes the copying last until it is tuned.
func (r *run) slow() { r.p.Bandwidth, r.p.MaxDowntime = r.Slow, time.Millisecond }

// hurry lets a slow copying come to its end.
func (r *run) hurry() {
	r.t.Helper()
	r.must("tune", r.Source.Tune(r.ctx, r.Name, migrate.Tuning{Bandwidth: fast, BandwidthPostcopy: fast, MaxDowntime: long}))
}

func (r *run) must(what string, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%s: %v (fix: %s)", what, err, migrate.FixOf(err))
	}
}

// start opens the migration on both ends.
func (r *run) start() {
	r.t.Helper()
	var err error
	r.offer, err = r.Source.Begin(r.ctx, r.Name, r.p)
	r.must("begin", err)
	r.ticket, err = r.Dest.Prepare(r.ctx, r.offer, r.p)
	r.must("prepare", err)
	if r.Route != nil {
		r.ticket = r.Route(r.ticket)
	}
}

// performing is a Perform in the background.
type performing struct {
	done chan struct{}
	err  error
}

// perform starts Perform in the background; the test waits for it in any case.
func (r *run) perform() *performing {
	p := &performing{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		t, err := r.Source.Perform(r.ctx, r.offer, r.p, r.ticket)
		if p.err = err; err == nil {
			r.ticket = t
		}
	}()
	r.t.Cleanup(func() { <-p.done })
	return p
}

// wait waits for Perform's answer.
func (r *run) wait(p *performing) error {
	r.t.Helper()
	select {
	case <-p.done:
		return p.err
	case <-r.ctx.Done():
		r.t.Fatal("Perform does not return")
		return nil
	}
}

// copied is start and a Perform that succeeds.
func (r *run) copied() {
	r.t.Helper()
	r.start()
	r.must("perform", r.wait(r.perform()))
}

// land does what follows a Perform that succeeded.
func (r *run) land() {
	r.t.Helper()
	r.must("switch", r.Source.Switch(r.ctx, r.offer, r.p))
	r.must("finish", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, true))
}

// release confirms, after which the source must not have a guest that could run.
func (r *run) release() {
	r.t.Helper()
	r.must("confirm", r.Source.Confirm(r.ctx, r.offer, r.p, r.ticket, true))
	s, err := r.Source.State(r.ctx, r.Name)
	if err == nil && s.Run != migrate.RunStopped || err != nil && !errors.Is(err, migrate.ErrNoDomain) {
		r.t.Errorf("the source after Confirm: %+v, %v; want no domain, or a stopped one", s, err)
	}
}

// midFlight starts a slow copying and returns when RAM is on its way.
func (r *run) midFlight() *performing {
	r.t.Helper()
	r.slow()
	r.start()
	p := r.perform()
	r.until("the copying is under way", func() bool {
		select {
		case <-p.done:
			r.t.Fatalf("Perform ended at once: %v", p.err)
		default:
		}
		s, err := r.Source.Stats(r.ctx, r.Name)
		return err == nil && s.Status == "active" && s.RAMSent != nil && *s.RAMSent > 0
	})
	return p
}

// until waits for a state that must come.
func (r *run) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.t.Fatalf("waiting until %s: %v", what, r.ctx.Err())
		}
	}
}

// end gives the driver of one side.
func (r *run) end(side migrate.Side) Driver {
	if side == migrate.SideSource {
		return r.Source
	}
	return r.Dest
}

// wantRun fails unless the guest is in one of the states on a side; "" stands for no such domain.
func (r *run) wantRun(side migrate.Side, want ...migrate.RunState) {
	r.t.Helper()
	s, err := r.end(side).State(r.ctx, r.Name)
	if errors.Is(err, migrate.ErrNoDomain) {
		err = nil
	}
	r.must("state of the "+string(side), err)
	for _, w := range want {
		if s.Run == w {
			return
		}
	}
	r.t.Errorf("the %s is %q (%s), want %q", side, s.Run, s.Reason, want)
}

// wantWhole fails unless the guest's memory is whole on a side.
func (r *run) wantWhole(side migrate.Side) {
	r.t.Helper()
	if r.Verify == nil {
		return
	}
	if err := r.Verify(r.ctx, side); err != nil {
		r.t.Errorf("the guest's memory at the %s: %v", side, err)
	}
}

// wantHome fails unless the guest runs on the source, whole, and the destination has nothing of it that runs.
func (r *run) wantHome() {
	r.t.Helper()
	r.wantRun(migrate.SideSource, migrate.RunRunning)
	r.wantWhole(migrate.SideSource)
}

// wantErr fails unless err wraps want.
func (r *run) wantErr(what string, err, want error) {
	r.t.Helper()
	if !errors.Is(err, want) {
		r.t.Errorf("%s: %v, want an error that wraps %q", what, err, want)
	}
}

// wantRefused fails if a call succeeded that would have cost a guest.
func (r *run) wantRefused(what string, err error) {
	r.t.Helper()
	if err == nil {
		r.t.Errorf("%s was not refused", what)
	}
}
