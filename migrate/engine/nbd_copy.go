package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy"
)

// Copy moves RAM in rounds, stops the guest and hands it over. It passes the commit itself, before the guest is stopped, so
// that no disk has to be waited for within the pause. A failure before the destination was let go on is taken back at
// once: the source then runs on, although the commit is written, and both ends say so when they are asked.
func (s *nbdSession) Copy(ctx context.Context) error {
	var perform *call
	// Before Perform, since libvirt takes no command for the monitor while a job runs.
	if err := s.leaveSharedOut(ctx, true); err != nil {
		return migrate.Fail("leave shared RAM out of QEMU's stream", migrate.SideSource, err, "")
	}
	if s.movesDisks() {
		perform = s.perform() // disks are mirrored first, RAM meanwhile
	}
	rounds, err := s.roundsAndDisks(ctx)
	if err == nil && perform != nil {
		var waited bool
		if waited, err = s.disksInStep(ctx, perform); err == nil && waited { // the guest wrote RAM meanwhile
			err = s.goOn(ctx, rounds)
		}
	}
	if err == nil {
		s.flushAhead(ctx)
	}
	if err == nil && s.mirrored != nil {
		if err = s.mirrored.block(ctx); err == nil {
			s.flushAhead(ctx)
		}
	}
	if err == nil {
		s.reached(ctx, "after-rounds")
		err = s.commitNow(ctx)
	}
	if err != nil {
		return s.takeBack(err, perform)
	}
	if perform == nil {
		perform = s.perform()
	}
	if err := s.standStill(ctx, perform); err != nil {
		return s.takeBack(err, perform)
	}
	s.reached(ctx, "after-still")
	s.pause.start()
	if !s.movesDisks() {
		s.landAhead(perform)
	}
	settled := s.settleDisks(ctx)
	err = s.switchRAM(ctx, rounds)
	<-settled.done
	if err = errors.Join(err, settled.err); err != nil {
		return s.takeBack(err, perform)
	}
	s.reached(ctx, "after-punch")
	return s.handOver(ctx, perform)
}

// commitNow writes the commit, unless the migration was cancelled meanwhile.
func (s *nbdSession) commitNow(ctx context.Context) error {
	if s.wasCancelled() {
		return migrate.Fail("copy", migrate.SideSource, migrate.ErrCancelled, "")
	}
	if err := s.job.Commit(ctx); err != nil {
		return migrate.Fail("write the commit", migrate.SideCoordinator, err, "")
	}
	s.committed = true
	s.reached(ctx, "after-early-commit")
	return nil
}

// perform lets the source's QEMU connect to its agent, which relays the stream.
func (s *nbdSession) perform() *call {
	t := s.ticket
	t.URI = "unix://" + s.sourceStream
	c := &call{done: make(chan struct{}), ticket: t}
	offer, params := s.offer, s.p
	s.asked = true
	s.wg.Go(func() {
		defer close(c.done)
		out, err := s.src.Perform(s.ctx, offer, params, t)
		if c.err = err; err == nil {
			c.ticket = out
		}
	})
	if s.movesDisks() {
		s.tellInTheClear()
		s.wg.Go(func() { s.copyFigures(c.done) })
	}
	return c
}

// rounds fetches RAM until the strategy says that the switch is due.
func (s *nbdSession) rounds(ctx context.Context) (*precopy.Rounds, error) {
	r, err := precopy.New(precopy.Config{
		Blocks: s.blocks, Harvester: harvester{s}, Fetcher: fetcher{s}, Log: s.log,
		Decider: precopy.DeciderConfig{Strategy: s.strategy, MaxDowntime: s.job.Params.MaxDowntime, Timeout: s.job.Params.Timeout},
		Begin:   s.figures.begin(s.job.Sink), Observe: s.figures.observe,
	})
	if err != nil {
		return nil, err
	}
	return r, s.goOn(ctx, r)
}

// goOn runs rounds, which may have run before: what those left behind is known to them alone, for a page that was harvested once
// is not harvested again before it is written again.
func (s *nbdSession) goOn(ctx context.Context, r *precopy.Rounds) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.onCancel(func() { cancel(migrate.ErrCancelled) })
	res, err := s.runRounds(ctx, r)
	if err != nil {
		if errors.Is(context.Cause(ctx), migrate.ErrCancelled) {
			err = fmt.Errorf("%w: %w", migrate.ErrCancelled, err)
		}
		return migrate.Fail("fetch the RAM", migrate.SideDestination, err, "")
	}
	s.job.Sink.Note(res.Why)
	s.left = res.Left
	return nil
}

