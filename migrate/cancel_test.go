package migrate_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// blockIn holds a step until it is cancelled or its context ends.
func blockIn(step migrate.Step, reached func()) func(*migratetest.Call) error {
	return func(c *migratetest.Call) error {
		if c.Step != step || c.N > 1 {
			return nil
		}
		reached()
		select {
		case <-c.Session.Cancelled():
			return migrate.ErrCancelled
		case <-c.Context.Done():
			return c.Context.Err()
		}
	}
}

func TestCancel(t *testing.T) {
	for _, step := range []migrate.Step{migrate.StepPrepare, migrate.StepCopy} {
		t.Run("context in "+step.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := migratetest.NewWorld("web")
				ctx, cancel := context.WithCancel(t.Context())
				w.Hook(blockIn(step, cancel))
				r, err := run(t, w, ctx, w.Request(precopy))
				expect(t, r, err, migrate.OutcomeCancelled, migrate.OwnerSource, 4, migrate.ErrCancelled)
				if w.Source.Run() != migrate.RunRunning || w.Dest.Run() != "" {
					t.Errorf("source %q, destination %q", w.Source.Run(), w.Dest.Run())
				}
			})
		})
		t.Run("request in "+step.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := migratetest.NewWorld("web")
				w.Hook(blockIn(step, func() { w.Journal.RequestCancel("m-test") }))
				r, err := run(t, w, t.Context(), w.Request(precopy))
				expect(t, r, err, migrate.OutcomeCancelled, migrate.OwnerSource, 4, migrate.ErrCancelled)
			})
		})
	}
}

// TestCancelIgnored: a session that does not heed Cancel has its context ended.
func TestCancelIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		ctx, cancel := context.WithCancel(t.Context())
		w.Hook(func(c *migratetest.Call) error {
			if c.Step != migrate.StepCopy {
				return nil
			}
			cancel()
			<-c.Context.Done()
			return c.Context.Err()
		})
		r, err := run(t, w, ctx, w.Request(precopy))
		expect(t, r, err, migrate.OutcomeCancelled, migrate.OwnerSource, 4, migrate.ErrCancelled)
	})
}

func TestTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(blockIn(migrate.StepCopy, func() {}))
		p := precopy
		p.MaxDuration = 3 * time.Minute
		began := time.Now()
		r, err := run(t, w, t.Context(), w.Request(p))
		expect(t, r, err, migrate.OutcomeCancelled, migrate.OwnerSource, 5, migrate.ErrTimeLimit)
		if d := time.Since(began); d != 3*time.Minute {
			t.Errorf("took %v", d)
		}
	})
}

// TestCancelAfterCommit: neither a request nor the context stops it before the destination runs and the source is released.
func TestCancelAfterCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		ctx, cancel := context.WithCancel(t.Context())
		w.Hook(func(c *migratetest.Call) error {
			if c.Step == migrate.StepResume {
				w.Journal.RequestCancel("m-test")
				cancel()
				synctestWait(time.Second)
			}
			return nil
		})
		r, err := run(t, w, ctx, w.Request(precopy))
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "after the commit") }) {
			t.Errorf("notes %q", r.Notes)
		}
	})
}

// synctestWait lets fake time pass; it blocks on nothing real.
func synctestWait(d time.Duration) { <-time.After(d) }
