package migrate_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// left puts a world into the state in which a killed coordinator left it.
func left(t *testing.T, p migrate.Params, r migrate.Record, source, dest migrate.RunState) *migratetest.World {
	t.Helper()
	w := migratetest.NewWorld("web")
	if r.At.IsZero() {
		r.At = time.Now()
	}
	w.Journal.Put(migrate.Entry{ID: "m-test", Domain: "web", Source: "fake:///a", Dest: "fake:///b", Engine: migrate.EngineNative, Params: p,
		Started: time.Now()}, r)
	w.Dest.Set("")
	w.Source.Set("")
	w.Dest.Set(dest)
	w.Source.Set(source)
	return w
}

func rec(p migrate.Phase, s migrate.Step, o migrate.Owner, committed, landed bool) migrate.Record {
	return migrate.Record{Phase: p, Step: s, Owner: o, Committed: committed, Landed: landed}
}

// TestRecoverAfterKill: the coordinator was killed in each phase; recover finishes or undoes.
func TestRecoverAfterKill(t *testing.T) {
	const source, dest = migrate.OwnerSource, migrate.OwnerDestination
	undefine := precopy
	undefine.UndefineSource = true
	for _, c := range []struct {
		name    string
		params  migrate.Params
		rec     migrate.Record
		source  migrate.RunState
		dest    migrate.RunState
		outcome migrate.Outcome
		owner   migrate.Owner
		code    int
	}{
		{"checking", precopy, rec(migrate.PhaseChecking, migrate.StepCheck, source, false, false), migrate.RunRunning, "", migrate.OutcomeFailed, source, 4},
		{"preparing", precopy, rec(migrate.PhasePreparing, migrate.StepPrepare, source, false, false), migrate.RunRunning, migrate.RunIncoming, migrate.OutcomeFailed, source, 4},
		{"copying", precopy, rec(migrate.PhaseCopying, migrate.StepCopy, source, false, false), migrate.RunRunning, "", migrate.OutcomeFailed, source, 4},
		{"switching", precopy, rec(migrate.PhaseSwitching, migrate.StepCopy, source, false, false), migrate.RunPaused, migrate.RunIncoming, migrate.OutcomeFailed, source, 4},
		{"committed", precopy, rec(migrate.PhaseSwitching, migrate.StepCommit, dest, true, false), migrate.RunMigrated, "", migrate.OutcomeFailed, source, 4},
		{"committed, destination waits", precopy, rec(migrate.PhaseSwitching, migrate.StepCommit, dest, true, false), migrate.RunMigrated, migrate.RunIncoming, migrate.OutcomeFailed, source, 4},
		{"resumed", precopy, rec(migrate.PhaseSwitching, migrate.StepCommit, dest, true, false), migrate.RunMigrated, migrate.RunRunning, migrate.OutcomeCompleted, dest, 0},
		{"paging, broken", hybrid, rec(migrate.PhasePaging, migrate.StepPage, dest, true, true), migrate.RunPostcopyPaused, migrate.RunPostcopyPaused, migrate.OutcomeCompleted, dest, 0},
		{"finishing", precopy, rec(migrate.PhaseFinishing, migrate.StepFinish, dest, true, true), migrate.RunMigrated, migrate.RunRunning, migrate.OutcomeCompleted, dest, 0},
		{"finished but for the definition", undefine, rec(migrate.PhaseFinishing, migrate.StepFinish, dest, true, true), migrate.RunStopped, migrate.RunRunning, migrate.OutcomeCompleted, dest, 0},
		{"finished", precopy, rec(migrate.PhaseFinishing, migrate.StepFinish, dest, true, true), "", migrate.RunRunning, migrate.OutcomeCompleted, dest, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := left(t, c.params, c.rec, c.source, c.dest)
				co := coordinator(t, w, nil)
				in, err := co.Inspect(t.Context(), "m-test")
				if err != nil || in.Plan.Why == "" || in.Plan.Owner == 0 {
					t.Errorf("inspect: %+v, %v", in.Plan, err)
				}
				if len(w.Calls()) != 0 {
					t.Errorf("inspect did %v", w.Calls())
				}
				r, err := co.Recover(t.Context(), "m-test", migrate.ChoiceNone)
				mustHold(t, w, r, err)
				expect(t, r, err, c.outcome, c.owner, c.code, err)
				if c.owner == source && (w.Source.Run() != migrate.RunRunning || w.Dest.Run() != "") ||
					c.owner == dest && (w.Source.Run() != "" || w.Dest.Run() != migrate.RunRunning) {
					t.Errorf("source %q, destination %q after %v", w.Source.Run(), w.Dest.Run(), w.Calls())
				}
				done := len(w.Calls())
				again, err := coordinator(t, w, func(cfg *migrate.Config) {
					cfg.Dial = func(context.Context, string) (migrate.Host, error) {
						t.Error("a migration that has ended was looked at again")
						return nil, errors.New("no")
					}
				}).Recover(t.Context(), "m-test", migrate.ChoiceNone)
				if again.Outcome != r.Outcome || len(w.Calls()) != done {
					t.Errorf("a second recover: %v, %v, %v", again.Outcome, err, w.Calls()[done:])
				}
			})
		})
	}
}

