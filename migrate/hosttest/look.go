package hosttest

import (
	"context"
	"errors"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func factsAreSane(r *run) {
	for _, side := range []migrate.Side{migrate.SideSource, migrate.SideDestination} {
		f, err := r.end(side).Facts(r.ctx)
		r.must("facts", err)
		if f.Driver == "" || f.Arch == "" || f.QEMUVer.Zero() || r.end(side).URI() == "" {
			r.t.Errorf("the %s's facts lack something: %+v", side, f)
		}
		if f.FreeBytes != nil && *f.FreeBytes <= 0 {
			r.t.Errorf("the %s has %d bytes of free memory", side, *f.FreeBytes)
		}
	}
	d, err := r.Source.Domain(r.ctx, r.Name)
	r.must("domain", err)
	if d.Name != r.Name || d.Memory <= 0 || d.VCPUs <= 0 || d.Machine == "" || d.Accel == "" || d.State.Run != migrate.RunRunning {
		r.t.Errorf("the guest's facts lack something: %+v", d)
	}
	if d.UUID != "" {
		again, err := r.Source.Domain(r.ctx, d.UUID)
		r.must("domain by UUID", err)
		if again.Name != d.Name {
			r.t.Errorf("by UUID it is %q", again.Name)
		}
	}
}

// unknownDomain asks for a guest that is not there, in every call that takes a name.
func unknownDomain(r *run) {
	const name = "no-such-guest"
	for _, h := range []Driver{r.Source, r.Dest} {
		_, err := h.Domain(r.ctx, name)
		r.wantErr("Domain", err, migrate.ErrNoDomain)
		_, err = h.State(r.ctx, name)
		r.wantErr("State", err, migrate.ErrNoDomain)
		r.wantErr("ResumeGuest", h.ResumeGuest(r.ctx, name), migrate.ErrNoDomain)
		r.wantErr("Release", h.Release(r.ctx, name, true), migrate.ErrNoDomain)
		r.wantErr("Discard", h.Discard(r.ctx, name), migrate.ErrNoDomain)
	}
	_, err := r.Source.Begin(r.ctx, name, r.p)
	r.wantErr("Begin", err, migrate.ErrNoDomain)
	_, err = r.Source.Stats(r.ctx, name)
	r.wantErr("Stats", err, migrate.ErrNoDomain)
	r.wantErr("Tune", r.Source.Tune(r.ctx, name, migrate.Tuning{Bandwidth: fast}), migrate.ErrNoDomain)
	r.wantErr("StartPostcopy", r.Source.StartPostcopy(r.ctx, name), migrate.ErrNoDomain)
	r.wantErr("Cancel", r.Source.Cancel(r.ctx, name), migrate.ErrNoDomain)
	r.wantErr("Pause", r.Source.Pause(r.ctx, name), migrate.ErrNoDomain)
	r.wantHome()
}

// statsBeforeDuringAfter checks that what is not known is absent, and what is known is there.
func statsBeforeDuringAfter(r *run) {
	s, err := r.Source.Stats(r.ctx, r.Name)
	r.must("stats", err)
	if s.Status != "none" || s.RAMTotal != nil || s.Downtime != nil || s.Round != nil {
		r.t.Errorf("before a migration: %+v", s)
	}
	p := r.midFlight()
	s, err = r.Source.Stats(r.ctx, r.Name)
	r.must("stats", err)
	if s.RAMTotal == nil || *s.RAMTotal <= 0 || s.RAMRemaining == nil || s.RAMSent == nil || s.Elapsed <= 0 {
		r.t.Errorf("during a migration: %+v", s)
	}
	if s.Downtime != nil || s.DiskTotal != nil || s.Throttle != nil {
		r.t.Errorf("figures that nobody can know yet: downtime %v, disks %v, throttle %v", s.Downtime, s.DiskTotal, s.Throttle)
	}
	r.hurry()
	r.must("perform", r.wait(p))
	r.must("switch", r.Source.Switch(r.ctx, r.offer, r.p))
	s, err = r.Source.Stats(r.ctx, r.Name)
	r.must("stats", err)
	if s.Status != "completed" || s.RAMSent == nil || s.Downtime == nil {
		r.t.Errorf("after a migration: %+v", s)
	}
	r.must("finish", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, true))
	r.release()
}

