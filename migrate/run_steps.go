package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// do carries out one step. It runs beside the loop and touches only what a step may: the session, the hosts, the
// observer and the journal's commit.
func (r *run) do(ctx context.Context, a Action, rec Record) stepDone {
	d := stepDone{step: a.Step}
	l := r.c.cfg.Limits
	switch a.Step {
	case StepCheck:
		d.session, d.err = r.doCheck(ctx)
	case StepPrepare:
		d.err = r.session.Prepare(ctx)
	case StepCopy:
		d.err = r.session.Copy(ctx)
	case StepCommit:
		d.err = r.doCommit(rec)
	case StepResume:
		d.err = bounded(ctx, l.Resume, r.session.Resume)
	case StepPage:
		d.err = r.doPage(ctx)
	case StepRecover:
		d.session, d.err = r.doRecover(ctx, a.Attempt)
	case StepFinish:
		if r.entry.Params.KeepCopy {
			l.Finish += KeepLimit
		}
		d.err = bounded(ctx, l.Finish, r.doFinish)
	case StepUndo:
		d.err = bounded(ctx, l.Undo, r.doUndo)
	case StepAsk:
		if d.err = wait(ctx, backOff(a.Attempt)); d.err == nil {
			d.ends = r.hosts.ask(ctx, r.sourceName(), r.destName())
		}
	case StepWatch:
		d.err = r.doWatch(ctx, a.Brief)
	default:
		d.err = bounded(ctx, l.Undo, func(ctx context.Context) error { return r.repair(ctx, a.Step, rec) })
	}
	return d
}

// bounded runs a step with a time of its own. Time that ran out means an answer that was lost.
func bounded(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, stop := context.WithTimeout(ctx, d)
	defer stop()
	err := f(ctx)
	if err != nil && ctx.Err() == context.DeadlineExceeded && !errors.Is(err, ErrNotLanded) {
		return fmt.Errorf("no answer within %v: %w", d, err)
	}
	return err
}

func (r *run) doCheck(ctx context.Context) (Session, error) {
	if r.req.Check != nil {
		if err := r.req.Check(ctx); err != nil {
			return nil, err
		}
	}
	return r.openSession(ctx, r.entry.Params, r.req.Source, r.req.Dest)
}

func (r *run) openSession(ctx context.Context, p Params, source, dest Host) (Session, error) {
	r.opened = pairOf{source, dest}
	s, err := r.req.Engine.Open(ctx, Job{ID: r.entry.ID, Domain: r.req.Domain, Source: source, Dest: dest, Params: p,
		Commit: r.askCommit, Keep: r.askKeep, Kept: r.images, Sink: r.obs, Reached: r.park})
	return s, Fail("open the engine", SideCoordinator, err, "")
}

// askCommit is Job.Commit: it hands the wish to the loop, which owns the machine, and waits for its answer.
func (r *run) askCommit(ctx context.Context) error {
	a := commitAsk{ctx: ctx, reply: make(chan error, 1)}
	select {
	case r.commits <- a:
		return <-a.reply
	case <-r.quit:
		return ErrCancelled
	case <-ctx.Done():
		return ctx.Err()
	}
}

// doCommit writes the commit. The record differs from the one before a step: it holds what is true once it is durable.
func (r *run) doCommit(rec Record) error {
	rec.At, rec.Committed, rec.Owner = rec.CommittedAt, true, OwnerDestination
	return Fail("write the commit", SideCoordinator, r.log.Write(context.Background(), rec),
		"look at the state directory: is it full or read-only?")
}

// doUndo takes the migration back and makes sure of it: only a guest that was seen on the source again is safe.
func (r *run) doUndo(ctx context.Context) error {
	r.reachImages(ctx)
	if err := r.session.Undo(ctx); err != nil {
		return err
	}
	return r.confirmSource(ctx)
}

// confirmSource waits until the source says that the guest is as it was before.
func (r *run) confirmSource(ctx context.Context) error {
	for try := 1; ; try++ {
		st, err := r.hosts.state(ctx, SideSource, r.sourceName())
		if err == nil && (st.Run == RunRunning || r.entry.WasPaused && st.Run == RunPaused) {
			return nil
		}
		if try == 5 {
			if err == nil {
				err = fmt.Errorf("the source says %q (%s)", st.Run, st.Reason)
			}
			return &OpError{Op: "see the guest run", Side: SideSource, Err: err}
		}
		if werr := wait(ctx, 200*time.Millisecond); werr != nil {
			return &OpError{Op: "see the guest run", Side: SideSource, Err: errors.Join(werr, err)}
		}
	}
}

