package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	precopy = migrate.Params{Strategy: migrate.StrategyPrecopy}
	hybrid  = migrate.Params{Strategy: migrate.StrategyHybrid}
)

func coordinator(t *testing.T, w *migratetest.World, change func(*migrate.Config)) *migrate.Coordinator {
	t.Helper()
	cfg := migrate.Config{Journal: w.Journal, Dial: w.Dial, Engine: w.EngineByName}
	if change != nil {
		change(&cfg)
	}
	c, err := migrate.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run migrates inside a bubble of fake time and checks what must hold of every migration.
func run(t *testing.T, w *migratetest.World, ctx context.Context, req migrate.Request) (migrate.Report, error) {
	t.Helper()
	r, err := coordinator(t, w, nil).Migrate(ctx, req)
	mustHold(t, w, r, err)
	return r, err
}

func mustHold(t *testing.T, w *migratetest.World, r migrate.Report, err error) {
	t.Helper()
	if werr := w.Err(); werr != nil {
		t.Errorf("world: %v (%v)", werr, w.Calls())
	}
	if (err == nil) != (r.Outcome == migrate.OutcomeCompleted) {
		t.Errorf("outcome %v with error %v", r.Outcome, err)
	}
	if !errors.Is(err, migrate.ErrDetached) {
		validate(t, migrate.ReportJSONSchema(), r)
		if r.Text(80) == "" {
			t.Error("no text")
		}
	}
	last := -1.0
	for _, p := range w.Journal.Shown("m-test") {
		if p.Percent < last || p.Percent > 100 {
			t.Errorf("percent %v after %v", p.Percent, last)
		}
		last = p.Percent
		validate(t, migrate.ProgressJSONSchema(), p)
		if p.Percent == 100 && p.Outcome != migrate.OutcomeCompleted {
			t.Errorf("100 percent in %v", p.Phase)
		}
	}
}

func expect(t *testing.T, r migrate.Report, err error, outcome migrate.Outcome, owner migrate.Owner, code int, sentinel error) {
	t.Helper()
	if r.Outcome != outcome || r.Owner != owner {
		t.Errorf("outcome %v, owner %v; want %v, %v (%v)", r.Outcome, r.Owner, outcome, owner, err)
	}
	if c := migrate.ExitCode(r, err); c != code {
		t.Errorf("exit code %d, want %d (%v)", c, code, err)
	}
	if !errors.Is(err, sentinel) {
		t.Errorf("error %v, want %v", err, sentinel)
	}
	if err != nil {
		var oe *migrate.OpError
		if !errors.As(err, &oe) || oe.Phase == 0 || oe.Owner == 0 {
			t.Errorf("error without phase and owner: %#v", err)
		}
	}
}

func TestMigrateCompletes(t *testing.T) {
	for _, p := range []migrate.Params{precopy, hybrid, {Strategy: migrate.StrategyPrecopy, Suspend: true}} {
		synctest.Test(t, func(t *testing.T) {
			w := migratetest.NewWorld("web")
			r, err := run(t, w, t.Context(), w.Request(p))
			expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
			want := []string{"prepare", "copy", "resume", "page", "finish"}
			if got := w.Calls(); !slices.Equal(got, want) {
				t.Errorf("calls %v, want %v", got, want)
			}
			if s, d := w.Source.Run(), w.Dest.Run(); s != "" || d == "" {
				t.Errorf("source %q, destination %q", s, d)
			}
			last := w.Journal.Records("m-test")
			if l := last[len(last)-1]; !l.Final || l.Phase != migrate.PhaseEnded || l.Outcome != migrate.OutcomeCompleted {
				t.Errorf("last record %+v", l)
			}
		})
	}
}

// TestFailures fails each step once, before it did anything, and after it was done with the answer lost.
func TestFailures(t *testing.T) {
	boom := errors.New("boom")
	lost := fmt.Errorf("connection reset: %w", migrate.ErrLinkLost)
	cases := []struct {
		step     migrate.Step
		done     bool // the step is done and only its answer is lost
		err      error
		outcome  migrate.Outcome
		owner    migrate.Owner
		code     int
		sentinel error
		phase    string
	}{
		{migrate.StepPrepare, false, boom, migrate.OutcomeFailed, migrate.OwnerSource, 4, boom, "preparing"},
		{migrate.StepPrepare, true, lost, migrate.OutcomeFailed, migrate.OwnerSource, 4, migrate.ErrLinkLost, "preparing"},
		{migrate.StepCopy, false, lost, migrate.OutcomeFailed, migrate.OwnerSource, 4, migrate.ErrLinkLost, "copying"},
		{migrate.StepCopy, true, boom, migrate.OutcomeFailed, migrate.OwnerSource, 4, boom, "switching"},
		{migrate.StepResume, false, migrate.ErrNotLanded, migrate.OutcomeFailed, migrate.OwnerSource, 4, migrate.ErrNotLanded, "switching"},
		{migrate.StepResume, false, lost, migrate.OutcomeFailed, migrate.OwnerSource, 4, migrate.ErrLinkLost, "switching"},
		{migrate.StepResume, true, lost, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil, ""},
		{migrate.StepFinish, false, lost, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil, ""},
		{migrate.StepFinish, true, lost, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil, ""},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s done=%v %v", c.step, c.done, c.err), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := migratetest.NewWorld("web")
				w.Hook(func(call *migratetest.Call) error {
					if call.Step != c.step || call.N > 1 {
						return nil
					}
					if c.done {
						if err := call.Do(); err != nil {
							t.Error(err)
						}
					}
					return c.err
				})
				r, err := run(t, w, t.Context(), w.Request(precopy))
				expect(t, r, err, c.outcome, c.owner, c.code, c.sentinel)
				if c.owner == migrate.OwnerSource && (w.Source.Run() != migrate.RunRunning || w.Dest.Run() != "") {
					t.Errorf("source %q, destination %q after %v", w.Source.Run(), w.Dest.Run(), w.Calls())
				}
				if c.phase != "" && r.Error.Phase != c.phase {
					t.Errorf("failed in %q, want %q", r.Error.Phase, c.phase)
				}
			})
		})
	}
}

func TestCheckBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		req := w.Request(precopy)
		req.Check = func(context.Context) error {
			return &migrate.OpError{Op: "check", Err: fmt.Errorf("no room: %w", migrate.ErrBlocked), Fix: "free some memory"}
		}
		r, err := run(t, w, t.Context(), req)
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 3, migrate.ErrBlocked)
		if len(w.Calls()) != 0 {
			t.Errorf("something was done: %v", w.Calls())
		}
		if r.Error.Fix != "free some memory" {
			t.Errorf("fix %q", r.Error.Fix)
		}
	})
}

// TestCommitNotWritten: without a commit the destination never runs.
func TestCommitNotWritten(t *testing.T) {
	for _, p := range []migrate.Params{precopy, hybrid} {
		synctest.Test(t, func(t *testing.T) {
			w := migratetest.NewWorld("web")
			w.Journal.FailWrites(func(r migrate.Record) error {
				if r.Committed {
					return errors.New("no space left on device")
				}
				return nil
			})
			r, err := run(t, w, t.Context(), w.Request(p))
			expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 4, err)
			if w.Source.Run() != migrate.RunRunning || slices.Contains(w.Calls(), "resume") {
				t.Errorf("source %q after %v", w.Source.Run(), w.Calls())
			}
			if !strings.Contains(err.Error(), "no space left") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestRecordNotWritten: what must not be done unrecorded is not done.
func TestRecordNotWritten(t *testing.T) {
	for _, step := range []migrate.Step{migrate.StepPrepare, migrate.StepCopy} {
		synctest.Test(t, func(t *testing.T) {
			w := migratetest.NewWorld("web")
			w.Journal.FailWrites(func(r migrate.Record) error {
				if r.Step == step {
					return errors.New("no space left on device")
				}
				return nil
			})
			r, err := run(t, w, t.Context(), w.Request(precopy))
			expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 4, err)
			if slices.Contains(w.Calls(), step.String()) || migrate.FixOf(err) == "" {
				t.Errorf("%v after %v", err, w.Calls())
			}
		})
	}
}

func TestDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		ctx, cancel := context.WithCancel(t.Context())
		w.Hook(func(c *migratetest.Call) error {
			if c.Step == migrate.StepPage {
				cancel()
				<-c.Context.Done()
				return c.Context.Err()
			}
			return nil
		})
		c := coordinator(t, w, nil)
		r, err := c.Migrate(ctx, w.Request(hybrid))
		if !errors.Is(err, migrate.ErrDetached) || migrate.ExitCode(r, err) != 6 || !strings.Contains(migrate.FixOf(err), "recover m-test") {
			t.Fatalf("%v (%s)", err, migrate.FixOf(err))
		}
		if w.Dest.Run() != migrate.RunPostcopy {
			t.Fatalf("destination %q", w.Dest.Run())
		}
		// It goes on by itself; recover attaches to it and releases the source at the end.
		go func() {
			synctestWait(5 * time.Second)
			w.Dest.Set(migrate.RunRunning)
			w.Source.Set(migrate.RunMigrated)
		}()
		r, err = c.Recover(t.Context(), "m-test", migrate.ChoiceNone)
		mustHold(t, w, r, err)
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		if w.Source.Run() != "" {
			t.Errorf("source %q", w.Source.Run())
		}
	})
}

