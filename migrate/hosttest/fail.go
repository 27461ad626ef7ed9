package hosttest

import (
	"context"
	"errors"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func tuneMidFlight(r *run) {
	p := r.midFlight()
	r.must("tune nothing", r.Source.Tune(r.ctx, r.Name, migrate.Tuning{}))
	r.notYet(p)
	r.hurry()
	r.must("perform", r.wait(p))
	r.land()
	r.release()
}

func cancelInPerform(r *run) {
	p := r.midFlight()
	r.must("cancel", r.Source.Cancel(r.ctx, r.Name))
	if err := r.wait(p); err == nil {
		r.t.Error("Perform succeeded though it was cancelled")
	}
	r.wantHome()
	r.undoDest()
	r.wantHome()
}

// undoDest removes what Prepare made; afterwards the destination has no guest.
func (r *run) undoDest() {
	r.t.Helper()
	r.must("finish, not landed", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, false))
	r.wantRun(migrate.SideDestination, "", migrate.RunStopped)
}

func cancelIdle(r *run) {
	r.must("cancel", r.Source.Cancel(r.ctx, r.Name))
	r.must("cancel again", r.Source.Cancel(r.ctx, r.Name))
	r.wantHome()
}

// cancelAfterStartPostcopy cancels when the switch to post-copy was asked for. A driver may refuse that; then the
// migration goes on. If it does not, the guest must run at home.
func cancelAfterStartPostcopy(r *run) {
	r.p.Strategy = migrate.StrategyPostcopy
	p := r.midFlight()
	r.must("start post-copy", r.Source.StartPostcopy(r.ctx, r.Name))
	if err := r.Source.Cancel(r.ctx, r.Name); err == nil {
		_ = r.wait(p) // it may have come to its end before
		r.wantHome()
		r.undoDest()
		return
	}
	r.must("perform", r.wait(p))
	r.land()
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.release()
}

func destinationDies(r *run) {
	if r.KillDest == nil {
		r.t.Skip("the pair cannot kill its destination")
	}
	p := r.midFlight()
	r.KillDest()
	if err := r.wait(p); err == nil {
		r.t.Error("Perform succeeded without a destination")
	}
	r.wantHome()
	r.must("finish, not landed", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, false))
}

// prepareFails offers a guest that the destination cannot take.
func prepareFails(r *run) {
	offer, err := r.Source.Begin(r.ctx, r.Name, r.p)
	r.must("begin", err)
	bad := offer
	bad.XML, bad.Cookie = "this is no description of a guest", []byte("nor is this a cookie")
	if _, err := r.Dest.Prepare(r.ctx, bad, r.p); err == nil {
		r.t.Error("Prepare took an offer that means nothing")
	}
	r.must("confirm, not landed", r.Source.Confirm(r.ctx, offer, r.p, migrate.Ticket{}, false))
	r.wantHome()
}

// notLanded gives up after a Perform that succeeded, as when the commit cannot be written.
func notLanded(r *run) {
	r.copied()
	r.undoDest()
	r.must("confirm, not landed", r.Source.Confirm(r.ctx, r.offer, r.p, r.ticket, false))
	r.wantHome()
}

// secondBegin checks that a migration which was given up leaves no trace that forbids the next.
func secondBegin(r *run) {
	r.copied()
	r.undoDest()
	r.must("confirm, not landed", r.Source.Confirm(r.ctx, r.offer, r.p, r.ticket, false))
	o, err := r.Source.Begin(r.ctx, r.Name, r.p)
	r.must("begin again", err)
	r.must("confirm that too", r.Source.Confirm(r.ctx, o, r.p, migrate.Ticket{}, false))
	r.wantHome()
}

// contextEnds calls everything with a context that has ended. Nothing may hang and nothing may happen to the guest.
func contextEnds(r *run) {
	r.start()
	ctx, cancel := context.WithCancel(r.ctx)
	cancel()
	calls := map[string]func() error{
		"Facts":       func() error { _, err := r.Source.Facts(ctx); return err },
		"Domain":      func() error { _, err := r.Source.Domain(ctx, r.Name); return err },
		"State":       func() error { _, err := r.Source.State(ctx, r.Name); return err },
		"Stats":       func() error { _, err := r.Source.Stats(ctx, r.Name); return err },
		"Tune":        func() error { return r.Source.Tune(ctx, r.Name, migrate.Tuning{Bandwidth: fast}) },
		"Cancel":      func() error { return r.Source.Cancel(ctx, r.Name) },
		"Begin":       func() error { _, err := r.Source.Begin(ctx, r.Name, r.p); return err },
		"Perform":     func() error { _, err := r.Source.Perform(ctx, r.offer, r.p, r.ticket); return err },
		"Confirm":     func() error { return r.Source.Confirm(ctx, r.offer, r.p, r.ticket, true) },
		"Finish":      func() error { return r.Dest.Finish(ctx, r.offer, r.p, r.ticket, true) },
		"Release":     func() error { return r.Source.Release(ctx, r.Name, true) },
		"ResumeGuest": func() error { return r.Source.ResumeGuest(ctx, r.Name) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, context.Canceled) {
			r.t.Errorf("%s with an ended context: %v, want context.Canceled", name, err)
		}
	}
	r.must("cancel", r.Source.Cancel(r.ctx, r.Name))
	r.undoDest()
	r.wantHome()
}

// contextEndsInPerform stops waiting for a Perform. What goes on is for Cancel to end.
func contextEndsInPerform(r *run) {
	whole := r.ctx
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	r.slow()
	r.start()
	r.ctx = ctx
	p := r.perform()
	r.until("the copying is under way", func() bool {
		s, err := r.Source.Stats(whole, r.Name)
		return err == nil && s.Status == "active"
	})
	cancel()
	<-p.done
	r.ctx = whole
	r.wantErr("Perform whose context ended", p.err, context.Canceled)
	r.must("cancel", r.Source.Cancel(r.ctx, r.Name))
	r.undoDest()
	r.wantHome()
}
