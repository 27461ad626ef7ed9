package migrate_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// leftByAgents is a world in which a coordinator died whose agents moved the RAM.
func leftByAgents(t *testing.T, r migrate.Record, source, dest migrate.RunState) *migratetest.World {
	t.Helper()
	w := migratetest.NewWorld("web")
	w.Agents()
	r.At = time.Now()
	w.Journal.Put(migrate.Entry{ID: "m-test", Domain: "web", Source: "fake:///a", Dest: "fake:///b", Engine: migrate.EngineNBD, Params: hybrid,
		Started: time.Now()}, r)
	if r.Committed {
		w.Commit()
	}
	w.Source.Set(migrate.RunMigrated)
	w.Dest.Set(dest)
	w.Source.Set(source)
	return w
}

// TestAgentsComplete: the whole way, and the record says that the paging ended before the source is released.
func TestAgentsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Agents()
		r, err := run(t, w, t.Context(), w.Request(hybrid))
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		for _, rec := range w.Journal.Records("m-test") {
			if rec.Paged != (rec.Step == migrate.StepFinish || rec.Step == 0) {
				t.Errorf("before %s: paged %v", rec.Step, rec.Paged)
			}
		}
	})
}

// TestAgentsRecover: the destination plainly runs the guest while RAM is missing; releasing the source would lose it.
func TestAgentsRecover(t *testing.T) {
	const dest = migrate.OwnerDestination
	for _, c := range []struct {
		name   string
		rec    migrate.Record
		dest   migrate.RunState
		want   []string
		opened int
	}{
		{"paging", rec(migrate.PhasePaging, migrate.StepPage, dest, true, true), migrate.RunRunning, []string{"recover", "page", "finish"}, 1},
		{"the order to run was lost", rec(migrate.PhaseSwitching, migrate.StepCommit, dest, true, false), migrate.RunPaused,
			[]string{"recover", "resume destination", "recover", "page", "finish"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := leftByAgents(t, c.rec, migrate.RunMigrated, c.dest)
				co := coordinator(t, w, nil)
				if in, err := co.Inspect(t.Context(), "m-test"); err != nil || in.Plan.Kind != migrate.PlanRecover {
					t.Errorf("inspect: %+v, %v", in.Plan, err)
				}
				r, err := co.Recover(t.Context(), "m-test", migrate.ChoiceNone)
				mustHold(t, w, r, err)
				expect(t, r, err, migrate.OutcomeCompleted, dest, 0, nil)
				if !slices.Equal(w.Calls(), c.want) || w.Sessions() != c.opened {
					t.Errorf("did %v with %d sessions, want %v", w.Calls(), w.Sessions(), c.want)
				}
			})
		})
	}
}

// TestAgentsSourceGone: what is missing is lost, or it is not known that nothing was; nobody claims completion, and the
// operator has the last word.
func TestAgentsSourceGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := leftByAgents(t, rec(migrate.PhasePaging, migrate.StepPage, migrate.OwnerDestination, true, true), migrate.RunMigrated, migrate.RunRunning)
		w.Source.Set("")
		_ = w.Err() // that it went is this test's doing
		c := coordinator(t, w, nil)
		r, err := c.Recover(t.Context(), "m-test", migrate.ChoiceNone)
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerDestination, 1, err)
		if err == nil || len(w.Calls()) != 0 {
			t.Errorf("%v, did %v", err, w.Calls())
		}
		if _, err := c.Recover(t.Context(), "m-test", migrate.ChoiceSource); err == nil {
			t.Error("a source that is gone may be chosen")
		}
		r, err = c.Recover(t.Context(), "m-test", migrate.ChoiceDestination)
		if err != nil || r.Outcome != migrate.OutcomeCompleted {
			t.Errorf("the operator's choice: %v, %v", r.Outcome, err)
		}
	})
}

// TestAgentsNeedTheRecord: a source is not released when the journal cannot say that the paging ended.
func TestAgentsNeedTheRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Agents()
		w.Journal.FailWrites(func(r migrate.Record) error {
			if r.Paged {
				return errors.New("the disk is full")
			}
			return nil
		})
		r, err := coordinator(t, w, nil).Migrate(t.Context(), w.Request(hybrid))
		if err == nil || r.Owner != migrate.OwnerDestination || w.Source.Run() == "" || w.Err() != nil {
			t.Errorf("%v, %v; source %q; %v", r.Outcome, err, w.Source.Run(), w.Calls())
		}
		w.Journal.FailWrites(nil)
		r, err = coordinator(t, w, nil).Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
	})
}

// monitored is a host with a monitor.
type monitored struct {
	*migratetest.Host
	x *wires
}

func (h monitored) Monitor(context.Context, string) (qmp.Executor, error) { return h.x, nil }

// wires keeps what QEMU was told.
type wires struct{ told []any }

func (w *wires) Execute(_ context.Context, command string, args, _ any) error {
	w.told = append(w.told, command, args)
	return nil
}

func (w *wires) Subscribe(qmp.SubscribeOptions) (*qmp.Subscription, error) {
	return nil, errors.ErrUnsupported
}

// TestAgentsLeaveNoSetting: a source that takes its guest back sends its RAM again, and so does a destination that has it.
func TestAgentsLeaveNoSetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Agents()
		x := &wires{}
		req := w.Request(hybrid)
		req.Dest = monitored{w.Dest, x}
		r, err := run(t, w, t.Context(), req)
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		if len(x.told) != 2 || x.told[0] != "migrate-set-capabilities" {
			t.Errorf("QEMU was told %v", x.told)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := leftByAgents(t, rec(migrate.PhaseSwitching, migrate.StepCopy, migrate.OwnerSource, false, false), migrate.RunPaused, migrate.RunIncoming)
		x := &wires{}
		c := coordinator(t, w, func(cfg *migrate.Config) {
			cfg.Dial = func(ctx context.Context, uri string) (migrate.Host, error) {
				h, err := w.Dial(ctx, uri)
				if f, ok := h.(*migratetest.Host); ok && uri == w.Source.URI() {
					return monitored{f, x}, err
				}
				return h, err
			}
		})
		r, err := c.Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 4, err)
		if len(x.told) != 2 || x.told[0] != "migrate-set-capabilities" {
			t.Errorf("QEMU was told %v", x.told)
		}
	})
}
