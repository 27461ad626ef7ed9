package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Copy runs Perform and steers it until the guest stands still. When ctx ends it cancels at the source and waits for
// Perform to come back, for as long as an undo may take.
func (s *session) Copy(ctx context.Context) error {
	offer, params, ticket := s.offer, s.params(), s.ticket
	perform := &call{done: make(chan struct{}), ticket: ticket}
	s.wg.Go(func() {
		defer close(perform.done)
		t, err := s.src.Perform(s.ctx, offer, params, ticket)
		if perform.err = err; err == nil {
			perform.ticket = t
		}
	})
	if s.flusher != nil {
		s.wg.Go(func() { s.flusher.keepUp(s.ctx, perform.done) })
	}
	return s.attend(ctx, perform)
}

// attend steers a running Perform until it comes back, ctx ends, or the link moves nothing any more.
func (s *session) attend(ctx context.Context, perform *call) error {
	c := copying{pilot: s.pilot(), stall: Stall{After: s.copyStall}, start: time.Now()}
	tick := time.NewTicker(s.poll)
	defer tick.Stop()
	switched := s.switched
	for {
		select {
		case <-perform.done:
			return s.copied(perform)
		case <-switched:
			switched = nil
			s.landEarly()
		case <-ctx.Done():
			return s.abort(ctx, perform)
		case <-tick.C:
			if err := s.steer(ctx, &c); err != nil {
				return s.giveUp(err, perform)
			}
		}
	}
}

// copied turns Perform's answer into Copy's.
func (s *session) copied(perform *call) error {
	err := perform.err
	if err == nil {
		s.performed, s.ticket = true, perform.ticket
		s.landEarly() // the event that tells of the switch may come after the answer
		s.sample(s.ctx)
		return nil
	}
	if s.wasCancelled() && !s.committed {
		return migrate.Fail("copy", migrate.SideSource, fmt.Errorf("%w: %v", migrate.ErrCancelled, err), "")
	}
	return migrate.Fail("copy the guest", migrate.SideSource, err, "")
}

// abort cancels at the source after ctx ended and waits for Perform. Past the commit nothing can be cancelled: it only
// stops waiting.
func (s *session) abort(ctx context.Context, perform *call) error {
	if s.committed {
		return context.Cause(ctx)
	}
	return s.giveUp(context.Cause(ctx), perform)
}

// giveUp cancels at the source because of cause and waits for Perform. A source that does not hear it, since it waits for
// a dead link, has its connections closed, if its driver can.
func (s *session) giveUp(cause error, perform *call) error {
	undo, cancel := context.WithTimeout(s.ctx, s.undo)
	defer cancel()
	politely, stop := context.WithTimeout(undo, s.undo/6)
	defer stop()
	err := s.Cancel(politely)
	if s.comesBack(politely, perform) {
		return cause
	}
	if sv, ok := s.src.(migrate.Severer); ok && !s.p.PeerToPeer { // a daemon may be past its own commit: a post-copy would break
		s.job.Sink.Note("the source does not end the copy: its connections are closed")
		err = errors.Join(err, sv.Sever(undo, s.job.Domain, s.ticket))
		if s.comesBack(undo, perform) {
			return cause
		}
	}
	return migrate.Fail("cancel the copy", migrate.SideSource,
		fmt.Errorf("no answer within %v: %w", s.undo, errors.Join(migrate.ErrLinkLost, cause, err)), "ask both hosts: vmmigrate recover")
}

// comesBack waits for Perform until ctx ends.
func (s *session) comesBack(ctx context.Context, perform *call) bool {
	select {
	case <-perform.done:
		if s.performed = perform.err == nil; s.performed {
			s.ticket = perform.ticket
		}
		return true
	case <-ctx.Done():
		return false
	}
}

// sample reads the figures once and passes them on; a failure to read is no failure of the migration.
func (s *session) sample(ctx context.Context) (migrate.Stats, bool) {
	ctx, cancel := context.WithTimeout(ctx, 10*s.poll+time.Second)
	defer cancel()
	st, err := s.src.Stats(ctx, s.job.Domain)
	if err != nil {
		s.log.Debug("stats", "err", err)
		return st, false
	}
	s.job.Sink.Stats(st)
	return st, true
}