// TestRecoverUnknown: the destination is silent after the commit. Nobody is resumed until the operator says so, and what
// the operator says counts only where the facts leave it open.
func TestRecoverUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := left(t, precopy, rec(migrate.PhaseSwitching, migrate.StepCommit, migrate.OwnerDestination, true, false), migrate.RunMigrated, "")
		w.Dest.Cut(true)
		c := coordinator(t, w, nil)
		r, err := c.Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomeUnknown, migrate.OwnerUnknown, 7, migrate.ErrOwnerUnknown)
		if w.Source.Run() != migrate.RunMigrated || !strings.Contains(migrate.FixOf(err), "recover m-test") {
			t.Errorf("source %q, fix %q", w.Source.Run(), migrate.FixOf(err))
		}
		r, err = c.Recover(t.Context(), "m-test", migrate.ChoiceSource)
		mustHold(t, w, r, err)
		if r.Owner != migrate.OwnerSource || w.Source.Run() != migrate.RunRunning {
			t.Errorf("owner %v, source %q: %v", r.Owner, w.Source.Run(), err)
		}
		w.Dest.Cut(false)
	})
	synctest.Test(t, func(t *testing.T) {
		w := left(t, precopy, rec(migrate.PhasePaging, migrate.StepPage, migrate.OwnerDestination, true, true), migrate.RunMigrated, migrate.RunRunning)
		_, err := coordinator(t, w, nil).Recover(t.Context(), "m-test", migrate.ChoiceSource)
		if err == nil || len(w.Calls()) != 0 {
			t.Errorf("a wrong choice was followed: %v, %v", err, w.Calls())
		}
	})
}

// TestRecoverStale: an hour after the commit a guest that is gone from the destination may have ended there.
func TestRecoverStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := left(t, precopy, rec(migrate.PhaseSwitching, migrate.StepCommit, migrate.OwnerDestination, true, false), migrate.RunMigrated, "")
		synctestWait(2 * time.Hour)
		r, err := coordinator(t, w, nil).Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomeUnknown, migrate.OwnerUnknown, 7, migrate.ErrOwnerUnknown)
		if w.Source.Run() != migrate.RunMigrated {
			t.Errorf("source %q", w.Source.Run())
		}
	})
}

// TestRecoverStaysStale: a recovery that came to nothing does not make the commit younger.
func TestRecoverStaysStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := left(t, precopy, rec(migrate.PhaseSwitching, migrate.StepCommit, migrate.OwnerDestination, true, false), migrate.RunMigrated, "")
		c := coordinator(t, w, nil)
		w.Dest.Cut(true)
		for range 4 {
			synctestWait(30 * time.Minute)
			if _, err := c.Recover(t.Context(), "m-test", migrate.ChoiceNone); !errors.Is(err, migrate.ErrOwnerUnknown) {
				t.Fatal(err)
			}
		}
		w.Dest.Cut(false) // the guest ran there and was shut down by its owner meanwhile
		r, err := c.Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomeUnknown, migrate.OwnerUnknown, 7, migrate.ErrOwnerUnknown)
		if w.Source.Run() != migrate.RunMigrated {
			t.Errorf("source %q", w.Source.Run())
		}
	})
}

