package migrate_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

func TestParkFrom(t *testing.T) {
	for in, ok := range map[string]bool{"": true, "after-commit@/tmp/x": true, "in-copy@/tmp/x": true, "after-gate@/tmp/x": true, "in-page@/x": true, "before-resume-source@/x": true,
		"after-commit": false, "after-commit@x": false, "after-comit@/tmp/x": false, "commit@/tmp/x": false, "@/tmp/x": false} {
		if _, err := migrate.ParkFrom(in); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// TestParks stands still at each point until its marker is removed, and shows what is true there.
func TestParks(t *testing.T) {
	for _, c := range []struct {
		point     string
		committed bool
		source    migrate.RunState
		dest      migrate.RunState
	}{
		{"before-prepare", false, migrate.RunRunning, ""},
		{"after-prepare", false, migrate.RunRunning, migrate.RunIncoming},
		{"before-commit", false, migrate.RunPaused, migrate.RunIncoming},
		{"after-commit", true, migrate.RunPaused, migrate.RunIncoming},
		{"before-resume", true, migrate.RunPaused, migrate.RunIncoming},
		{"after-resume", true, migrate.RunMigrated, migrate.RunRunning},
		{"before-finish", true, migrate.RunMigrated, migrate.RunRunning},
		{"after-finish", true, "", migrate.RunRunning},
	} {
		t.Run(c.point, func(t *testing.T) {
			marker := filepath.Join(t.TempDir(), "marker")
			synctest.Test(t, func(t *testing.T) {
				park, err := migrate.ParkFrom(c.point + "@" + marker)
				if err != nil {
					t.Fatal(err)
				}
				w := migratetest.NewWorld("web")
				co := coordinator(t, w, func(cfg *migrate.Config) { cfg.Park = park })
				type result struct {
					r   migrate.Report
					err error
				}
				done := make(chan result, 1)
				go func() {
					r, err := co.Migrate(t.Context(), w.Request(precopy))
					done <- result{r, err}
				}()
				synctestWait(time.Minute)
				b, err := os.ReadFile(marker)
				if err != nil || string(b) != "m-test\n" {
					t.Errorf("marker %q, %v", b, err)
				}
				recs := w.Journal.Records("m-test")
				if last := recs[len(recs)-1]; last.Committed != c.committed {
					t.Errorf("committed %v", last.Committed)
				}
				if w.Source.Run() != c.source || w.Dest.Run() != c.dest {
					t.Errorf("source %q, destination %q", w.Source.Run(), w.Dest.Run())
				}
				if err := os.Remove(marker); err != nil {
					t.Error(err)
				}
				got := <-done
				mustHold(t, w, got.r, got.err)
			})
		})
	}
}

func TestParkInCopy(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "marker")
	synctest.Test(t, func(t *testing.T) {
		park, err := migrate.ParkFrom("in-copy@" + marker)
		if err != nil {
			t.Fatal(err)
		}
		w := migratetest.NewWorld("web")
		w.Hook(func(c *migratetest.Call) error {
			if c.Step == migrate.StepCopy {
				c.Session.Job.Sink.Stats(migratetest.Figures(1<<30, 1<<29, 1<<29, 1))
				<-c.Context.Done() // it copies until it is killed
				return c.Context.Err()
			}
			return nil
		})
		co := coordinator(t, w, func(cfg *migrate.Config) { cfg.Park = park })
		done := make(chan error, 1)
		p := precopy
		p.MaxDuration = time.Hour
		go func() { _, err := co.Migrate(t.Context(), w.Request(p)); done <- err }()
		synctestWait(time.Minute)
		if _, err := os.Stat(marker); err != nil {
			t.Error(err)
		}
		if w.Source.Run() != migrate.RunRunning {
			t.Errorf("source %q", w.Source.Run())
		}
		if err := os.Remove(marker); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, migrate.ErrTimeLimit) {
			t.Error(err)
		}
	})
}
