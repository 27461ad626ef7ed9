package migrate_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// TestAnswerLost: the order to run was given, and the destination cannot be asked for a while, or for good.
func TestAnswerLost(t *testing.T) {
	for _, c := range []struct {
		name    string
		ran     bool
		back    time.Duration // when the destination answers again; 0 never
		outcome migrate.Outcome
		owner   migrate.Owner
		code    int
	}{
		{"it runs there", true, 5 * time.Second, migrate.OutcomeCompleted, migrate.OwnerDestination, 0},
		{"it waits there", false, 5 * time.Second, migrate.OutcomeFailed, migrate.OwnerSource, 4},
		{"nobody knows", true, 0, migrate.OutcomeUnknown, migrate.OwnerUnknown, 7},
		{"nobody knows that it waits", false, 0, migrate.OutcomeUnknown, migrate.OwnerUnknown, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := migratetest.NewWorld("web")
				w.Hook(func(call *migratetest.Call) error {
					if call.Step != migrate.StepResume {
						return nil
					}
					if c.ran {
						w.Source.Set(migrate.RunMigrated)
						w.Dest.Set(migrate.RunRunning) // the event is lost too
					}
					w.Dest.Cut(true)
					if c.back > 0 {
						go func() { synctestWait(c.back); w.Dest.Cut(false) }()
					}
					return fmt.Errorf("reset: %w", migrate.ErrLinkLost)
				})
				r, err := run(t, w, t.Context(), w.Request(precopy))
				sentinel := err
				if c.code == 7 {
					sentinel = migrate.ErrOwnerUnknown
				}
				expect(t, r, err, c.outcome, c.owner, c.code, sentinel)
				if c.code == 7 && w.Source.Run() == migrate.RunRunning {
					t.Error("the source was resumed")
				}
			})
		})
	}
}

// TestSeenToRun: the answer to the order is lost and the destination is silent, but its RESUME had come through.
func TestSeenToRun(t *testing.T) {
	for range 20 { // the event and the answer race
		synctest.Test(t, func(t *testing.T) {
			w := migratetest.NewWorld("web")
			w.Hook(func(c *migratetest.Call) error {
				if c.Step != migrate.StepResume {
					return nil
				}
				if err := c.Do(); err != nil {
					t.Error(err)
				}
				w.Dest.Cut(true)
				return fmt.Errorf("reset: %w", migrate.ErrLinkLost)
			})
			r, err := run(t, w, t.Context(), w.Request(precopy))
			expect(t, r, err, migrate.OutcomePaused, migrate.OwnerDestination, 6, migrate.ErrPaused)
		})
	}
}

// TestContradiction: the destination claims not to run the guest after its RESUME was seen. It is not believed.
func TestContradiction(t *testing.T) {
	for range 20 { // the event and the answer race
		synctest.Test(t, func(t *testing.T) {
			w := migratetest.NewWorld("web")
			w.Hook(func(c *migratetest.Call) error {
				if c.Step != migrate.StepResume {
					return nil
				}
				if err := c.Do(); err != nil {
					t.Error(err)
				}
				return migrate.ErrNotLanded
			})
			r, err := run(t, w, t.Context(), w.Request(precopy))
			expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		})
	}
}

// TestGoneAtTheEnd: the source is released, and the destination does not have the guest any more. That is not done.
func TestGoneAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step == migrate.StepFinish {
				w.Dest.Set("")
			}
			return nil
		})
		r, err := run(t, w, t.Context(), w.Request(precopy))
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerDestination, 1, migrate.ErrNoDomain)
	})
}

// TestCommitIsIdempotent: an engine may ask for its commit again; it is written once.
func TestCommitIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step != migrate.StepCopy {
				return nil
			}
			return errors.Join(c.Session.Job.Commit(c.Context), c.Session.Job.Commit(c.Context))
		})
		r, err := run(t, w, t.Context(), w.Request(hybrid))
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		n := 0
		for _, rec := range w.Journal.Records("m-test") {
			if rec.Step == migrate.StepCopy && rec.Committed {
				n++
			}
		}
		if n != 1 {
			t.Errorf("written %d times", n)
		}
	})
}

// TestUndoFails: the session cannot undo, so the hosts' own means bring the source back; or nothing does, and it is said.
func TestUndoFails(t *testing.T) {
	hook := func(w *migratetest.World) func(*migratetest.Call) error {
		return func(c *migratetest.Call) error {
			switch c.Step {
			case migrate.StepCopy:
				c.Do()
				return errors.New("boom")
			case migrate.StepUndo:
				return errors.New("undo: boom")
			}
			return nil
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(hook(w))
		r, err := run(t, w, t.Context(), w.Request(precopy))
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 4, err)
		if w.Source.Run() != migrate.RunRunning || w.Dest.Run() != "" {
			t.Errorf("source %q, destination %q", w.Source.Run(), w.Dest.Run())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(hook(w))
		w.Source.Fail("resume", errors.New("QEMU is stuck"))
		r, err := run(t, w, t.Context(), w.Request(precopy))
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 1, migrate.ErrNotUndone)
	})
}

// TestUndoThatLies: an undo that claims success is believed only once the source was seen to run the guest.
func TestUndoThatLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			switch c.Step {
			case migrate.StepCopy:
				c.Do()
				return errors.New("boom")
			case migrate.StepUndo:
				return migratetest.ErrDone
			}
			return nil
		})
		r, err := run(t, w, t.Context(), w.Request(precopy))
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 4, err)
		if w.Source.Run() != migrate.RunRunning {
			t.Errorf("source %q", w.Source.Run())
		}
	})
}
