package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// TestNoDetachFromAFailure: the caller leaves while the paging fails by itself. That it goes on would not be true.
func TestNoDetachFromAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		ctx, cancel := context.WithCancel(t.Context())
		boom := errors.New("the destination's QEMU crashed")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step != migrate.StepPage {
				return nil
			}
			w.Dest.Set(migrate.RunCrashed)
			cancel()
			<-c.Context.Done()
			return boom
		})
		r, err := run(t, w, ctx, w.Request(hybrid))
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerDestination, 1, boom)
	})
}

// TestRecoveryTellsItsOwnFailure: what kept a recovery from its end is in its error with the fix, not only that it began
// because a coordinator had died.
func TestRecoveryTellsItsOwnFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := left(t, hybrid, rec(migrate.PhasePaging, migrate.StepPage, migrate.OwnerDestination, true, true), migrate.RunPostcopyPaused, migrate.RunPostcopyPaused)
		w.Hook(func(c *migratetest.Call) error {
			return migrate.Fail("take it up again", migrate.SideDestination, fmt.Errorf("this libvirt crashes: %w", migrate.ErrNotSupported), "update libvirt")
		})
		r, err := coordinator(t, w, nil).Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomePaused, migrate.OwnerDestination, 6, migrate.ErrNotSupported)
		if r.Error == nil || !strings.Contains(r.Error.Fix, "update libvirt") || !strings.Contains(r.Error.Fix, "vmmigrate recover m-test") {
			t.Errorf("%+v", r.Error)
		}
	})
}

// TestCompletedWithATrouble: the guest arrived and was stopped there by an I/O error; the report says so.
func TestCompletedWithATrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step == migrate.StepFinish {
				w.Dest.Set(migrate.RunPaused)
			}
			return nil
		})
		r, err := run(t, w, t.Context(), w.Request(precopy))
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		if !strings.Contains(strings.Join(r.Notes, "|"), "paused") {
			t.Errorf("notes %q", r.Notes)
		}
	})
}
