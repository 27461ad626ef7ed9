package hosttest

import "github.com/vmmigrate/vmmigrate/migrate"

func precopy(r *run) {
	r.copied()
	if runsHome(r.ctx, r.Source, r.Name) {
		r.t.Error("the guest runs on the source after Perform")
	}
	r.land()
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.wantWhole(migrate.SideDestination)
	r.release()
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
}

// severalRounds makes sure that pages which were sent are sent again.
func severalRounds(r *run) {
	p := r.midFlight()
	r.must("tune", r.Source.Tune(r.ctx, r.Name, migrate.Tuning{Bandwidth: fast}))
	r.until("a second round begins", func() bool {
		s, err := r.Source.Stats(r.ctx, r.Name)
		return err == nil && s.Round != nil && *s.Round >= 2
	})
	r.hurry()
	r.must("perform", r.wait(p))
	r.land()
	r.wantWhole(migrate.SideDestination)
	r.release()
}

// postcopy switches while the first round is under way.
func postcopy(r *run) {
	r.p.Strategy, r.p.BandwidthPostcopy = migrate.StrategyPostcopy, r.Slow
	p := r.midFlight()
	r.must("start post-copy", r.Source.StartPostcopy(r.ctx, r.Name))
	r.must("perform", r.wait(p))
	r.must("switch", r.Source.Switch(r.ctx, r.offer, r.p))
	finish := r.finishing()
	r.until("the guest runs at the destination while RAM is missing", func() bool {
		r.notYet(finish)
		s, err := r.Dest.State(r.ctx, r.Name)
		return err == nil && s.Run == migrate.RunPostcopy
	})
	r.wantRun(migrate.SideSource, migrate.RunPostcopy)
	r.wantRefused("Release in post-copy", r.Source.Release(r.ctx, r.Name, false))
	r.wantRefused("ResumeGuest of the source in post-copy", r.Source.ResumeGuest(r.ctx, r.Name))
	r.hurry()
	r.must("finish", r.wait(finish))
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.wantWhole(migrate.SideDestination)
	r.release()
}

// hybrid switches after a whole round.
func hybrid(r *run) {
	r.p.Strategy = migrate.StrategyHybrid
	p := r.midFlight()
	r.must("tune", r.Source.Tune(r.ctx, r.Name, migrate.Tuning{Bandwidth: fast}))
	r.until("a second round begins", func() bool {
		s, err := r.Source.Stats(r.ctx, r.Name)
		return err == nil && s.Round != nil && *s.Round >= 2
	})
	r.must("start post-copy", r.Source.StartPostcopy(r.ctx, r.Name))
	r.must("perform", r.wait(p))
	r.land()
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.wantWhole(migrate.SideDestination)
	r.release()
}

func suspend(r *run) {
	r.p.Suspend = true
	r.copied()
	r.land()
	r.wantRun(migrate.SideDestination, migrate.RunPaused)
	r.wantRefused("Discard of a guest that arrived", r.Dest.Discard(r.ctx, r.Name))
	r.wantWhole(migrate.SideDestination)
	r.release()
	r.wantRun(migrate.SideDestination, migrate.RunPaused)
}

// pausedGuest moves a guest that its user had paused. Nobody but the user may let it run.
func pausedGuest(r *run) {
	if r.PauseGuest == nil {
		r.t.Skip("the pair cannot pause its guest")
	}
	r.must("pause the guest", r.PauseGuest(r.ctx))
	r.copied()
	if !r.offer.Paused {
		r.t.Error("the offer does not tell that the guest was paused")
	}
	r.land()
	r.wantRun(migrate.SideDestination, migrate.RunPaused)
	r.wantWhole(migrate.SideDestination)
	r.release()
}

// finishing is Finish in the background.
func (r *run) finishing() *performing {
	p := &performing{done: make(chan struct{})}
	offer, params, ticket := r.offer, r.p, r.ticket
	go func() {
		defer close(p.done)
		p.err = r.Dest.Finish(r.ctx, offer, params, ticket, true)
	}()
	r.t.Cleanup(func() { <-p.done })
	return p
}

// notYet fails if what must still be going on has ended.
func (r *run) notYet(p *performing) {
	r.t.Helper()
	select {
	case <-p.done:
		r.t.Fatalf("it ended too early: %v", p.err)
	default:
	}
}

// recovery cuts the link of a post-copy and makes it anew.
func recovery(r *run) {
	if r.Route == nil {
		r.t.Fatal("the ability Recovery is declared, but the pair's link cannot be cut")
	}
	r.p.Strategy, r.p.BandwidthPostcopy = migrate.StrategyPostcopy, r.Slow
	p := r.midFlight()
	r.must("start post-copy", r.Source.StartPostcopy(r.ctx, r.Name))
	r.must("perform", r.wait(p))
	r.must("switch", r.Source.Switch(r.ctx, r.offer, r.p))
	finish := r.finishing()
	r.until("pages are fetched", func() bool {
		r.notYet(finish)
		s, err := r.Dest.State(r.ctx, r.Name)
		return err == nil && s.Run == migrate.RunPostcopy
	})
	r.Cut()
	err := r.wait(finish)
	r.wantErr("Finish over a cut link", err, migrate.ErrPaused)
	r.until("the source has noticed", func() bool {
		s, err := r.Source.Stats(r.ctx, r.Name)
		return err == nil && s.Status == "postcopy-paused"
	})
	r.wantRun(migrate.SideSource, migrate.RunPostcopyPaused)
	r.wantRun(migrate.SideDestination, migrate.RunPostcopyPaused)
	r.recoverOnce(false)
	r.Heal()
	r.recoverOnce(true)
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.wantWhole(migrate.SideDestination)
	r.release()
}

// recoverOnce tries to recover; over a link that is still cut it must fail as paused and change nobody's mind.
func (r *run) recoverOnce(whole bool) {
	r.t.Helper()
	r.p.Resume = true
	r.start()
	err := r.wait(r.perform())
	if !whole {
		r.wantErr("Perform over a cut link", err, migrate.ErrPaused)
		r.wantRun(migrate.SideDestination, migrate.RunPostcopyPaused)
		r.wantRefused("Cancel of a paused post-copy", r.Source.Cancel(r.ctx, r.Name))
		return
	}
	r.must("perform", err)
	r.must("switch", r.Source.Switch(r.ctx, r.offer, r.p))
	r.hurry()
	r.must("finish", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, true))
}
