package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// thaw begins to answer the guest's reads, once the source's QEMU has given the guest away: it freezes the source and thaws
// the destination, beside whatever else is done, for the guest may run already. It is done once.
func (l *later) thaw() {
	if l.thawed != nil {
		return
	}
	l.thawed = l.s.run(func(ctx context.Context) error {
		ctx, stop := within(ctx, l.s.undo)
		defer stop()
		if err := l.source.Freeze(ctx); err != nil {
			return migrate.Fail("freeze the disks", migrate.SideSource, lost(ctx, err), "")
		}
		return migrate.Fail("thaw the disks", migrate.SideDestination, lost(ctx, l.dest.Thaw(ctx)), "")
	})
}

// page brings all of the disks over and puts the guest onto its final images. The guest runs meanwhile.
func (l *later) page(ctx context.Context) error {
	if l.thawed != nil {
		select {
		case <-l.thawed.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if l.thawed.err != nil {
			return l.paused(ctx, l.thawed.err)
		}
	}
	l.s.reached(ctx, "disks-thawed")
	defer l.keepRunning(ctx)()
	p := l.unknown()
	err := l.withRoom(ctx, &p, func() error {
		now, err := l.fetch(ctx)
		if len(now.Disks) > 0 {
			p = now
		}
		return err
	})
	if err != nil {
		return l.paused(ctx, err)
	}
	tellDisks(l.s.job.Sink, migrate.WayAfter, p, 0, true)
	l.s.reached(ctx, "disks-fetched")
	for _, d := range l.disks {
		begun := time.Now()
		fold := func() error { return l.fold(ctx, d, func(int64, int64) { l.tell(p, 0) }) }
		if err := l.withRoom(ctx, &p, fold); err != nil {
			return l.paused(ctx, err)
		}
		l.s.job.Sink.Note(fmt.Sprintf("disk %s: on its own image %s (folded in %v)", d.Target, d.Final.Path, time.Since(begun).Round(time.Millisecond)))
		l.s.reached(ctx, "disk-folded")
	}
	return nil
}

// fold puts the guest onto a disk's final image, as long as the destination's agent is there: QEMU waits for what that has, and so
// would we, for ever.
func (l *later) fold(ctx context.Context, d laterDisk, tell func(done, total int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if gone(ctx, l.there) {
			cancel(fmt.Errorf("%w: the destination's agent does not answer", migrate.ErrLinkLost))
		}
	})
	defer func() { cancel(nil); watcher.Wait() }()
	return lost(ctx, l.to.Fold(ctx, l.s.destName(), d.Overlay, tell))
}

// gone waits until an agent does not answer any more, or ctx ends.
func gone(ctx context.Context, a agent.Agent) bool {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for missed := 0; missed < 2; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		ask, stop := context.WithTimeout(ctx, answerLimit)
		missed++
		if _, err := a.Hello(ask); err == nil {
			missed = 0
		}
		stop()
	}
	return ctx.Err() == nil
}

// fetch fetches until everything is there.
func (l *later) fetch(ctx context.Context) (agent.Progress, error) {
	idle := 30*time.Second + capped(l.s.job.Params.DiskCap())
	ctx, dog, stop := guard(ctx, idle, "nothing of the disks moved")
	defer stop()
	var last agent.Progress
	p, err := l.dest.Fetch(ctx, func(p agent.Progress) {
		last = p
		dog.moved(p)
		l.tell(p, p.Remaining)
		if p.Remaining > 0 {
			l.s.reached(ctx, "disks-paging")
		}
	})
	if err != nil { // which comes without figures
		p = last
	}
	return p, lost(ctx, err)
}

// tell passes figures on.
func (l *later) tell(p agent.Progress, remaining int64) {
	tellDisks(l.s.job.Sink, migrate.WayAfter, p, remaining, false)
}

// unknown is what is said of the disks before there are figures, which a full file system may keep from coming.
func (l *later) unknown() (p agent.Progress) {
	for _, d := range l.disks {
		p.Disks = append(p.Disks, agent.DiskProgress{Target: d.Target, Size: d.size, Data: d.size, Remaining: d.size})
	}
	return p
}

// tellDisks passes an agent's figures of disks on. all tells that they are the last.
func tellDisks(sink migrate.Sink, way string, p agent.Progress, remaining int64, all bool) {
	var total, sent int64
	st := migrate.Stats{Status: "active", DiskTotal: &total, DiskRemaining: &remaining, DiskSent: &sent}
	for _, d := range p.Disks {
		total += d.Data
		sent += d.Fetched
		st.Disks = append(st.Disks, migrate.DiskStats{Name: d.Target, Total: &d.Data, Remaining: &d.Remaining, Sent: &d.Fetched, InStep: all, Way: way})
	}
	if p.Bandwidth > 0 {
		st.Bandwidth = &p.Bandwidth
	}
	sink.Stats(st)
}