// runRounds goes on with a pre-copy that does not converge until a limit ends it, as QEMU does: the user said that nothing
// may be left behind. The user's time-out ends the rounds whatever is left.
func (s *nbdSession) runRounds(ctx context.Context, r *precopy.Rounds) (precopy.Result, error) {
	begun := time.Now()
	for {
		res, err := r.Run(ctx)
		if !errors.Is(err, precopy.ErrNotConverging) {
			return res, err
		}
		s.job.Sink.Note(err.Error())
		if limit := s.job.Params.Timeout; limit > 0 && time.Since(begun) >= limit {
			return res, nil
		}
		if ctx.Err() != nil {
			return res, ctx.Err()
		}
	}
}

// harvester and fetcher are the agents to the rounds.
type harvester struct{ s *nbdSession }

func (h harvester) Harvest(ctx context.Context) (ram.Set, time.Duration, error) {
	ctx, stop := h.s.soon(ctx)
	defer stop()
	v, err := h.s.source.Harvest(ctx)
	err = lost(ctx, err)
	if err == nil {
		err = v.Dirty.Fits(h.s.blocks)
	}
	if err != nil { // unknown is dirty
		v.Dirty = ram.NewSet(h.s.blocks)
		v.Dirty.Fill()
	}
	return v.Dirty, v.Took, err
}

type fetcher struct{ s *nbdSession }

func (f fetcher) Fetch(ctx context.Context, pages ram.Set) (precopy.Fetched, error) {
	begun, before := time.Now(), f.s.figures.latest()
	ctx, dog, stop := guard(ctx, f.s.idle(), "no RAM moved")
	defer stop()
	p, err := f.s.dest.Fetch(ctx, pages, func(p agent.Progress) {
		dog.moved(p)
		f.s.progress(p)
	})
	err = lost(ctx, err)
	f.s.progress(p)
	return precopy.Fetched{Pages: p.Pages - before.Pages, ZeroPages: p.ZeroPages - before.ZeroPages, Bytes: p.Bytes - before.Bytes, Took: time.Since(begun)}, err
}

// standStill waits until the guest stands still on the source with its devices drained, so that nothing writes its RAM.
func (s *nbdSession) standStill(ctx context.Context, perform *call) error {
	limit, stop := context.WithTimeout(ctx, s.switchLimit)
	defer stop()
	if s.movesDisks() {
		limit = ctx // disks take what they take, and may take the link from who is asked
	} else {
		watched, unwatch := s.whileAgentsAnswer(limit)
		defer unwatch()
		limit = watched
	}
	if err := lost(limit, s.source.StreamUp(limit)); err != nil {
		select {
		case <-perform.done:
			err = errors.Join(perform.err, err)
		default:
		}
		return migrate.Fail("send the device state", migrate.SideSource, err, "")
	}
	s.reached(ctx, "after-stream")
	if err := s.pass(ctx); err != nil {
		return migrate.Fail("relay QEMU's stream", migrate.SideDestination, err, "")
	}
	select {
	case <-s.still:
		return nil
	case <-perform.done:
		if perform.err != nil {
			return migrate.Fail("stop the guest", migrate.SideSource, perform.err, "")
		}
		return nil // a driver that moves disks comes back when it stands still
	case <-limit.Done():
		return migrate.Fail("stop the guest", migrate.SideSource, s.late(limit), "")
	}
}

// late is why a wait of switchLimit at most was given up.
func (s *nbdSession) late(limit context.Context) error {
	why := context.Cause(limit)
	if errors.Is(why, context.DeadlineExceeded) {
		return fmt.Errorf("not within %v: %w", s.switchLimit, why)
	}
	return why
}

// pass lets QEMU's stream through up to the acknowledgement that the destination is ready. For a guest that stands still QEMU
// waits for none: then the whole stream is held back until the end.
func (s *nbdSession) pass(ctx context.Context) error {
	if s.offer.Paused {
		return nil
	}
	ctx, stop := s.soon(ctx)
	defer stop()
	stale := s.left
	if !s.strategy.Postcopy() {
		stale = ram.NewSet(s.blocks) // what is left is fetched over what is there
	}
	return lost(ctx, s.dest.Pass(ctx, stale))
}

// switchRAM makes what was written last missing at the destination, or fetches it while the guest stands still.
func (s *nbdSession) switchRAM(ctx context.Context, rounds *precopy.Rounds) error {
	res, err := rounds.Final(ctx)
	if err != nil {
		if !s.strategy.Postcopy() {
			return migrate.Fail("read the last dirty pages", migrate.SideSource, err, "")
		}
		s.job.Sink.Note(fmt.Sprintf("the last dirty pages could not be read, so all RAM is fetched again: %v", err))
	}
	missing := res.Left
	s.pause.lap("harvest")
	if !s.strategy.Postcopy() {
		if _, err := (fetcher{s}).Fetch(ctx, missing); err != nil {
			return migrate.Fail("fetch the last pages", migrate.SideDestination, err, "")
		}
		missing.Reset()
		s.pause.lap("last pages")
	}
	hot := make([]agent.PageRef, len(res.Hot))
	for i, h := range res.Hot {
		hot[i] = agent.PageRef(h)
	}
	ctx, stop := s.soon(ctx)
	defer stop()
	err = lost(ctx, s.dest.Switch(ctx, missing, hot))
	s.pause.lap(fmt.Sprintf("punch %d pages", missing.Count()))
	return migrate.Fail("make the last pages missing", migrate.SideDestination, err, "")
}

