package qemuhost

import (
	"context"
	"errors"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// ResumeGuest runs a guest that stands still here: at a source after a migration away failed, which it takes back, or at
// a destination that has the guest and was never told to run it. It refuses a source in post-copy, whose guest is the
// destination's, and a guest that has not arrived.
func (h *Host) ResumeGuest(ctx context.Context, name string) error {
	const op = "run the guest again"
	if err := h.find(name, ""); err != nil {
		return fail(op, "", err, "")
	}
	run, err := h.runState(ctx)
	if err == nil && run == qmp.StateInMigrate {
		err = refuse(op, "", "it waits for a migration and holds no guest yet", "run the guest on the other host")
	}
	waiting := false
	if err == nil {
		waiting, err = h.hasObject(ctx, waitObject)
	}
	switch {
	case err != nil:
	case waiting:
		err = h.runArrived(ctx)
	default:
		saved := h.savedOf(migrate.SideSource)
		if run == qmp.StatePostMigrate { // what set it up for its migration is gone
			saved = saved.orNeutral()
		}
		err = h.takeBack(ctx, offerCookie{Live: true, Saved: saved})
	}
	return fail(op, "", err, "")
}

// runArrived runs the guest of a destination that Finish was never called for. It does not wait for a post-copy's pages.
func (h *Host) runArrived(ctx context.Context) error {
	postcopy, err := h.arrived(ctx)
	if err != nil {
		return err
	}
	if err := ignoreRefusal(qmp.NBDServerStop(ctx, h.c)); err != nil {
		return err
	}
	if err := h.letRun(ctx, true, postcopy); err != nil {
		return err
	}
	if postcopy {
		return nil // its settings stay until it has all its pages
	}
	return h.tidy(ctx, h.savedOf(migrate.SideDestination).orNeutral())
}

// savedOf gives what was remembered of a side; nothing if another process began the migration.
func (h *Host) savedOf(side migrate.Side) settings {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.saved[side]
}

// Release quits a QEMU whose guest has been sent away whole, and refuses any other. There is no definition to drop, so
// undefine changes nothing.
func (h *Host) Release(ctx context.Context, name string, _ bool) error {
	const op = "release the source"
	if err := h.find(name, ""); err != nil {
		return fail(op, "", err, "")
	}
	return fail(op, "", h.release(ctx, false), "")
}

// Discard quits a QEMU that waits for a guest, or whose guest has arrived and never ran. It refuses any other.
func (h *Host) Discard(ctx context.Context, name string) error {
	const op = "remove the waiting guest"
	if err := h.find(name, ""); err != nil {
		return fail(op, "", err, "")
	}
	return fail(op, "", h.discard(ctx), "")
}

// discard quits this QEMU if its guest has never run. One that is gone already needs nothing.
func (h *Host) discard(ctx context.Context) error {
	run, err := h.runState(ctx)
	if err != nil {
		if errors.Is(err, migrate.ErrLinkLost) && h.processGone(ctx) {
			return nil
		}
		return err
	}
	if run != qmp.StateInMigrate {
		waiting, err := h.hasObject(ctx, waitObject)
		if err != nil {
			return err
		}
		if !waiting || run == qmp.StateRunning {
			return refuse("see whether the guest has run", migrate.SideDestination, "it is "+string(run)+" and may have run here",
				"vmmigrate status shows what runs where; end this QEMU yourself if it is not needed")
		}
	}
	return h.quit(ctx)
}
