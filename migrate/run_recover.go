package migrate

import (
	"context"
	"errors"
	"fmt"
)

// doRecover makes the link of a paused post-copy anew, over new connections where the old ones are gone.
func (r *run) doRecover(ctx context.Context, attempt int) (Session, error) {
	if err := wait(ctx, backOff(attempt)); err != nil {
		return nil, err
	}
	r.obs.Note(fmt.Sprintf("recovery, try %d", attempt))
	tried, err := r.bringAgain(ctx)
	if tried && err == nil {
		return nil, nil
	}
	now, rerr := r.hosts.renew(ctx, r.sourceName(), r.destName())
	if rerr != nil {
		return nil, errors.Join(err, rerr)
	}
	session := r.session
	if tried && now == r.opened {
		return nil, err
	}
	var opened Session
	if session == nil || now != r.opened { // an earlier question may have dialled anew, too
		if session != nil {
			session.Close()
		}
		p := r.entry.Params
		p.Resume = true
		if opened, err = r.openSession(ctx, p, now.source, now.dest); err != nil {
			return nil, err
		}
		session = opened
	}
	return opened, Fail("make the link anew", "", bounded(ctx, r.c.cfg.Limits.Resume, session.Recover), "")
}

// bringAgain has agents of the session that is open bring what the guest waits for, without asking its hypervisor anything.
func (r *run) bringAgain(ctx context.Context) (tried bool, err error) {
	b, ok := r.session.(Bringer)
	if !ok || !b.Brings() {
		return false, nil
	}
	return true, Fail("make the link anew", "", bounded(ctx, r.c.cfg.Limits.Resume, r.session.Recover), "")
}

// leaveDisks removes what is beside disks that came after the guest, and are whole, though nobody came to remove it. It is best
// effort: the guest does not need it.
func (r *run) leaveDisks(ctx context.Context, hosts pairOf) {
	if r.entry.Params.CopyStorage != CopyAfter {
		return
	}
	ctx, stop := context.WithTimeout(ctx, r.c.cfg.Limits.Undo/2) // what follows has to be done in any case
	defer stop()
	s := r.session
	var err error
	if s == nil {
		p := r.entry.Params
		p.Resume = true
		if s, err = r.openSession(ctx, p, hosts.source, hosts.dest); err == nil {
			defer func() { _ = s.Close() }() // it holds nothing any more
		}
	}
	if l, ok := s.(DiskLeaver); err == nil && ok {
		err = l.LeaveDisks(ctx)
	}
	if err != nil {
		r.obs.Note(fmt.Sprintf("the guest's disks are whole, but their copies may be left at the destination: remove .vmmigrate-%s-* beside the images (%v)", r.entry.ID, err))
	}
}
