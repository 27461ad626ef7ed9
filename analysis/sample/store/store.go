package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// Sentinels for what can be wrong.
var (
	// ErrAbsent: there is no file, or nothing in it yet.
	ErrAbsent = errors.New("no samples were kept there")
	// ErrNoGuest: nothing is kept of a guest of that name.
	ErrNoGuest = errors.New("nothing is kept of this guest")
	// ErrDamaged: the file is none of ours, or is damaged.
	ErrDamaged = errors.New("the file is damaged or holds no samples")
	// ErrNewer: the file was written by a newer version of this package.
	ErrNewer = errors.New("the file was written by a newer version")
)

// Options of a store. The zero value has usual bounds.
type Options struct {
	// MaxBytes the file may take; 0 means DefaultMaxBytes.
	MaxBytes int64
	// Keep is how long each level is kept; 0 means DefaultKeep.
	Keep [levels]time.Duration
}

// DefaultMaxBytes is enough for a few dozen guests.
const DefaultMaxBytes = 1 << 30

const minBytes = 1 << 20 // below that nothing useful fits

// DefaultKeep is twelve hours as they came, four weeks of minutes, half a year of five minutes.
func DefaultKeep() [levels]time.Duration {
	const day = 24 * time.Hour
	return [levels]time.Duration{12 * time.Hour, 28 * day, 183 * day}
}

// Store is an open file of samples. Its methods may be called by several goroutines.
type Store struct {
	path string
	db   *sql.DB
	o    Options
}

// Open opens the file at path for reading and writing, and creates it and its folder if they are missing.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxBytes < minBytes {
		return nil, fmt.Errorf("a store of %d bytes: at least %d are needed", o.MaxBytes, minBytes)
	}
	for i, d := range DefaultKeep() {
		if o.Keep[i] == 0 {
			o.Keep[i] = d
		}
	}
	s := &Store{path: path, o: o}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, s.explain("open", err)
	}
	// auto_vacuum comes before anything else is in the file, later it changes nothing. What a power failure may take are the
	// last seconds.
	db, err := sql.Open("sqlite", s.dsn("rwc", "auto_vacuum(2)", "journal_mode(WAL)", "synchronous(NORMAL)", "journal_size_limit(4194304)"))
	if err != nil {
		return nil, s.explain("open", err)
	}
	db.SetMaxOpenConns(1)
	s.db = db
	if err := upgrade(ctx, db); err != nil {
		return nil, errors.Join(s.explain("open", err), db.Close())
	}
	return s, nil
}

// OpenReadOnly opens a file that another process may be writing. ErrAbsent if there is none.
func OpenReadOnly(ctx context.Context, path string) (*Store, error) {
	s := &Store{path: path}
	if _, err := os.Stat(path); err != nil {
		return nil, s.explain("open", err)
	}
	err := s.read(ctx, s.dsn("ro"))
	if st, statErr := os.Stat(path + "-wal"); err != nil && !errors.Is(err, ErrNewer) && (statErr != nil || st.Size() == 0) {
		// SQLite wants to write its index beside a WAL even to read. With nothing in one the file does not change.
		err = s.read(ctx, s.dsn("ro")+"&immutable=1")
	}
	if err != nil {
		return nil, s.explain("open", err)
	}
	return s, nil
}

func (s *Store) read(ctx context.Context, dsn string) error {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	have, err := versionOf(ctx, db)
	if err == nil && have == 0 {
		err = ErrAbsent
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	s.db = db
	return nil
}

func (s *Store) dsn(mode string, pragmas ...string) string {
	q := url.Values{"mode": {mode}, "_pragma": append([]string{"busy_timeout(10000)", "foreign_keys(1)"}, pragmas...)}
	if mode != "ro" {
		q.Set("_txlock", "immediate")
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: s.path, RawQuery: q.Encode()}).String()
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// explain says which file an error is about, and what kind it is.
func (s *Store) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	var se *sqlite.Error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: %w", ErrAbsent, err)
	case errors.As(err, &se) && (se.Code()&0xff == lib.SQLITE_CORRUPT || se.Code()&0xff == lib.SQLITE_NOTADB):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return fmt.Errorf("%s samples in %s: %w", op, s.path, err)
}

// version is the schema that this code writes.
const version = 1

const schema = `
CREATE TABLE guests (
	id   INTEGER PRIMARY KEY,
	uuid TEXT NOT NULL UNIQUE,
	name TEXT NOT NULL
) STRICT;
CREATE TABLE series (
	id      INTEGER PRIMARY KEY,
	guest   INTEGER NOT NULL REFERENCES guests (id) ON DELETE CASCADE,
	metric  TEXT NOT NULL,
	windows INTEGER NOT NULL, -- 1: not per second, but distinct bytes in windows of one step
	unit    TEXT NOT NULL,
	step    INTEGER NOT NULL, -- nanoseconds
	origin  INTEGER NOT NULL, -- slot 0 begins so long after 1970; less than a step
	newest  INTEGER NOT NULL, -- the last slot that was ever written
	UNIQUE (guest, metric, windows, step)
) STRICT;
CREATE TABLE blocks (
	series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
	level  INTEGER NOT NULL,
	block  INTEGER NOT NULL, -- its first slot / 240
	data   BLOB NOT NULL,    -- level 0: 240 float64; others: 240 × min, mean, max as float32; little-endian, NaN = missing
	PRIMARY KEY (series, level, block)
) STRICT;
`

// upgrade brings an empty file to version, or refuses one.
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
	if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		return err
	}
	return tx.Commit()
}

// asker is a database or a transaction.
type asker interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// versionOf reads the schema's version: 0 for an empty file.
func versionOf(ctx context.Context, q asker) (int, error) {
	var have int
	if err := q.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return 0, err
	}
	if have > version || have < 0 {
		return have, fmt.Errorf("%w (%d, this one knows %d)", ErrNewer, have, version)
	}
	return have, nil
}
