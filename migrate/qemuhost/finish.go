package qemuhost

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Finish with landed lets the guest run here, unless it was paused at the source or Params.Suspend asks for a pause,
// and in post-copy waits for the last page. Without landed it quits this QEMU: a QEMU that a migration came to cannot
// take another one in, so nothing is lost that its owner could still use.
func (h *Host) Finish(ctx context.Context, o migrate.Offer, p migrate.Params, t migrate.Ticket, landed bool) error {
	if !landed {
		return fail("remove the waiting guest", migrate.SideDestination, h.discard(ctx), "")
	}
	err := h.find("", migrate.SideDestination)
	if err == nil {
		err = h.land(ctx, p, t)
	}
	return fail("let the guest run", migrate.SideDestination, err, "")
}

func (h *Host) land(ctx context.Context, p migrate.Params, t migrate.Ticket) error {
	c, err := readTicket(t)
	if err != nil {
		return err
	}
	wantRun := !p.Suspend && (c.Live == nil || *c.Live)
	if c.NBD != nil {
		// Nobody may write to the disks but the guest; the source's mirrors ended with Perform. A refusal means that the
		// server was stopped before.
		if err := ignoreRefusal(qmp.NBDServerStop(ctx, h.c)); err != nil {
			return err
		}
	}
	if wantRun && h.FinishesEarly(p) {
		if err := h.runOnArrival(ctx); err != nil {
			return err
		}
	}
	postcopy, err := h.arrived(ctx)
	if err != nil {
		return err
	}
	if err := h.letRun(ctx, wantRun, postcopy); err != nil {
		return err
	}
	if postcopy {
		if err := h.allPaged(ctx); err != nil {
			return err
		}
	}
	if err := h.tidy(ctx, c.Saved); err != nil {
		h.log.Warn("the destination's settings could not be restored", "err", err)
	}
	h.forget(migrate.SideDestination)
	return nil
}

// FinishesEarly: QEMU keeps in mind that it was told to run a guest that has not arrived. Where somebody else moves the RAM and
// decides when the device state goes through, the guest then runs as soon as that is loaded.
func (h *Host) FinishesEarly(p migrate.Params) bool { return p.SharedRAM && !p.Resume }

// runOnArrival has QEMU run the guest as soon as it is there. It may be on its way already, so QEMU is asked nothing; what it
// refuses is left to letRun, which says why.
func (h *Host) runOnArrival(ctx context.Context) error {
	err := qmp.ObjectDel(ctx, h.c, waitObject)
	if err == nil {
		if err = qmp.Cont(ctx, h.c); err != nil && refused(err) {
			return h.markWaiting(ctx)
		}
	}
	return ignoreRefusal(err)
}

// arrived waits for the device state. It tells whether RAM is still missing.
func (h *Host) arrived(ctx context.Context) (postcopy bool, err error) {
	err = h.await(ctx, func(ctx context.Context) (bool, error) {
		m, err := qmp.QueryMigrate(ctx, h.c)
		switch {
		case err != nil:
			return false, err
		case inPostcopy(m.Status):
			postcopy = true
			return true, nil
		case m.Status == qmp.MigrationCompleted:
			return true, nil
		case terminal(m.Status):
			return false, &migrate.OpError{Op: "load the guest", Side: migrate.SideDestination, Owner: migrate.OwnerSource,
				Err: fmt.Errorf("%w: %w", migrate.ErrNotLanded, ended(m)), Fix: "see the destination QEMU's log"}
		}
		return false, nil
	}, eventMigration)
	return postcopy, err
}

// letRun takes away the sign that the guest has never run and, if it is to run, runs it.
func (h *Host) letRun(ctx context.Context, want, postcopy bool) error {
	run, err := h.runState(ctx)
	if err != nil {
		return err
	}
	if err := h.dropObject(ctx, waitObject); err != nil {
		return err
	}
	if !want || run == qmp.StateRunning {
		return nil
	}
	if err := qmp.Cont(ctx, h.c); err != nil {
		if !refused(err) || postcopy {
			return err
		}
		// It did not run and will not: the source still can.
		return errors.Join(&migrate.OpError{Op: "let the guest run", Side: migrate.SideDestination, Owner: migrate.OwnerSource,
			Err: fmt.Errorf("%w: %w", migrate.ErrNotLanded, err), Fix: "see the destination QEMU's log"}, h.markWaiting(ctx))
	}
	return h.await(ctx, func(ctx context.Context) (bool, error) {
		run, err := h.runState(ctx)
		return run == qmp.StateRunning, err
	}, eventResume)
}

// allPaged waits for the last page of a post-copy.
func (h *Host) allPaged(ctx context.Context) error {
	return h.await(ctx, func(ctx context.Context) (bool, error) {
		m, err := qmp.QueryMigrate(ctx, h.c)
		switch {
		case err != nil:
			return false, err
		case m.Status == qmp.MigrationCompleted:
			return true, nil
		case m.Status == qmp.MigrationPostcopyPaused:
			return false, &migrate.OpError{Op: "fetch the rest of the RAM", Side: migrate.SideDestination, Owner: migrate.OwnerDestination,
				Err: migrate.ErrPaused, Fix: "recover it when the link is back: vmmigrate recover"}
		case terminal(m.Status):
			return false, fmt.Errorf("the post-copy ended as %s: %w", m.Status, ended(m))
		}
		return false, nil
	}, eventMigration)
}

// tidy removes what this driver made in QEMU and restores what it changed.
func (h *Host) tidy(ctx context.Context, saved settings) error {
	err := h.restore(ctx, saved) // first: it takes the credentials out of use
	return errors.Join(err, h.dropObject(ctx, tlsObject))
}