// TestLinkLostInPaging: the link is cut for ten seconds; the post-copy is recovered over new connections.
func TestLinkLostInPaging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step == migrate.StepPage && c.N == 1 {
				w.Source.Set(migrate.RunPostcopyPaused)
				w.Dest.Set(migrate.RunPostcopyPaused)
				w.Dest.Cut(true)
				go func() { synctestWait(10 * time.Second); w.Dest.Cut(false) }()
				return fmt.Errorf("stalled: %w", migrate.ErrPaused)
			}
			return nil
		})
		r, err := run(t, w, t.Context(), w.Request(hybrid))
		expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		tries := 0
		for _, n := range r.Notes {
			if strings.HasPrefix(n, "recovery, try") {
				tries++
			}
		}
		if tries < 3 {
			t.Errorf("%d tries in %q", tries, r.Notes)
		}
		if w.Sessions() != 2 {
			t.Errorf("%d sessions; the old one's connection was gone for good", w.Sessions())
		}
	})
}

func TestRecoveryGivenUp(t *testing.T) {
	pause := func(w *migratetest.World) func(*migratetest.Call) error {
		return func(c *migratetest.Call) error {
			switch c.Step {
			case migrate.StepPage:
				w.Source.Set(migrate.RunPostcopyPaused)
				w.Dest.Set(migrate.RunPostcopyPaused)
				return fmt.Errorf("stalled: %w", migrate.ErrPaused)
			case migrate.StepRecover:
				return fmt.Errorf("no route: %w", migrate.ErrLinkLost)
			}
			return nil
		}
	}
	t.Run("by time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := migratetest.NewWorld("web")
			w.Hook(pause(w))
			began := time.Now()
			r, err := run(t, w, t.Context(), w.Request(hybrid))
			expect(t, r, err, migrate.OutcomePaused, migrate.OwnerDestination, 6, migrate.ErrPaused)
			if d := time.Since(began); d > 11*time.Minute || d < 10*time.Minute {
				t.Errorf("gave up after %v", d)
			}
			if rec := w.Journal.Records("m-test"); rec[len(rec)-1].Final {
				t.Error("the journal closed a migration that can be recovered")
			}
			w.Hook(nil)
			r, err = coordinator(t, w, nil).Recover(t.Context(), "m-test", migrate.ChoiceNone)
			mustHold(t, w, r, err)
			expect(t, r, err, migrate.OutcomeCompleted, migrate.OwnerDestination, 0, nil)
		})
	})
	t.Run("by the caller", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := migratetest.NewWorld("web")
			w.Hook(pause(w))
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			r, err := run(t, w, ctx, w.Request(hybrid))
			expect(t, r, err, migrate.OutcomePaused, migrate.OwnerDestination, 6, migrate.ErrPaused)
		})
	})
}

func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		if _, err := w.Journal.Begin(t.Context(), migrate.Entry{ID: "m-other", DomainUUID: "6f3e4f2a-0c9b-4a61-9d53-0a1c2b3d4e5f"}); err != nil {
			t.Fatal(err)
		}
		r, err := run(t, w, t.Context(), w.Request(precopy))
		expect(t, r, err, migrate.OutcomeFailed, migrate.OwnerSource, 1, migrate.ErrBusy)
		if !strings.Contains(err.Error(), "m-other") {
			t.Errorf("%v does not name the other", err)
		}
	})
}