// paused says of what went wrong that the guest runs on, waits for what it reads, and that it can be gone on with.
func (l *later) paused(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, migrate.ErrNoDomain):
		return err
	case !errors.Is(err, migrate.ErrPaused):
		l.failed = time.Now()
		err = fmt.Errorf("%w: %w", migrate.ErrPaused, err)
	}
	return migrate.Fail("fetch the rest of the disks", migrate.SideDestination, err,
		"the guest runs at the destination, and what it reads of its disks waits until the source can be reached; vmmigrate recover goes on later")
}

// recover attaches to what is there: with new agents, whose ends take over.
func (l *later) recover(ctx context.Context) error {
	if err := l.rest(ctx); err != nil {
		return err
	}
	if l.dest != nil && l.answers(ctx) {
		if l.thawed != nil {
			<-l.thawed.done // it is bounded
			if l.thawed.err != nil {
				l.thawed = nil
				l.thaw()
			}
		}
		return nil
	}
	l.letGo()
	if err := l.reach(ctx); err != nil {
		return err
	}
	if len(l.disks) == 0 {
		if err := l.plan(ctx); err != nil {
			return err
		}
	}
	return l.openEnds(ctx, true)
}

// rest makes sure that what breaks off again and again is not tried without a pause.
func (l *later) rest(ctx context.Context) error {
	if l.failed.IsZero() {
		return nil
	}
	select {
	case <-time.After(time.Until(l.failed.Add(2 * time.Second))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answers tells whether both agents that have the ends are there.
func (l *later) answers(ctx context.Context) bool {
	ctx, stop := context.WithTimeout(ctx, linkPatience)
	defer stop()
	for i, p := range []*peer{l.here, l.there} {
		if p == nil || p.Agent != l.opened[i] {
			return false
		}
		if _, err := p.Hello(ctx); err != nil {
			return false
		}
	}
	return true
}

// letGo closes what connects us to agents. Ends that a guest needs stay.
func (l *later) letGo() {
	if l.thawed != nil {
		<-l.thawed.done // it is bounded
		l.thawed = nil
	}
	l.source, l.dest = nil, nil
	for _, p := range []**peer{&l.here, &l.there} {
		if *p == nil || !(*p).own {
			continue // the session's own: it has handed others over, if it had to
		}
		if err := (*p).Close(); err != nil {
			l.s.log.Debug("close an agent", "err", err)
		}
		*p = nil
	}
}

// yield gives the source its images back, for a guest that goes on there.
func (l *later) yield(ctx context.Context) error {
	if l.thawed != nil {
		<-l.thawed.done // it is bounded
	}
	var errs []error
	if l.dest != nil {
		errs = append(errs, migrate.Fail("close the destination's disks", migrate.SideDestination, l.dest.Close(ctx, agent.DiskClosing{Abandon: true}), ""))
	}
	if l.source != nil {
		errs = append(errs, migrate.Fail("let go of the source's disks", migrate.SideSource, l.source.Close(ctx), ""))
	}
	return errors.Join(errs...)
}

// done takes leave of disks that the guest has on its own images, and removes what was beside them.
func (l *later) done(ctx context.Context) error {
	if l.there == nil {
		if err := l.reach(ctx); err != nil {
			return err
		}
		if err := l.plan(ctx); err != nil {
			return err
		}
	}
	if l.dest != nil {
		if err := l.dest.Close(ctx, agent.DiskClosing{Done: true}); err != nil {
			return migrate.Fail("close the destination's disks", migrate.SideDestination, err, "vmmigrate recover")
		}
	}
	if l.source != nil {
		if err := l.source.Close(ctx); err != nil {
			l.s.job.Sink.Note(fmt.Sprintf("the source's end of the disks did not end cleanly: %v", err))
		}
	}
	for _, d := range l.disks {
		for kind, at := range map[string]string{"overlay": d.Path, "cache": d.cache} {
			m := l.spec(d.Target, kind, d.size).Intended()
			m.Path = d.Path + "-" + kind // nobody's; the staged name tells
			if err := l.there.RemoveImage(ctx, m); err != nil && !errors.Is(err, storage.ErrForeign) {
				l.s.job.Sink.Note(fmt.Sprintf("%s is left at the destination, remove it: %v", at, err))
			}
		}
	}
	return nil
}

// leave is done for one whose coordinator died before that: it takes the ends over from agents that wait for somebody.
func (l *later) leave(ctx context.Context) error {
	if l.dest == nil {
		if err := l.recover(ctx); err != nil {
			return err
		}
	}
	return l.done(ctx)
}

// close ends the connections to agents of its own.
func (l *later) close() error {
	var errs []error
	for _, p := range []*peer{l.here, l.there} {
		if p != nil && p.own {
			errs = append(errs, p.Agent.Close())
		}
	}
	return errors.Join(errs...)
}

// Brings implements migrate.Bringer.
func (s *session) Brings() bool { return s.later != nil }

// LeaveDisks implements migrate.DiskLeaver.
func (s *session) LeaveDisks(ctx context.Context) error {
	if s.later == nil {
		return nil
	}
	return s.later.leave(ctx)
}

// Yield implements migrate.Yielder.
func (s *session) Yield(ctx context.Context) error {
	if s.later == nil {
		return nil
	}
	return s.later.yield(ctx)
}
