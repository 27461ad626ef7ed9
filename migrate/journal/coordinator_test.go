package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

const childPark = "VMMIGRATE_TEST_PARK"

// migrateAndPark is the child of TestKilledCoordinator: a whole migration of a make-believe guest over a real journal,
// parked where the parent wants to kill it.
func migrateAndPark(dir string) {
	ctx := context.Background()
	park, err := migrate.ParkFrom(os.Getenv(childPark))
	if err != nil {
		fmt.Println("error", err)
		return
	}
	j, err := Open(ctx, dir)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	w := migratetest.NewWorld("web")
	w.Commit() // its own journal sees none
	c, err := migrate.New(migrate.Config{Journal: j, Park: park, Log: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	_, err = c.Migrate(ctx, w.Request(migrate.Params{Strategy: migrate.StrategyPrecopy}))
	fmt.Println("error: it was not parked:", err)
}

// TestKilledCoordinator kills a coordinator at named points of a migration and recovers from its journal.
func TestKilledCoordinator(t *testing.T) {
	for _, c := range []struct {
		point        string
		source, dest migrate.RunState
		outcome      migrate.Outcome
		owner        migrate.Owner
		phase        migrate.Phase
	}{
		{"after-prepare", migrate.RunRunning, migrate.RunIncoming, migrate.OutcomeFailed, migrate.OwnerSource, migrate.PhasePreparing},
		{"before-commit", migrate.RunPaused, migrate.RunIncoming, migrate.OutcomeFailed, migrate.OwnerSource, migrate.PhaseCopying},
		{"after-commit", migrate.RunPaused, "", migrate.OutcomeFailed, migrate.OwnerSource, migrate.PhaseSwitching},
		{"after-resume", migrate.RunMigrated, migrate.RunRunning, migrate.OutcomeCompleted, migrate.OwnerDestination, migrate.PhaseSwitching},
		{"before-finish", migrate.RunMigrated, migrate.RunRunning, migrate.OutcomeCompleted, migrate.OwnerDestination, migrate.PhaseFinishing},
	} {
		t.Run(c.point, func(t *testing.T) {
			dir := t.TempDir()
			killParked(t, dir, c.point)
			w := migratetest.NewWorld("web")
			w.Commit()
			if c.source != migrate.RunRunning {
				w.Source.Set(c.source)
			}
			w.Dest.Set(c.dest)
			j := open(t, dir)
			left, err := j.Unfinished(t.Context())
			if err != nil || len(left) != 1 || left[0].Alive || left[0].Last.Phase != c.phase {
				t.Fatalf("%+v, %v", left, err)
			}
			co, err := migrate.New(migrate.Config{Journal: j, Dial: w.Dial, Engine: w.EngineByName})
			if err != nil {
				t.Fatal(err)
			}
			r, err := co.Recover(t.Context(), left[0].Entry.ID, migrate.ChoiceNone)
			if r.Outcome != c.outcome || r.Owner != c.owner {
				t.Errorf("%v, %v: %v", r.Outcome, r.Owner, err)
			}
			if err := w.Err(); err != nil {
				t.Error(err)
			}
			s, err := j.Load(t.Context(), left[0].Entry.ID)
			if err != nil || !s.Last.Final || s.Alive || s.Report == nil || s.Progress == nil {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

// killParked runs the child until it stands at the point, and kills it there.
func killParked(t *testing.T, dir, point string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childPark+"="+point+"@"+filepath.Join(t.TempDir(), "marker"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	parked := false
	for lines := bufio.NewScanner(out); !parked && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "error") {
			t.Error(lines.Text())
		}
		parked = strings.Contains(lines.Text(), "parked")
	}
	if err := errors.Join(cmd.Process.Kill()); err != nil {
		t.Error(err)
	}
	cmd.Wait() // it was killed
	if !parked {
		t.Fatal("the child ended before it was parked")
	}
}

// TestWholeMigration runs one over a real journal and reads it back.
func TestWholeMigration(t *testing.T) {
	j := open(t, t.TempDir())
	w := migratetest.NewWorld("web")
	w.Commit()
	co, err := migrate.New(migrate.Config{Journal: j})
	if err != nil {
		t.Fatal(err)
	}
	report, err := co.Migrate(t.Context(), w.Request(migrate.Params{Strategy: migrate.StrategyHybrid}))
	if err != nil {
		t.Fatal(err)
	}
	steps, err := j.Steps(t.Context(), report.Migration)
	if err != nil {
		t.Fatal(err)
	}
	var walked []string
	for _, s := range steps {
		walked = append(walked, s.Step.String())
	}
	if got := strings.Join(walked, " "); got != "step(0) check prepare copy copy resume page finish step(0)" {
		t.Error(got)
	}
	s, err := j.Load(t.Context(), report.Migration)
	if err != nil || s.Alive || !s.Last.Final || s.Report.Outcome != migrate.OutcomeCompleted || s.Progress.Percent != 100 {
		t.Errorf("%+v, %v", s, err)
	}
}
