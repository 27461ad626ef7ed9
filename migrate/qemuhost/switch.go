package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Switch lets the source send its device state and waits until it is out: until the migration is completed, or in
// post-copy is being paged. An error that wraps ErrNotLanded says that the destination does not and will not run the
// guest: it stands still there until Finish, which is then not to be called for a guest that landed.
func (h *Host) Switch(ctx context.Context, o migrate.Offer, p migrate.Params) error {
	if p.Resume {
		return nil // it was switched before its link broke
	}
	if err := h.find(o.Name, migrate.SideSource); err != nil {
		return err
	}
	h.mu.Lock()
	through := h.through
	h.switched = true
	h.mu.Unlock()
	if through {
		return nil // Perform has done it
	}
	return fail("send the device state", migrate.SideSource, h.switchOver(ctx), "")
}

func (h *Host) switchOver(ctx context.Context) error {
	m, err := qmp.QueryMigrate(ctx, h.c)
	if err != nil {
		return err // nothing was sent
	}
	if m.Status == qmp.MigrationPreSwitchover {
		if err := broken(m); err != nil {
			return notLanded(err)
		}
		if err := qmp.MigrateContinue(ctx, h.c, qmp.MigrationPreSwitchover); err != nil {
			return h.notTold(ctx, err)
		}
	}
	return h.sent(ctx) // an earlier Switch may have gone this far
}

// notTold sorts the errors of migrate-continue: QEMU refused it and stands where it stood or has given up, or it is not
// known whether it was heard.
func (h *Host) notTold(ctx context.Context, err error) error {
	if !refused(err) {
		return unknown(err)
	}
	m, e := qmp.QueryMigrate(ctx, h.c)
	if e != nil {
		return unknown(errors.Join(err, e))
	}
	if m.Status == qmp.MigrationPreSwitchover || m.Status == qmp.MigrationFailed || m.Status == qmp.MigrationCancelled {
		return notLanded(err)
	}
	return unknown(err)
}

// sent waits until the device state is out.
func (h *Host) sent(ctx context.Context) error {
	var since time.Time
	err := h.await(ctx, func(ctx context.Context) (bool, error) {
		m, err := qmp.QueryMigrate(ctx, h.c)
		if err != nil {
			return false, err
		}
		switch {
		case m.Status == qmp.MigrationCompleted, inPostcopy(m.Status):
			return true, nil
		case terminal(m.Status), m.Status == qmp.MigrationCancelling:
			return false, notLanded(ended(m))
		case m.Status == qmp.MigrationPreSwitchover, why(m) == "":
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > h.stuck:
			return false, notLanded(fmt.Errorf("QEMU is stuck in %s after: %s", m.Status, why(m)))
		}
		return false, nil
	}, eventMigration)
	if err != nil && !errors.Is(err, migrate.ErrNotLanded) {
		return unknown(err)
	}
	return err
}

// notLanded marks an error after which the destination certainly does not run the guest.
func notLanded(err error) error {
	return &migrate.OpError{Op: "switch the guest over", Owner: migrate.OwnerSource,
		Err: fmt.Errorf("%w: %w", migrate.ErrNotLanded, err), Fix: migrate.FixOf(err)}
}

// unknown marks an error after which both ends have to be asked.
func unknown(err error) error {
	return &migrate.OpError{Op: "switch the guest over", Owner: migrate.OwnerUnknown, Err: err,
		Fix: "ask both ends: vmmigrate recover"}
}