func closeTwice(r *run) {
	if r.Dial == nil {
		r.t.Skip("the pair cannot be dialled again")
	}
	h, err := r.Dial(r.ctx, migrate.SideSource)
	r.must("dial", err)
	events, err := h.Watch(context.Background(), r.Name)
	r.must("watch", err)
	r.must("close", h.Close())
	r.must("close again", h.Close())
	r.until("the events end", func() bool {
		select {
		case _, ok := <-events:
			return !ok
		default:
			return false
		}
	})
	if _, err := h.State(r.ctx, r.Name); !errors.Is(err, migrate.ErrLinkLost) {
		r.t.Errorf("State on a closed connection: %v, want ErrLinkLost", err)
	}
	r.wantHome()
}

// eventsInOrder checks that the pause can be measured: STOP at the source, then RESUME at the destination.
func eventsInOrder(r *run) {
	src, err := r.Source.Watch(r.ctx, r.Name)
	r.must("watch the source", err)
	dst, err := r.Dest.Watch(r.ctx, r.Name)
	r.must("watch the destination", err)
	r.copied()
	r.land()
	stop, rounds := r.next(src, migrate.EventStop)
	resume, _ := r.next(dst, migrate.EventResume)
	if r.able.Rounds && rounds == 0 {
		r.t.Error("no round was told")
	}
	if stop.Seen.IsZero() || resume.Seen.IsZero() || resume.Seen.Before(stop.Seen) {
		r.t.Errorf("STOP was seen at %v, RESUME at %v", stop.Seen, resume.Seen)
	}
	if r.able.Stamps && (stop.At.IsZero() || resume.At.IsZero() || resume.At.Before(stop.At)) {
		r.t.Errorf("STOP is stamped %v, RESUME %v", stop.At, resume.At)
	}
	r.release()
}

// next waits for an event of a kind; it also counts the rounds before it.
func (r *run) next(events <-chan migrate.GuestEvent, kind migrate.EventKind) (ev migrate.GuestEvent, rounds int) {
	r.t.Helper()
	for {
		select {
		case e, ok := <-events:
			switch {
			case !ok:
				r.t.Fatalf("the events ended before %s", kind)
			case e.Kind == kind:
				return e, rounds
			case e.Kind == migrate.EventRound:
				rounds++
			}
		case <-r.ctx.Done():
			r.t.Fatalf("no %s came", kind)
		}
	}
}

// stateInEachSituation walks through a migration and asks both ends at every step.
func stateInEachSituation(r *run) {
	r.wantRun(migrate.SideSource, migrate.RunRunning)
	r.wantRun(migrate.SideDestination, "", migrate.RunIncoming, migrate.RunStopped)
	p := r.midFlight()
	s, err := r.Source.State(r.ctx, r.Name)
	r.must("state", err)
	if s.Run != migrate.RunRunning || !s.Job {
		r.t.Errorf("the source while it copies: %+v", s)
	}
	r.wantRun(migrate.SideDestination, migrate.RunIncoming)
	r.hurry()
	r.must("perform", r.wait(p))
	r.wantRun(migrate.SideSource, migrate.RunPaused, migrate.RunMigrated)
	r.wantRun(migrate.SideDestination, migrate.RunIncoming, migrate.RunPaused)
	r.must("switch", r.Source.Switch(r.ctx, r.offer, r.p))
	r.wantRun(migrate.SideSource, migrate.RunMigrated, migrate.RunPaused)
	r.must("finish", r.Dest.Finish(r.ctx, r.offer, r.p, r.ticket, true))
	r.wantRun(migrate.SideSource, migrate.RunMigrated, migrate.RunPaused)
	r.wantRun(migrate.SideDestination, migrate.RunRunning)
	r.release()
}