// doPage waits for the rest of the RAM. After a pre-copy nothing is left to fetch: a destination's answer that does not come
// is a lost one then, and both ends are asked.
func (r *run) doPage(ctx context.Context) error {
	if r.machineConfig().Postcopy || r.entry.Params.PeerToPeer {
		return r.session.Page(ctx)
	}
	return bounded(ctx, r.c.cfg.Limits.Finish, r.session.Page)
}

// doFinish releases the source and looks once more whether the destination really has the guest.
func (r *run) doFinish(ctx context.Context) error {
	if err := r.session.Finish(ctx); err != nil {
		return err
	}
	_, dest := r.hosts.both()
	r.sendRAMAgain(ctx, dest, r.destName())
	st, err := r.hosts.state(ctx, SideDestination, r.destName())
	switch {
	case errors.Is(err, ErrNoDomain):
		return &OpError{Op: "see the guest run", Side: SideDestination, Err: err}
	case err != nil:
		r.obs.Note(fmt.Sprintf("the destination ran the guest, but could not be asked again at the end: %v", err))
		return nil
	case st.Run == RunRunning, st.Run == RunPostcopy, st.Run == RunPaused && (r.entry.Params.Suspend || r.entry.WasPaused):
		return nil
	}
	return &OpError{Op: "see the guest run", Side: SideDestination, Err: fmt.Errorf("it is %q there (%s)", st.Run, st.Reason)}
}

// doWatch waits until one of the ends says something new, for three seconds if that is to come soon, else for half a
// minute.
func (r *run) doWatch(ctx context.Context, brief bool) error {
	seconds := 30
	if brief {
		seconds = 3
	}
	first := r.hosts.ask(ctx, r.sourceName(), r.destName())
	for range seconds {
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
		r.watchStats(ctx)
		if e := r.hosts.ask(ctx, r.sourceName(), r.destName()); !sameEnds(first, e) {
			return nil
		}
	}
	return nil
}

func (r *run) watchStats(ctx context.Context) {
	if r.entry.Engine == EngineNBD { // QEMU knows nothing of that RAM, and would count its own idle rounds
		return
	}
	source, _ := r.hosts.both()
	if s, ok := source.(Steering); ok {
		ctx, stop := context.WithTimeout(ctx, r.c.cfg.Limits.Ask)
		defer stop()
		if st, err := s.Stats(ctx, r.sourceName()); err == nil {
			r.obs.Stats(st)
		}
	}
}

func sameEnds(a, b Ends) bool {
	return sameState(a.Source, b.Source) && sameState(a.Dest, b.Dest) &&
		(a.SourceErr == nil) == (b.SourceErr == nil) && (a.DestErr == nil) == (b.DestErr == nil)
}

func sameState(a, b *GuestState) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Run == b.Run && a.Job == b.Job
}

// repair is one step of putting right what was left, with the hosts' own means.
func (r *run) repair(ctx context.Context, s Step, rec Record) error {
	source, dest := r.hosts.both()
	switch s {
	case StepCancelJob:
		st, ok := source.(Steering)
		if !ok {
			return Fail("cancel the job", SideSource, ErrNotSupported, "")
		}
		return Fail("cancel the job", SideSource, st.Cancel(ctx, r.sourceName()), "")
	case StepDiscard:
		r.reachImages(ctx)
		return custody("remove the waiting guest", SideDestination, dest, func(c Custodian) error { return c.Discard(ctx, r.destName()) })
	case StepResumeDest:
		return custody("run the guest", SideDestination, dest, func(c Custodian) error { return c.ResumeGuest(ctx, r.destName()) })
	case StepRelease:
		if rec.Paged { // else what is beside the disks may be the guest's own
			r.leaveDisks(ctx, pairOf{source, dest})
		}
		r.sendRAMAgain(ctx, dest, r.destName())
		return custody("release the source", SideSource, source, func(c Custodian) error {
			return c.Release(ctx, r.sourceName(), r.entry.Params.UndefineSource)
		})
	case StepResumeSource:
		if y, ok := r.session.(Yielder); ok {
			if err := y.Yield(ctx); err != nil {
				return err
			}
		}
		err := custody("run the guest", SideSource, source, func(c Custodian) error { return c.ResumeGuest(ctx, r.sourceName()) })
		if err != nil {
			return err
		}
		r.sendRAMAgain(ctx, source, r.sourceName())
		return r.confirmSource(ctx)
	}
	return fmt.Errorf("no such step: %s", s)
}

