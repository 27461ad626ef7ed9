package migrate_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// TestRecoverOverTheNewConnection: the destination's connection breaks in the switch of a post-copy, and the questions
// that follow dial anew. The recovery must not be tried over the old one for ever.
func TestRecoverOverTheNewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			switch {
			case c.Step == migrate.StepResume:
				w.Source.Set(migrate.RunPostcopyPaused)
				w.Dest.Set(migrate.RunPostcopyPaused)
				w.Dest.Cut(true)
				go func() { synctestWait(2 * time.Second); w.Dest.Cut(false) }()
				return fmt.Errorf("reset: %w", migrate.ErrLinkLost)
			case c.Step == migrate.StepRecover:
				_, err := c.Session.Job.Dest.State(c.Context, "web")
				return err
			}
			return nil
		})
		began := time.Now()
		r, err := run(t, w, t.Context(), w.Request(hybrid))
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		if d := time.Since(began); w.Sessions() != 2 || d > time.Minute {
			t.Errorf("%d sessions in %v: %v", w.Sessions(), d, w.Calls())
		}
	})
}
