package migrate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// TestPrecopyDoesNotWaitForEver: the guest was seen to run at the destination, whose answer never comes.
func TestPrecopyDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step != migrate.StepPage {
				return nil
			}
			select {
			case <-c.Context.Done():
				return c.Context.Err()
			case <-time.After(24 * time.Hour):
				t.Error("it waited for a day")
				return nil
			}
		})
		r, err := run(t, w, t.Context(), w.Request(precopy))
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		if w.Source.Run() != "" {
			t.Errorf("source %q", w.Source.Run())
		}
	})
}
