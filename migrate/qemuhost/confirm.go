package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Confirm with landed quits the source's QEMU, once QEMU itself says that nothing is left to send: a process that could
// run the guest a second time must not stay. Without landed it takes the migration back; the guest runs on.
func (h *Host) Confirm(ctx context.Context, o migrate.Offer, p migrate.Params, t migrate.Ticket, landed bool) error {
	if err := h.find(o.Name, migrate.SideSource); err != nil {
		return err
	}
	if landed {
		err := h.release(ctx, true)
		if errors.Is(err, migrate.ErrLinkLost) && h.processGone(ctx) {
			return nil // what was to be ended has ended by itself
		}
		return fail("release the source", migrate.SideSource, err, "")
	}
	if p.Resume {
		return nil // the guest is the destination's; there is nothing to take back here
	}
	saved, err := readOffer(o)
	if err == nil {
		if saved.Live, err = h.wasLive(t, saved.Live); err == nil {
			err = h.takeBack(ctx, saved)
		}
	}
	return fail("let the guest run on", migrate.SideSource, err, "")
}

// wasLive tells whether the guest ran before it was stopped for the switch.
func (h *Host) wasLive(t migrate.Ticket, began bool) (bool, error) {
	if len(t.Cookie) == 0 {
		return began, nil // Prepare failed
	}
	c, err := readTicket(t)
	if err == nil && c.Live != nil {
		began = *c.Live
	}
	return began, err
}

// release quits a QEMU whose guest has been sent away whole. In post-copy it waits for the last bytes, or refuses.
func (h *Host) release(ctx context.Context, wait bool) error {
	err := h.await(ctx, func(ctx context.Context) (bool, error) {
		run, m, err := h.look(ctx)
		switch {
		case err != nil:
			return false, err
		case run == qmp.StatePostMigrate && m.Status == qmp.MigrationCompleted:
			return true, nil
		case wait && m.Status == qmp.MigrationPostcopyActive, run == qmp.StateFinishMigrate && m.Status == qmp.MigrationCompleted:
			return false, nil // the last bytes are on their way
		}
		return false, refuse("see whether the guest is gone", migrate.SideSource,
			"this QEMU is "+stateOf(run, m.Status).Reason+", not a leftover", "vmmigrate status shows what runs where")
	}, eventMigration)
	if err != nil {
		return err
	}
	return h.quit(ctx)
}

// takeBack cancels what goes on, lets the guest run if it ran before, and leaves QEMU as it was found. It refuses a
// migration that is in post-copy, as the guest is the destination's then.
func (h *Host) takeBack(ctx context.Context, saved offerCookie) error {
	m, err := qmp.QueryMigrate(ctx, h.c)
	if err != nil {
		return err
	}
	if inPostcopy(m.Status) {
		return &migrate.OpError{Op: "take the migration back", Side: migrate.SideSource, Owner: migrate.OwnerDestination,
			Err: fmt.Errorf("it is in post-copy: %w", migrate.ErrNotSupported), Fix: "vmmigrate recover finishes it"}
	}
	if !terminal(m.Status) {
		saved.Saved = saved.Saved.orNeutral()
		if err := qmp.MigrateCancel(ctx, h.c); err != nil {
			return err
		}
	}
	if err := h.settle(ctx); err != nil {
		return err
	}
	if saved.Live {
		if err := h.runAgain(ctx); err != nil {
			return err
		}
	}
	err = errors.Join(h.dropMirrors(ctx), h.tidySource(ctx, saved.Saved))
	if err == nil {
		h.forget(migrate.SideSource)
	}
	return err
}

// tidySource restores the settings, unless QEMU's migration is stuck and refuses that.
func (h *Host) tidySource(ctx context.Context, saved settings) error {
	m, err := qmp.QueryMigrate(ctx, h.c)
	if err != nil || !terminal(m.Status) {
		return err
	}
	return h.tidy(ctx, saved)
}

// settle waits until QEMU has ended its migration and resumed the guest as far as it does by itself. A QEMU that is
// stuck in its switch is freed by force.
func (h *Host) settle(ctx context.Context) error {
	start := time.Now()
	return h.await(ctx, func(ctx context.Context) (bool, error) {
		run, m, err := h.look(ctx)
		switch {
		case err != nil:
			return false, err
		case run != qmp.StateFinishMigrate && terminal(m.Status):
			return true, nil
		case time.Since(start) < h.stuck:
			return false, nil
		case run == qmp.StateRunning:
			return true, nil // the guest is well; only the migration does not come to its end
		case run == qmp.StateFinishMigrate:
			return false, h.free(ctx)
		}
		return false, nil
	}, eventMigration, eventResume)
}

// runAgain runs a guest that stands still.
func (h *Host) runAgain(ctx context.Context) error {
	run, err := h.runState(ctx)
	if err != nil || run == qmp.StateRunning {
		return err
	}
	if err := qmp.Cont(ctx, h.c); err != nil {
		return &migrate.OpError{Op: "let the guest run on", Side: migrate.SideSource, Owner: migrate.OwnerSource, Err: err,
			Fix: "the guest stands still in the source's QEMU: see that QEMU's log, then send it cont"}
	}
	return h.await(ctx, func(ctx context.Context) (bool, error) {
		run, err := h.runState(ctx)
		return run == qmp.StateRunning, err
	}, eventResume)
}
