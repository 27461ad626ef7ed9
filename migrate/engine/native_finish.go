package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Resume lets the destination run the guest and returns when it does. The driver's Finish may go on in the background:
// in post-copy it ends with the last page.
func (s *session) Resume(ctx context.Context) error {
	s.committed = true
	if err := s.src.Switch(ctx, s.offer, s.p); err != nil {
		return migrate.Fail("send the device state", migrate.SideSource, err, "")
	}
	if s.later != nil {
		s.later.thaw()
	}
	if s.finish == nil {
		s.land()
	}
	p, runs := s.p, s.resumed
	if p.Suspend || p.Resume {
		runs = nil // no RESUME will come (again)
	}
	if p.Resume {
		return ctx.Err()
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

// land has the destination run the guest, now or as soon as it can.
func (s *session) land() {
	offer, p, ticket := s.offer, s.p, s.ticket
	s.finish = s.run(func(ctx context.Context) error { return s.dst.Finish(ctx, offer, p, ticket, true) })
}

// Page waits for the rest of the RAM, and for disks that come after the guest. A link that moves nothing any more is broken off and made anew, if the destination
// can take a new one in every state (see migrate.Reconnector); otherwise it is left to TCP, which goes on by itself once
// the link is back, for a quarter of an hour at least.
func (s *session) Page(ctx context.Context) error {
	if s.later == nil {
		return s.pageRAM(ctx)
	}
	if !s.p.Resume { // else all RAM came before
		if err := s.pageRAM(ctx); err != nil {
			return err
		}
	}
	return s.later.page(ctx)
}

func (s *session) pageRAM(ctx context.Context) error {
	if s.finish == nil {
		return errors.New("page: the guest was not resumed")
	}
	w := paging{stall: Stall{After: s.stallAfter}, start: time.Now()}
	tick := time.NewTicker(s.poll)
	defer tick.Stop()
	for {
		select {
		case <-s.finish.done:
			return s.paged(ctx, s.finish.err)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := s.heed(ctx, &w); err != nil {
			return err
		}
	}
}

// paging is what is remembered from one reading of the figures to the next.
type paging struct {
	stall   Stall
	start   time.Time
	waiting bool // the link stands still and is left to TCP
}

// heed looks at the figures of a post-copy once. An error says that its link is broken.
func (s *session) heed(ctx context.Context, w *paging) error {
	st, ok := s.sample(ctx)
	if !ok || !s.p.Strategy.Postcopy() {
		return nil
	}
	if st.Status == statusPaused {
		return s.broken(ctx, errors.New("QEMU paused the post-copy"))
	}
	if st.RAMSent == nil || st.Status != statusPostcopy {
		return nil
	}
	stalled := w.stall.Step(time.Since(w.start), *st.RAMSent)
	if r, ok := s.dst.(migrate.Reconnector); stalled && ok && r.TakesNewLink() {
		return s.broken(ctx, fmt.Errorf("no byte moved for %v", s.stallAfter))
	}
	if stalled != w.waiting {
		w.waiting = stalled
		note := "recovered: the link moves RAM again"
		if stalled {
			note = fmt.Sprintf("paused: no byte moved for %v; the guest waits at the destination until the link is back", s.stallAfter)
		}
		s.job.Sink.Note(note)
	}
	return nil
}

const (
	statusPostcopy = "postcopy-active"
	statusPaused   = "postcopy-paused"
)

// paged turns Finish's answer into Page's: in post-copy an error other than a certain "not here" is a broken link.
func (s *session) paged(ctx context.Context, err error) error {
	if err == nil {
		s.sample(ctx)
		return nil
	}
	if s.p.Strategy.Postcopy() && !errors.Is(err, migrate.ErrNotLanded) {
		return s.broken(ctx, err)
	}
	return migrate.Fail("start the guest", migrate.SideDestination, err, "")
}

// broken makes the source let go of the link, so that the destination hears of it as soon as anything gets through.
func (s *session) broken(ctx context.Context, cause error) error {
	if err := s.src.Pause(ctx, s.job.Domain); err != nil {
		s.log.Debug("pause the post-copy", "err", err)
	}
	return migrate.Fail("fetch the rest of the RAM", "", fmt.Errorf("%w: %w", migrate.ErrPaused, cause),
		"the link is made anew when it is back; vmmigrate recover does it later")
}

// Recover runs the five phases again over a new link. It waits for the destination to notice that the old one is gone.
func (s *session) Recover(ctx context.Context) error {
	if s.later != nil { // only disks can be missing
		s.p.Resume = true
		return s.later.recover(ctx)
	}
	if s.finish != nil {
		select {
		case <-s.finish.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.finish = nil
	s.p.Resume = true
	s.begun, s.prepared = false, false
	if s.p.DestinationXML == "" { // as the first time
		if err := s.mapDisks(ctx); err != nil {
			return err
		}
	}
	offer, err := s.src.Begin(ctx, s.job.Domain, s.p)
	if err != nil {
		return migrate.Fail("begin the recovery", migrate.SideSource, err, "")
	}
	s.offer, s.begun = offer, true
	ticket, err := s.dst.Prepare(ctx, offer, s.p)
	if err != nil {
		s.confirm(false)
		return migrate.Fail("prepare the recovery", migrate.SideDestination, err, "")
	}
	s.ticket, s.prepared = ticket, true
	if err := s.Copy(ctx); err != nil {
		return err
	}
	return s.Resume(ctx)
}

// Finish releases the source.
func (s *session) Finish(ctx context.Context) error {
	if s.later != nil {
		if err := s.later.done(ctx); err != nil {
			return err
		}
		if !s.performed { // the driver's job ended with the coordinator that began it
			return s.releaseLeft(ctx)
		}
	}
	return migrate.Fail("release the source", migrate.SideSource,
		s.src.Confirm(ctx, s.offer, s.p, s.ticket, true), "vmmigrate recover releases it later")
}

// Undo takes everything back that was done before the commit, as libvirt's own client does: a destination that was
// never prepared needs only the source's Confirm, a failed Perform only the destination's Finish, and a Perform that
// succeeded both. Every step is tried; the errors are joined.
func (s *session) Undo(ctx context.Context) error {
	var errs []error
	if s.later != nil { // first: a guest cannot run on images that somebody holds
		errs = append(errs, s.later.yield(ctx))
	}
	if s.prepared {
		err := s.dst.Finish(ctx, s.offer, s.p, s.ticket, false)
		if err != nil && !errors.Is(err, migrate.ErrNotLanded) {
			errs = append(errs, migrate.Fail("remove the waiting guest", migrate.SideDestination, err,
				"vmmigrate recover removes it later"))
		}
	}
	if s.begun && (!s.prepared || s.performed) {
		if err := s.src.Confirm(ctx, s.offer, s.p, s.ticket, false); err != nil {
			errs = append(errs, migrate.Fail("let the guest run on", migrate.SideSource, err, "vmmigrate recover"))
		}
	}
	s.begun, s.prepared, s.performed = false, false, false
	return errors.Join(errs...)
}

// releaseLeft lets the source's host forget a guest that another coordinator sent away.
func (s *session) releaseLeft(ctx context.Context) error {
	c, ok := s.src.(migrate.Custodian)
	if !ok {
		return migrate.Fail("release the source", migrate.SideSource, migrate.ErrNotSupported, "")
	}
	return migrate.Fail("release the source", migrate.SideSource, c.Release(ctx, s.job.Domain, s.job.Params.UndefineSource), "vmmigrate recover releases it later")
}

// confirm closes a migration job at the source that went no further, best effort.
func (s *session) confirm(landed bool) {
	ctx, cancel := context.WithTimeout(s.ctx, s.undo)
	defer cancel()
	if err := s.src.Confirm(ctx, s.offer, s.p, s.ticket, landed); err != nil {
		s.log.Debug("confirm", "landed", landed, "err", err)
	}
}
