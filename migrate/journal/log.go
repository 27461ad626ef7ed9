package journal

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// log is one migration in the hands of its coordinator.
type log struct {
	j     *Journal
	id    string
	once  sync.Once
	locks []*lock
	err   error
}

var _ migrate.Log = (*log)(nil)

// Write appends a record; it is on the disk when Write returns.
func (l *log) Write(ctx context.Context, r migrate.Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = l.j.db.ExecContext(ctx, "INSERT INTO steps (migration, record) VALUES (?, ?)", l.id, string(b))
	return l.j.explain("write the journal", err)
}

// Progress replaces the snapshot.
func (l *log) Progress(ctx context.Context, p migrate.Progress) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = l.j.soft.ExecContext(ctx, "INSERT INTO progress (migration, progress) VALUES (?, ?) "+
		"ON CONFLICT (migration) DO UPDATE SET progress = excluded.progress", l.id, string(b))
	return l.j.explain("write the progress", err)
}

// CancelAsked looks for a request to cancel.
func (l *log) CancelAsked(ctx context.Context) (bool, error) {
	n := 0
	err := l.j.soft.QueryRowContext(ctx, "SELECT count(*) FROM requests WHERE migration = ? AND request = 'cancel'", l.id).Scan(&n)
	return n > 0, l.j.explain("look for requests", err)
}

// End keeps the report and, if final, closes the migration.
func (l *log) End(ctx context.Context, r migrate.Report, final bool) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := l.end(ctx, string(b), final); err != nil {
		return l.j.explain("keep the report", err)
	}
	return l.j.explain("tidy the journal", l.j.checkpoint(ctx))
}

func (l *log) end(ctx context.Context, report string, final bool) error {
	tx, err := l.j.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // no effect after Commit
	if _, err := tx.ExecContext(ctx, "INSERT INTO reports (migration, report) VALUES (?, ?) "+
		"ON CONFLICT (migration) DO UPDATE SET report = excluded.report", l.id, report); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE migrations SET final = ? WHERE id = ?", final, l.id); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM requests WHERE migration = ?", l.id); err != nil {
		return err
	}
	return tx.Commit()
}

// Close gives the guest free.
func (l *log) Close() error {
	l.once.Do(func() {
		var errs []error
		for _, k := range l.locks {
			errs = append(errs, k.release())
		}
		l.err = errors.Join(errs...)
	})
	return l.err
}
