package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// maker is an engine that makes an image before it prepares the destination.
type maker struct{ migrate.Engine }

func (m maker) Open(ctx context.Context, j migrate.Job) (migrate.Session, error) {
	s, err := m.Engine.Open(ctx, j)
	return making{s, j}, err
}

type making struct {
	migrate.Session
	j migrate.Job
}

func images() []storage.Made {
	return []storage.Made{{Target: "vda", Path: "/i/web", Staged: ".vmmigrate-m-test-vda", Inode: 7}}
}

func (s making) Prepare(ctx context.Context) error {
	if err := s.j.Keep(ctx, images()); err != nil {
		return err
	}
	return s.Session.Prepare(ctx)
}

// remover keeps what it is told to remove.
func remover(removed *[]storage.Made, err error) func(*migrate.Config) {
	return func(cfg *migrate.Config) {
		cfg.RemoveImages = func(context.Context, migrate.Host) (migrate.ImageRemover, error) {
			return &removing{to: removed, err: err}, nil
		}
	}
}

type removing struct {
	to     *[]storage.Made
	err    error
	closed bool
}

func (r *removing) Remove(_ context.Context, m []storage.Made) error {
	if r.closed {
		return errors.New("it was closed before")
	}
	*r.to = append(*r.to, m...)
	return r.err
}

func (r *removing) Close() error {
	r.closed = true
	return nil
}

// A host that is a QEMU and nothing else is gone once the waiting guest is removed: who removes its images has to be there before.
func TestImagesAreReachedBeforeTheirHostIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := migratetest.NewWorld("web")
		undone := false
		w.Hook(func(call *migratetest.Call) error {
			switch call.Step {
			case migrate.StepCopy:
				return errors.New("boom")
			case migrate.StepUndo:
				undone = true
			}
			return nil
		})
		req := w.Request(precopy)
		req.Engine = maker{req.Engine}
		var removed []storage.Made
		there := &removing{to: &removed}
		r, err := coordinator(t, w, func(cfg *migrate.Config) {
			cfg.RemoveImages = func(context.Context, migrate.Host) (migrate.ImageRemover, error) {
				if undone {
					return nil, errors.New("the host is gone")
				}
				return there, nil
			}
		}).Migrate(t.Context(), req)
		mustHold(t, w, r, err)
		if !undone || len(removed) != 1 || !there.closed {
			t.Errorf("undone is %v, removed %+v, closed is %v", undone, removed, there.closed)
		}
	})
}

// What was made at the destination is removed if the guest did not come, and only then: where it may have run, and ended
// unseen, it is named instead.
func TestImagesOfAFailureAreRemoved(t *testing.T) {
	lost := fmt.Errorf("reset: %w", migrate.ErrLinkLost)
	for name, c := range map[string]struct {
		step    migrate.Step
		err     error
		removed bool
		note    string
	}{
		"completed":         {},
		"prepare fails":     {step: migrate.StepPrepare, err: errors.New("boom"), removed: true},
		"copy fails":        {step: migrate.StepCopy, err: lost, removed: true},
		"did not land":      {step: migrate.StepResume, err: migrate.ErrNotLanded, removed: true},
		"answer of the end": {step: migrate.StepResume, err: lost, note: "it may have run there and ended"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := migratetest.NewWorld("web")
				w.Hook(func(call *migratetest.Call) error {
					if call.Step == c.step && call.N == 1 {
						return c.err
					}
					return nil
				})
				req := w.Request(precopy)
				req.Engine = maker{req.Engine}
				var removed []storage.Made
				r, err := coordinator(t, w, remover(&removed, nil)).Migrate(t.Context(), req)
				mustHold(t, w, r, err)
				if got := len(removed) > 0; got != c.removed || got && !reflect.DeepEqual(removed, images()) {
					t.Errorf("removed %+v after %v", removed, err)
				}
				if notes := strings.Join(r.Notes, "\n"); c.note != "" && (!strings.Contains(notes, c.note) || !strings.Contains(notes, "/i/web")) {
					t.Errorf("notes %q", notes)
				}
				kept := false
				for _, rec := range w.Journal.Records("m-test") {
					kept = kept || reflect.DeepEqual(rec.Images, images())
				}
				if !kept {
					t.Error("the journal does not know of the image")
				}
			})
		})
	}
}

func TestRecoverRemovesImages(t *testing.T) {
	const source, dest = migrate.OwnerSource, migrate.OwnerDestination
	for name, c := range map[string]struct {
		rec     migrate.Record
		source  migrate.RunState
		dest    migrate.RunState
		fails   error
		removed bool
		note    string
	}{
		"preparing":       {rec: rec(migrate.PhasePreparing, migrate.StepPrepare, source, false, false), source: migrate.RunRunning, dest: migrate.RunIncoming, removed: true},
		"copying":         {rec: rec(migrate.PhaseCopying, migrate.StepCopy, source, false, false), source: migrate.RunRunning, removed: true},
		"no agent":        {rec: rec(migrate.PhaseCopying, migrate.StepCopy, source, false, false), source: migrate.RunRunning, fails: errors.New("no agent"), removed: true, note: "no agent"},
		"committed, gone": {rec: rec(migrate.PhaseSwitching, migrate.StepCommit, dest, true, false), source: migrate.RunMigrated, note: "it may have run there"},
		"landed":          {rec: rec(migrate.PhaseFinishing, migrate.StepFinish, dest, true, true), source: migrate.RunMigrated, dest: migrate.RunRunning},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.rec.Images = images()
				w := left(t, precopy, c.rec, c.source, c.dest)
				var removed []storage.Made
				r, err := coordinator(t, w, remover(&removed, c.fails)).Recover(t.Context(), "m-test", migrate.ChoiceNone)
				mustHold(t, w, r, err)
				if got := len(removed) > 0; got != c.removed {
					t.Errorf("removed %+v (%v)", removed, err)
				}
				if notes := strings.Join(r.Notes, "\n"); (c.note != "") != strings.Contains(notes, "/i/web") || !strings.Contains(notes, c.note) {
					t.Errorf("notes %q", notes)
				}
			})
		})
	}
}
