package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// version is the schema that this code writes.
const version = 2

// ErrNewer: the journal was written by a newer vmmigrate.
var ErrNewer = errors.New("the journal was written by a newer vmmigrate")

// upgrades[v] brings a database from version v to v+1.
var upgrades = []string{`
CREATE TABLE migrations (
	id      TEXT PRIMARY KEY,
	guest   TEXT NOT NULL,    -- source host and domain, as one key
	domain  TEXT NOT NULL,
	started INTEGER NOT NULL, -- nanoseconds since 1970
	entry   TEXT NOT NULL,    -- migrate.Entry as JSON
	final   INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX migrations_guest ON migrations (guest, final);
CREATE INDEX migrations_started ON migrations (started);
CREATE TABLE steps (
	seq       INTEGER PRIMARY KEY AUTOINCREMENT,
	migration TEXT NOT NULL REFERENCES migrations (id),
	record    TEXT NOT NULL   -- migrate.Record as JSON; rows are never changed
) STRICT;
CREATE INDEX steps_migration ON steps (migration, seq);
CREATE TABLE progress (
	migration TEXT PRIMARY KEY REFERENCES migrations (id),
	progress  TEXT NOT NULL   -- the latest migrate.Progress as JSON
) STRICT;
CREATE TABLE requests (
	migration TEXT PRIMARY KEY REFERENCES migrations (id),
	at        INTEGER NOT NULL,
	request   TEXT NOT NULL   -- "cancel"
) STRICT;
CREATE TABLE reports (
	migration TEXT PRIMARY KEY REFERENCES migrations (id),
	report    TEXT NOT NULL   -- migrate.Report as JSON
) STRICT;
`, `
CREATE TABLE waits (          -- migrations that have not begun
	id       TEXT PRIMARY KEY, -- the migration's, once it begins
	domain   TEXT NOT NULL,
	source   TEXT NOT NULL,
	dest     TEXT NOT NULL,
	wish     TEXT NOT NULL,    -- what is to be done, as its caller wrote it
	since    INTEGER NOT NULL, -- nanoseconds since 1970, as are the next two; 0 is none
	start    INTEGER NOT NULL,
	deadline INTEGER NOT NULL,
	why      TEXT NOT NULL,
	request  TEXT NOT NULL DEFAULT '' -- "cancel" or "hurry"
) STRICT;
`}

// upgrade brings the database to version, or refuses it.
func upgrade(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // no effect after Commit
	have, err := versionOf(ctx, tx)
	if err != nil || have == version {
		return err
	}
	for v := have; v < version; v++ {
		if _, err := tx.ExecContext(ctx, upgrades[v]); err != nil {
			return fmt.Errorf("upgrade the journal from version %d: %w", v, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

type rowsQueryer interface {
	queryer
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// versionOf reads the schema's version: 0 for an empty file. A newer or an impossible one is refused.
func versionOf(ctx context.Context, q queryer) (int, error) {
	var have int
	if err := q.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return 0, err
	}
	if have > version || have < 0 {
		return have, fmt.Errorf("%w (version %d, this one knows %d)", ErrNewer, have, version)
	}
	return have, nil
}