// copying is what is remembered from one reading of the figures to the next.
type copying struct {
	pilot *Pilot
	stall Stall
	start time.Time
	heard time.Duration // when the figures could be read last
	tuned bool          // the ramp's first step is in force
}

// steer carries out what the pilot decides. An error means that the copy must not go on.
func (s *session) steer(ctx context.Context, c *copying) error {
	st, ok := s.sample(ctx)
	at := time.Since(c.start)
	switch {
	case s.p.Resume:
		return nil
	case !ok && !s.committed && at-c.heard >= s.copyStall:
		// A QEMU whose link is cut in the switch answers no more than one whose host is gone.
		return migrate.Fail("copy the guest", migrate.SideSource,
			fmt.Errorf("%w: no answer for %v", migrate.ErrLinkLost, s.copyStall), "see that the source answers and the link between the hosts is up")
	case !ok:
		return nil
	}
	c.heard = at
	if moved, ok := movedBytes(st); ok && !s.committed && c.stall.Step(at, moved) {
		return migrate.Fail("copy the guest", migrate.SideSource,
			fmt.Errorf("%w: no byte moved for %v", migrate.ErrLinkLost, s.copyStall), "see that the link between the hosts is up")
	}
	sample := SampleOf(st)
	sample.At = at
	if st.RAMSent != nil && *st.RAMSent > 0 {
		s.flusher.begin()
	}
	if !c.tuned && sample.Round > 0 && s.p.Strategy != migrate.StrategyPostcopy {
		c.tuned = true // libvirt forgets what was set before the job began
		s.tune(ctx, c.pilot.Downtime())
	}
	for _, m := range c.pilot.Step(sample) {
		s.job.Sink.Note(m.Why)
		if m.Downtime > 0 {
			s.tune(ctx, m.Downtime)
		}
		if m.Postcopy {
			if err := s.postcopy(ctx, c.pilot); err != nil {
				return err
			}
		}
	}
	return nil
}

// postcopy commits and asks for the switch. QEMU's post-copy cannot be taken back, so the commit comes first; a commit
// that cannot be written ends the migration while the guest still runs on the source.
func (s *session) postcopy(ctx context.Context, pilot *Pilot) error {
	if s.wasCancelled() {
		return nil // Perform is about to come back
	}
	if err := s.job.Commit(ctx); err != nil {
		return migrate.Fail("write the commit", migrate.SideCoordinator, err, "")
	}
	s.committed = true
	if s.p.CopyStorage == migrate.CopyNone {
		s.landEarly()
	}
	if err := s.src.StartPostcopy(ctx, s.job.Domain); err != nil {
		s.job.Sink.Note(fmt.Sprintf("switch to post-copy refused, asked again later: %v", err))
		pilot.Refused()
	}
	return nil
}

// tune sets the pause to accept. That it cannot be set is noted and no reason to end the copy.
func (s *session) tune(ctx context.Context, pause time.Duration) {
	if err := s.src.Tune(ctx, s.job.Domain, migrate.Tuning{MaxDowntime: pause}); err != nil {
		s.job.Sink.Note(fmt.Sprintf("a pause of %v could not be set as the limit: %v", pause, err))
	}
}

// landEarly has the destination's daemon run a post-copy's guest by itself, as soon as it can and even if we die. Disks
// must have arrived by then: libvirt's Finish ends their NBD server first thing.
func (s *session) landEarly() {
	early, ok := s.dst.(migrate.EarlyFinisher)
	if ok && s.committed && s.finish == nil && early.FinishesEarly(s.p) {
		s.land()
	}
}

// movedBytes counts everything that went over the link; not ok while nothing is being sent. Disks that go before the RAM have a
// limit of their own (Params.DiskIdle), which the drivers keep, and so has one that waits for room.
func movedBytes(st migrate.Stats) (n int64, ok bool) {
	if !activeStatus(st.Status) || st.DiskTotal != nil && (st.RAMSent == nil || *st.RAMSent == 0) {
		return 0, false
	}
	for _, d := range st.Disks {
		if d.Waits != "" {
			return 0, false
		}
	}
	for _, v := range []*int64{st.RAMSent, st.DiskSent} {
		if v != nil {
			n, ok = n+*v, true
		}
	}
	return n, ok
}
