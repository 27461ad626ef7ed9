package migrate_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// TestNamesake: another domain of the guest's name runs at the destination. The source's daemon, which drives this
// migration, meets it and gives up; nobody is told to stop either of them.
func TestNamesake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Dest.Alien()
		exists := errors.New("domain 'web' already exists")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step != migrate.StepCopy {
				return nil
			}
			w.Dest.Set("")
			return errors.Join(c.Session.Job.Commit(c.Context), exists)
		})
		r, err := run(t, w, t.Context(), w.Request(migrate.Params{Strategy: migrate.StrategyPrecopy, PeerToPeer: true}))
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 4, exists)
	})
}