func TestRecoverLaterDisks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the destination is silent before the commit: the source is safe, the rest waits
		w := left(t, precopy, rec(migrate.PhaseCopying, migrate.StepCopy, migrate.OwnerSource, false, false), migrate.RunPaused, migrate.RunIncoming)
		w.Dest.Cut(true)
		c := coordinator(t, w, nil)
		r, err := c.Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 4, err)
		if w.Source.Run() != migrate.RunRunning {
			t.Errorf("source %q", w.Source.Run())
		}
		w.Dest.Cut(false)
		r, err = c.Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		if w.Dest.Run() != "" || w.Source.Run() != migrate.RunRunning {
			t.Errorf("source %q, destination %q, %v", w.Source.Run(), w.Dest.Run(), err)
		}
	})
}

func TestRecoverRefuses(t *testing.T) {
	w := migratetest.NewWorld("web")
	c := coordinator(t, w, nil)
	if _, err := c.Recover(t.Context(), "m-none", migrate.ChoiceNone); !errors.Is(err, migrate.ErrNoMigration) {
		t.Error(err)
	}
	l, err := w.Journal.Begin(t.Context(), migrate.Entry{ID: "m-live"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := c.Recover(t.Context(), "m-live", migrate.ChoiceNone); !errors.Is(err, migrate.ErrBusy) {
		t.Error(err)
	}
}

// TestKilledAnywhere parks a coordinator before and after each of its steps, takes its journal and hosts as they are
// then, and recovers.
func TestKilledAnywhere(t *testing.T) {
	for _, p := range []migrate.Params{precopy, hybrid} {
		for _, step := range []migrate.Step{migrate.StepPrepare, migrate.StepCopy, migrate.StepResume, migrate.StepPage, migrate.StepFinish} {
			for _, done := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) { killedAt(t, p, step, done) })
			}
		}
	}
}

func killedAt(t *testing.T, p migrate.Params, step migrate.Step, done bool) {
	w := migratetest.NewWorld("web")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reached := make(chan struct{})
	gone := make(chan struct{})
	w.Hook(func(c *migratetest.Call) error {
		if c.Step != step || c.N > 1 {
			return nil
		}
		if done {
			if err := c.Do(); err != nil {
				t.Error(err)
			}
		}
		close(reached)
		<-gone // from here on this coordinator is dead
		return context.Canceled
	})
	go coordinator(t, w, nil).Migrate(ctx, w.Request(p))
	<-reached
	synctest.Wait()
	survivor := w.Killed() // what is left when the process dies here
	over := make(chan struct{})
	go func() { // a healthy post-copy ends by itself
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Second):
			}
			if survivor.Dest.Run() == migrate.RunPostcopy {
				survivor.Dest.Set(migrate.RunRunning)
				survivor.Source.Set(migrate.RunMigrated)
			}
		}
	}()
	r, err := coordinator(t, survivor, nil).Recover(t.Context(), "m-test", migrate.ChoiceNone)
	mustHold(t, survivor, r, err)
	s, d := survivor.Source.Run(), survivor.Dest.Run()
	if !(s == migrate.RunRunning && d == "" && r.Owner == migrate.OwnerSource || s == "" && d == migrate.RunRunning && r.Owner == migrate.OwnerDestination) {
		t.Errorf("%s %s done=%v: source %q, destination %q, owner %v, %v after %v", p.Strategy, step, done, s, d, r.Owner, err, survivor.Calls())
	}
	close(over)
	close(gone)
	cancel()
	synctest.Wait()
}
