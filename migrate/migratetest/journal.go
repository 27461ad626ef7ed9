package migratetest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Journal keeps migrations in memory.
type Journal struct {
	world *World
	mu    sync.Mutex
	kept  map[string]*kept
	fail  func(migrate.Record) error
}

type kept struct {
	saved   migrate.Saved
	records []migrate.Record
	shown   []migrate.Progress
}

var _ migrate.Journal = (*Journal)(nil)

// NewJournal is empty.
func NewJournal() *Journal { return &Journal{kept: map[string]*kept{}} }

// FailWrites makes Write return f's error for the records that f objects to.
func (j *Journal) FailWrites(f func(migrate.Record) error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fail = f
}

// Records lists what was written for a migration.
func (j *Journal) Records(id string) []migrate.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	if k := j.kept[id]; k != nil {
		return append([]migrate.Record(nil), k.records...)
	}
	return nil
}

// Shown lists the progress that was kept for a migration.
func (j *Journal) Shown(id string) []migrate.Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	if k := j.kept[id]; k != nil {
		return append([]migrate.Progress(nil), k.shown...)
	}
	return nil
}

// RequestCancel asks the coordinator of a migration to cancel.
func (j *Journal) RequestCancel(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if k := j.kept[id]; k != nil {
		k.saved.CancelAsked = true
	}
}

// Put keeps a migration as a coordinator that was killed would have left it.
func (j *Journal) Put(e migrate.Entry, last migrate.Record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept[e.ID] = &kept{saved: migrate.Saved{Entry: e, Last: last}, records: []migrate.Record{last}}
	if last.Committed && j.world != nil {
		j.world.mu.Lock()
		j.world.commits++
		j.world.mu.Unlock()
	}
}

// Begin opens a migration.
func (j *Journal) Begin(_ context.Context, e migrate.Entry) (migrate.Log, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, k := range j.kept {
		if k.saved.Alive && k.saved.Entry.DomainUUID == e.DomainUUID {
			return nil, fmt.Errorf("migration %s: %w", k.saved.Entry.ID, migrate.ErrBusy)
		}
	}
	first := migrate.Record{At: e.Started, Phase: migrate.PhaseChecking, Owner: migrate.OwnerSource}
	j.kept[e.ID] = &kept{saved: migrate.Saved{Entry: e, Alive: true, Last: first}}
	return &log{j: j, id: e.ID}, nil
}

// Attach takes a migration over.
func (j *Journal) Attach(_ context.Context, id string) (migrate.Saved, migrate.Log, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	k := j.kept[id]
	if k == nil {
		return migrate.Saved{}, nil, fmt.Errorf("%s: %w", id, migrate.ErrNoMigration)
	}
	if k.saved.Alive {
		return migrate.Saved{}, nil, fmt.Errorf("migration %s: %w", id, migrate.ErrBusy)
	}
	saved := k.saved
	k.saved.Alive = true
	return saved, &log{j: j, id: id}, nil
}

// Load reads a migration.
func (j *Journal) Load(_ context.Context, id string) (migrate.Saved, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if k := j.kept[id]; k != nil {
		return k.saved, nil
	}
	return migrate.Saved{}, fmt.Errorf("%s: %w", id, migrate.ErrNoMigration)
}

type log struct {
	j  *Journal
	id string
}

func (l *log) with(f func(*kept) error) error {
	l.j.mu.Lock()
	defer l.j.mu.Unlock()
	k := l.j.kept[l.id]
	if !k.saved.Alive {
		return errors.New("the journal is closed")
	}
	return f(k)
}

func (l *log) Write(_ context.Context, r migrate.Record) error {
	return l.with(func(k *kept) error {
		if l.j.fail != nil {
			if err := l.j.fail(r); err != nil {
				return err
			}
		}
		if w := l.j.world; r.Committed && w != nil {
			w.mu.Lock()
			w.commits++
			w.mu.Unlock()
		}
		k.records, k.saved.Last = append(k.records, r), r
		return nil
	})
}

func (l *log) Progress(_ context.Context, p migrate.Progress) error {
	return l.with(func(k *kept) error {
		k.shown, k.saved.Progress = append(k.shown, p), &p
		return nil
	})
}

func (l *log) CancelAsked(context.Context) (bool, error) {
	asked := false
	err := l.with(func(k *kept) error { asked = k.saved.CancelAsked; return nil })
	return asked, err
}

func (l *log) End(_ context.Context, r migrate.Report, _ bool) error {
	return l.with(func(k *kept) error { k.saved.Report = &r; return nil })
}

func (l *log) Close() error {
	l.j.mu.Lock()
	defer l.j.mu.Unlock()
	l.j.kept[l.id].saved.Alive = false
	return nil
}

// takeOver copies another journal's migrations, all of them dead.
func (j *Journal) takeOver(old *Journal) {
	old.mu.Lock()
	defer old.mu.Unlock()
	for id, k := range old.kept {
		c := *k
		c.records = append([]migrate.Record(nil), k.records...)
		c.shown = append([]migrate.Progress(nil), k.shown...)
		c.saved.Alive = false
		j.kept[id] = &c
	}
}