// handOver lets the destination load the devices' state and run the guest as soon as it has. The source's QEMU has completed
// its migration before: as long as it has not, it runs its guest again whenever it takes the migration for failed, such as for
// a link that was lost. From the release on the source does not go back by itself.
func (s *nbdSession) handOver(ctx context.Context, perform *call) error {
	if err := s.sentOut(ctx, perform); err != nil {
		return s.takeBack(err, perform)
	}
	s.pause.lap("device state out")
	if !s.pastCancelling() {
		return s.takeBack(migrate.Fail("copy", migrate.SideSource, migrate.ErrCancelled, ""), perform)
	}
	if s.later != nil {
		s.later.thaw()
	}
	if err := s.letPass(ctx); err != nil {
		return migrate.Fail("let QEMU's stream pass", migrate.SideDestination, err, "ask both hosts: vmmigrate recover")
	}
	s.reached(ctx, "after-gate")
	if s.finish == nil {
		s.land()
	}
	s.job.Sink.Note(s.pause.String())
	return nil
}

// letPass opens the gate. An agent whose answer is lost may have opened it: then QEMU has got all of its stream and runs the
// guest, if it gets the pages that it needs for that, or it has got a part and ends. Resume sees to the pages and tells which.
func (s *nbdSession) letPass(ctx context.Context) error {
	ctx, stop := s.soon(ctx)
	defer stop()
	err := lost(ctx, s.dest.Release(ctx))
	if err != nil && s.strategy.Postcopy() && errors.Is(err, migrate.ErrLinkLost) {
		s.job.Sink.Note(fmt.Sprintf("whether QEMU's stream passed is not known yet: %v", err))
		s.unheard = true
		return nil
	}
	return err
}

// landAhead tells the destination to run the guest once its devices' state is there, which the gate holds back. A driver whose
// ticket says whether the guest ran until the stop gives it at the end of Perform.
func (s *nbdSession) landAhead(perform *call) {
	if !s.bareSource {
		s.landEarly()
		return
	}
	early, ok := s.dst.(migrate.EarlyFinisher)
	if !ok || !early.FinishesEarly(s.p) {
		return
	}
	offer, p := s.offer, s.p
	s.finish = s.run(func(ctx context.Context) error {
		select {
		case <-perform.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if perform.err != nil {
			return perform.err
		}
		return s.dst.Finish(ctx, offer, p, perform.ticket, true)
	})
}

// sentOut waits until the source's QEMU has sent everything and says that it is done with the guest.
func (s *nbdSession) sentOut(ctx context.Context, perform *call) error {
	const op = "send the device state"
	limit, stop := context.WithTimeout(ctx, s.switchLimit)
	defer stop()
	limit, unwatch := s.whileAgentsAnswer(limit)
	defer unwatch()
	if err := s.performedWithin(limit, perform); err != nil {
		return migrate.Fail(op, migrate.SideSource, err, "")
	}
	s.performed, s.ticket = true, perform.ticket
	if s.finish == nil {
		s.landAhead(perform) // a driver that moves disks has ended that
	}
	return migrate.Fail(op, migrate.SideSource, s.src.Switch(limit, s.offer, s.p), "")
}

// lateWrites looks, once the guest has all of its RAM, whether anything wrote to its RAM at the source after the last harvest. QEMU's own
// migration takes its last look at the same point, so there should be nothing; if there is, the user has to know.
func (s *nbdSession) lateWrites(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, answerLimit)
	defer stop()
	late, _, err := harvester{s}.Harvest(ctx)
	switch n := late.Count(); {
	case err != nil:
		s.log.Debug("look for late writes", "err", err)
	case n > 0:
		s.job.Sink.Note(fmt.Sprintf("%d pages were written at the source after the guest stood still there, and are not at the destination as written: "+
			"check the guest, and report this with the guest's devices", n))
	}
}

// takeBack ends a copy that failed before the destination was let go on: nothing can run there, so the source's job is
// cancelled and its guest runs on.
func (s *nbdSession) takeBack(cause error, perform *call) error {
	s.takenBack = true
	if perform == nil {
		return cause
	}
	ctx, cancel := context.WithTimeout(s.ctx, min(s.undo, answerLimit))
	defer cancel()
	if s.dest != nil { // the relay ends: QEMU's stream never comes to its end, which without the release it does not anyway
		if err := s.dest.Close(ctx, true); err != nil {
			s.log.Debug("close the destination's end", "err", err)
		}
	}
	return s.giveUp(cause, perform)
}
