package migrate_test

import (
	"context"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// heldElsewhere refuses the guest, which another migration has taken to its destination.
type heldElsewhere struct{ migrate.Journal }

func (heldElsewhere) Begin(context.Context, migrate.Entry) (migrate.Log, error) {
	return nil, &migrate.OpError{Op: "take the guest", Owner: migrate.OwnerDestination, Err: migrate.ErrBusy}
}

// TestRefusedDoesNotClaimTheSource: the report of a migration that did not begin does not say that the source has a guest
// that another migration took away.
func TestRefusedDoesNotClaimTheSource(t *testing.T) {
	w := migratetest.NewWorld("web")
	c := coordinator(t, w, func(cfg *migrate.Config) { cfg.Journal = heldElsewhere{w.Journal} })
	r, err := c.Migrate(t.Context(), w.Request(precopy))
	expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerDestination, 1, migrate.ErrBusy)
}