// sendRAMAgain takes back that a QEMU whose guest was moved by agents, or stayed though it should have been, leaves RAM out
// of its stream: a later migration without agents would be refused. libvirt knows nothing of the setting. It is best effort.
func (r *run) sendRAMAgain(ctx context.Context, h Host, name string) {
	m, ok := h.(Monitored)
	if !ok || r.entry.Engine != EngineNBD || r.sendsRAM == h {
		return
	}
	x, err := m.Monitor(ctx, name)
	if err == nil {
		err = qmp.SetMigrateCapabilities(ctx, x, qmp.Capabilities{qmp.CapIgnoreShared: false})
	}
	if err != nil {
		r.obs.Note(fmt.Sprintf("QEMU's capability %s may be left on: %v", qmp.CapIgnoreShared, err))
		return
	}
	r.sendsRAM = h
}

// dropMirrors takes out of the source's QEMU what a coordinator that died has left there. It is best effort.
func (r *run) dropMirrors(ctx context.Context, source Host) {
	m, ok := source.(Monitored)
	if !ok || r.entry.Engine != EngineNBD || !r.entry.Params.DisksByAgents() {
		return
	}
	x, err := m.Monitor(ctx, r.sourceName())
	if err == nil {
		err = DropMirrors(ctx, x)
	}
	if err != nil && !errors.Is(err, ErrNoDomain) {
		r.obs.Note(fmt.Sprintf("mirrors of disks may be left in the source's QEMU; the next migration with --reuse removes them: %v", err))
	}
}

// tidy removes, after a migration that was taken back, what no step has: QEMU's setting, where the session that made it is
// gone, and a definition that the destination's daemon made before the guest had come. It is best effort.
func (r *run) tidy(end End) {
	r.removeImages(end)
	r.leaveImages()
	if !end.Final || end.Runs != SideSource || r.causePhase < PhaseCopying {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), r.c.cfg.Limits.Ask)
	defer stop()
	source, dest := r.hosts.both()
	r.sendRAMAgain(ctx, source, r.sourceName())
	r.dropMirrors(ctx, source)
	if !r.entry.DestClear || !r.entry.ByUUID || !r.entry.Params.Persistent {
		return
	}
	st, err := r.hosts.state(ctx, SideDestination, r.destName())
	if err != nil || st.Run != RunStopped {
		return
	}
	err = custody("drop the definition", SideDestination, dest, func(c Custodian) error { return c.Release(ctx, r.destName(), true) })
	if err != nil {
		r.obs.Note(fmt.Sprintf("the guest is still defined at the destination: %v", err))
	}
}

func custody(op string, side Side, h Host, f func(Custodian) error) error {
	c, ok := h.(Custodian)
	if !ok {
		return Fail(op, side, fmt.Errorf("the driver cannot: %w", ErrNotSupported), "")
	}
	return Fail(op, side, f(c), "")
}

// sourceName and destName are what the hosts are asked for.
func (r *run) sourceName() string {
	if r.entry.ByUUID {
		return r.entry.DomainUUID
	}
	return r.req.Domain
}

func (r *run) destName() string {
	if r.entry.ByUUID {
		return r.entry.DomainUUID
	}
	if n := r.entry.Params.DestinationName; n != "" {
		return n
	}
	return r.req.Domain
}

// backOff is the wait before a try: none before the first, then 0.5 s, doubling to 8 s.
func backOff(attempt int) time.Duration {
	if attempt <= 1 {
		return 0
	}
	return min(500*time.Millisecond<<min(attempt-2, 10), 8*time.Second)
}

func wait(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
