package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Load reads a migration. ErrNoMigration if there is none of that name.
func (j *Journal) Load(ctx context.Context, id string) (migrate.Saved, error) {
	const op = "read the journal"
	var entry string
	err := j.db.QueryRowContext(ctx, "SELECT entry FROM migrations WHERE id = ?", id).Scan(&entry)
	if errors.Is(err, sql.ErrNoRows) {
		return migrate.Saved{}, &migrate.OpError{Op: op, Side: migrate.SideCoordinator,
			Err: fmt.Errorf("%q: %w", id, migrate.ErrNoMigration), Fix: "vmmigrate history lists them"}
	}
	if err != nil {
		return migrate.Saved{}, j.explain(op, err)
	}
	s, err := j.saved(ctx, id, entry)
	return s, j.explain(op, err)
}

func (j *Journal) saved(ctx context.Context, id, entry string) (s migrate.Saved, err error) {
	if err := decode(entry, &s.Entry, "entry"); err != nil {
		return s, err
	}
	if s.Last, err = lastRecord(ctx, j.db, id); err != nil {
		return s, err
	}
	var progress, report sql.NullString
	var asked int
	if err := j.db.QueryRowContext(ctx, "SELECT (SELECT progress FROM progress WHERE migration = ?1), "+
		"(SELECT report FROM reports WHERE migration = ?1), (SELECT count(*) FROM requests WHERE migration = ?1)", id).
		Scan(&progress, &report, &asked); err != nil {
		return s, err
	}
	s.CancelAsked = asked > 0
	if progress.Valid {
		s.Progress = new(migrate.Progress)
		err = decode(progress.String, s.Progress, "progress")
	}
	if report.Valid {
		s.Report = new(migrate.Report)
		err = errors.Join(err, decode(report.String, s.Report, "report"))
	}
	if err == nil {
		s.Alive, err = held(j.idLock(id))
	}
	return s, err
}

func lastRecord(ctx context.Context, q queryer, id string) (r migrate.Record, err error) {
	var text string
	err = q.QueryRowContext(ctx, "SELECT record FROM steps WHERE migration = ? ORDER BY seq DESC LIMIT 1", id).Scan(&text)
	if err != nil {
		return r, err
	}
	return r, decode(text, &r, "record")
}

// decode reads what this package wrote. A damaged text is an error, never a guess.
func decode(text string, v any, what string) error {
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrDamaged, err)
	}
	return nil
}

// Steps lists the records of a migration, oldest first.
func (j *Journal) Steps(ctx context.Context, id string) ([]migrate.Record, error) {
	rows, err := j.db.QueryContext(ctx, "SELECT record FROM steps WHERE migration = ? ORDER BY seq", id)
	if err != nil {
		return nil, j.explain("read the steps", err)
	}
	out, err := collect(rows, func(r *sql.Rows) (rec migrate.Record, err error) {
		var text string
		if err := r.Scan(&text); err != nil {
			return rec, err
		}
		return rec, decode(text, &rec, "record")
	})
	return out, j.explain("read the steps", err)
}

// Unfinished lists the migrations that are under way or were left to be recovered, newest first.
func (j *Journal) Unfinished(ctx context.Context) ([]migrate.Saved, error) {
	return j.list(ctx, "SELECT id, entry FROM migrations WHERE final = 0 ORDER BY started DESC, id", nil)
}

// History lists all migrations, newest first; at most limit of them if limit is above 0.
func (j *Journal) History(ctx context.Context, limit int) ([]migrate.Saved, error) {
	if limit <= 0 {
		limit = -1
	}
	return j.list(ctx, "SELECT id, entry FROM migrations ORDER BY started DESC, id LIMIT ?", []any{limit})
}

func (j *Journal) list(ctx context.Context, query string, args []any) ([]migrate.Saved, error) {
	type row struct{ id, entry string }
	rows, err := j.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, j.explain("list the migrations", err)
	}
	found, err := collect(rows, func(r *sql.Rows) (x row, err error) { return x, r.Scan(&x.id, &x.entry) })
	if err != nil {
		return nil, j.explain("list the migrations", err)
	}
	var out []migrate.Saved
	for _, x := range found {
		s, err := j.saved(ctx, x.id, x.entry)
		if err != nil {
			return nil, j.explain("read migration "+x.id, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// Find gives the name of a migration from its name, or from a domain's: then its newest one that is not final, or else
// its newest.
func (j *Journal) Find(ctx context.Context, nameOrDomain string) (string, error) {
	var id string
	err := j.db.QueryRowContext(ctx, "SELECT id FROM migrations WHERE id = ?1 OR domain = ?1 "+
		"ORDER BY id = ?1 DESC, final, started DESC LIMIT 1", nameOrDomain).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", &migrate.OpError{Op: "find a migration", Side: migrate.SideCoordinator,
			Err: fmt.Errorf("%q: %w", nameOrDomain, migrate.ErrNoMigration), Fix: "vmmigrate history lists them"}
	}
	return id, j.explain("find a migration", err)
}

// RequestCancel asks the coordinator of a migration, in whatever process it is, to cancel. It does not wait for it. A
// migration that nobody drives cannot hear: the error says what to do instead.
func (j *Journal) RequestCancel(ctx context.Context, id string) error {
	const op = "ask to cancel"
	s, err := j.Load(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case s.Last.Final:
		return &migrate.OpError{Op: op, Owner: s.Last.Owner, Err: fmt.Errorf("%w: migration %s has ended: %s", ErrTooLate, id, s.Last.Outcome)}
	case !s.Alive:
		return &migrate.OpError{Op: op, Owner: s.Last.Owner, Err: fmt.Errorf("nobody drives migration %s", id), Fix: "vmmigrate recover " + id}
	case s.Last.Committed && s.Last.Owner == migrate.OwnerDestination:
		return &migrate.OpError{Op: op, Owner: s.Last.Owner, Err: fmt.Errorf("%w: migration %s is past its commit: the destination owns the guest", ErrTooLate, id),
			Fix: "vmmigrate watch " + id}
	case j.readOnly:
		return j.explain(op, ErrReadOnly)
	}
	_, err = j.soft.ExecContext(ctx, "INSERT INTO requests (migration, at, request) VALUES (?, ?, 'cancel') ON CONFLICT DO NOTHING", id, now())
	return j.explain(op, err)
}

// collect reads all rows and closes them.
func collect[T any](rows *sql.Rows, scan func(*sql.Rows) (T, error)) ([]T, error) {
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}
