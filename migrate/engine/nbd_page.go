package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Resume waits until the destination runs the guest; it was told to at the end of Copy. QEMU may need pages for that.
func (s *nbdSession) Resume(ctx context.Context) error {
	if s.p.Resume {
		return ctx.Err() // it ran before
	}
	if s.finish == nil {
		return errors.New("resume: the guest was not handed over")
	}
	runs := s.resumed
	if s.p.Suspend || s.offer.Paused {
		runs = nil // no RESUME will come
	}
	if s.dest != nil && s.strategy.Postcopy() {
		defer s.keepServed(ctx)()
	}
	select {
	case <-s.finish.done:
		return migrate.Fail("start the guest", migrate.SideDestination, s.finish.err, "")
	case <-runs:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Page waits for the rest of the RAM and for disks that come after the guest, and for the destination's driver to be done with its part. That may need some of the
// RAM: a QEMU whose main loop waits for a page answers nobody.
func (s *nbdSession) Page(ctx context.Context) error {
	if s.later == nil {
		return s.pageRAM(ctx)
	}
	beside, stop := context.WithCancel(ctx)
	defer stop()
	disks := s.run(func(context.Context) error { return s.later.page(beside) })
	err := s.pageRAM(ctx)
	if err != nil {
		stop()
	}
	<-disks.done
	if err == nil {
		err = disks.err
	}
	return err
}

func (s *nbdSession) pageRAM(ctx context.Context) error {
	if s.dest == nil {
		return errors.New("page: the destination's end is not open")
	}
	s.figures.paging()
	if s.p.Resume {
		s.figures.cutShort()
	}
	err := s.pageIn(ctx)
	if err == nil {
		err = s.landed(ctx)
	}
	switch {
	case s.notLanded() != nil:
		return migrate.Fail("start the guest", migrate.SideDestination, s.notLanded(), "")
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		if !s.p.Resume && s.source != nil {
			s.lateWrites(ctx)
		}
		return nil
	}
	if errors.Is(err, migrate.ErrNoDomain) { // there is nobody to wait for pages, so both ends are asked
		return migrate.Fail("fetch the rest of the RAM", migrate.SideDestination, err, "")
	}
	if !errors.Is(err, migrate.ErrPaused) { // an agent that is gone leaves the guest waiting, and another can go on
		err = fmt.Errorf("%w: %w", migrate.ErrPaused, err)
	}
	return migrate.Fail("fetch the rest of the RAM", migrate.SideDestination, err,
		"the guest waits at the destination until the link is back; vmmigrate recover goes on later")
}

// Recover takes the paging up again: with the agents that are there, once they hear each other again, or else with new
// ones, which find out from the guest's RAM what is missing.
func (s *nbdSession) Recover(ctx context.Context) error {
	err := s.recoverRAM(ctx)
	if err == nil && s.later != nil {
		err = s.later.recover(ctx)
	}
	return err
}

// Brings implements migrate.Bringer.
func (s *nbdSession) Brings() bool { return true }

func (s *nbdSession) recoverRAM(ctx context.Context) error {
	if s.dest != nil && s.source != nil && !s.silent && time.Since(s.recovered) > recoverApart && s.agentsAnswer(ctx) {
		err := s.linkBack(ctx)
		if err == nil {
			s.recovered = time.Now()
		}
		return err
	}
	s.dropAgents(ctx)
	s.p.Resume = true
	if !s.performed {
		s.offer = migrate.Offer{Name: s.job.Domain}
	}
	e, err := s.places(ctx)
	if err == nil {
		err = s.meet(ctx, &e)
	}
	if err != nil {
		return err
	}
	s.blocks = nil
	regions, err := s.sharedRAM(ctx)
	if err != nil {
		return migrate.Fail("look at the guest's RAM", migrate.SideSource, err, "")
	}
	if err := s.openDest(ctx, e, regions); err != nil {
		return migrate.Fail("take up the guest's RAM", migrate.SideDestination, err, "")
	}
	return migrate.Fail("take up the guest's RAM", migrate.SideSource, s.openSource(ctx, e, regions), "")
}

// recoverApart is how far apart two recoveries have to be for the second to make do with the same agents: where paging broke
// off again at once an agent answers and yet cannot go on.
const recoverApart = 5 * time.Second

// linkPatience is how long a recovery waits for the agents to hear each other before it says that they do not.
const linkPatience = 5 * time.Second

// linkBack waits until the agents have a connection. Without one every try to page would pause at once.
func (s *nbdSession) linkBack(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, linkPatience)
	defer stop()
	for {
		st, err := s.source.Stats(ctx)
		if err == nil && st.Links > 0 {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return migrate.Fail("fetch the rest of the RAM", "", fmt.Errorf("%w: the agents do not hear each other", migrate.ErrLinkLost), "see that the link between the hosts is up")
		}
	}
}

// Finish takes the agents out of both QEMUs and releases the source.
func (s *nbdSession) Finish(ctx context.Context) error {
	w := stopwatch{last: time.Now()}
	if s.later != nil {
		if err := s.later.done(ctx); err != nil {
			return err
		}
		w.lap("disks")
	}
	if s.mirrored != nil {
		if err := s.mirrored.close(ctx, agent.DiskClosing{Done: true}); err != nil {
			s.job.Sink.Note(fmt.Sprintf("the agents' ends for disks did not end cleanly: %v", err))
		}
	}
	if s.dest != nil {
		// It refuses while pages are missing, and then the source must stay.
		if err := s.dest.Close(ctx, false); err != nil {
			return migrate.Fail("leave the destination's RAM", migrate.SideDestination, err, "vmmigrate recover goes on with it")
		}
		w.lap("destination's agent")
	}
	if s.source != nil && s.job.Params.KeepCopy {
		s.keepCopy(ctx)
		w.lap("copy of the RAM")
	}
	if s.source != nil {
		if err := s.source.Close(ctx); err != nil {
			s.job.Sink.Note(fmt.Sprintf("the source's agent did not end cleanly: %v", err))
		}
		w.lap("source's agent")
	}
	err := s.release(ctx)
	w.lap("source's host")
	s.log.Debug("finishing", "took", w.parts)
	return err
}

// release lets the source's host forget the guest.
func (s *nbdSession) release(ctx context.Context) error {
	if s.performed { // the job is ours
		p := s.p
		p.Resume = false // to the drivers it was no post-copy
		return migrate.Fail("release the source", migrate.SideSource, s.src.Confirm(ctx, s.offer, p, s.ticket, true), "vmmigrate recover releases it later")
	}
	// The drivers' jobs ended with the coordinator that began them.
	if m, ok := s.to.(migrate.Monitored); ok {
		if err := sendSharedAgain(ctx, m, s.destName()); err != nil {
			s.job.Sink.Note(fmt.Sprintf("the destination's QEMU still leaves shared RAM out of its migrations: %v", err))
		}
	}
	return s.releaseLeft(ctx)
}

// sendSharedAgain sets a QEMU back to what its next migration expects.
func sendSharedAgain(ctx context.Context, m migrate.Monitored, name string) error {
	mon, err := m.Monitor(ctx, name)
	if err != nil {
		return err
	}
	return qmp.SetMigrateCapabilities(ctx, mon, qmp.Capabilities{capShared: false})
}

// Undo takes the agents out of both QEMUs and everything else back.
func (s *nbdSession) Undo(ctx context.Context) error {
	var errs []error
	away, stop := context.WithTimeout(ctx, 2*answerLimit) // the hosts need theirs, whatever agents do
	defer stop()
	if s.dest != nil {
		if err := s.dest.Close(away, true); err != nil {
			s.log.Debug("close the destination's end", "err", err) // its QEMU is removed next
		}
	}
	away, stopSource := context.WithTimeout(ctx, 2*answerLimit)
	defer stopSource()
	if s.source != nil {
		if err := s.source.Close(away); err != nil {
			s.job.Sink.Note(fmt.Sprintf("the tracker could not be taken out of the source's QEMU; it costs some speed and goes with it: %v", err))
		}
	}
	s.p.Resume = false                    // to the drivers it was no post-copy, whatever new agents took up
	s.performed = s.performed || !s.asked // a job that was begun and never performed is given back by Confirm, too
	errs = append(errs, s.session.Undo(ctx))
	if s.mirrored != nil {
		errs = append(errs, s.mirrored.undo(ctx))
	}
	if s.shared {
		errs = append(errs, migrate.Fail("let QEMU send its RAM again", migrate.SideSource, s.leaveSharedOut(ctx, false),
			`vmmigrate recover, or by hand: migrate-set-capabilities x-ignore-shared off`))
	}
	return errors.Join(errs...)
}

// capShared is QEMU's name for leaving RAM in shared files out of its stream.
const capShared = "x-ignore-shared"

// leaveSharedOut sets it in the source's QEMU under libvirt, which leaves it alone. Bare QEMU's driver sets it itself.
func (s *nbdSession) leaveSharedOut(ctx context.Context, on bool) error {
	if s.bareSource || s.shared == on {
		return nil
	}
	mon, err := s.from.Monitor(ctx, s.job.Domain)
	if err != nil {
		return err
	}
	if err := qmp.SetMigrateCapabilities(ctx, mon, qmp.Capabilities{capShared: on}); err != nil {
		return err
	}
	s.shared = on
	return nil
}
