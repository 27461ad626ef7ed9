package journal

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Journal is an open journal. Open and OpenReadOnly make one.
type Journal struct {
	dir      string
	readOnly bool
	db       *sql.DB // durable: each transaction is on the disk when it has ended
	soft     *sql.DB // not waited for; the same handle when read-only
}

var _ migrate.Journal = (*Journal)(nil)

// Open opens the journal in dir for reading and writing, and creates both if they are missing.
func Open(ctx context.Context, dir string) (*Journal, error) {
	j := &Journal{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o700); err != nil {
		return nil, j.explain("open the journal", err)
	}
	var err error
	if j.db, err = sql.Open("sqlite", j.dsn("rwc", "journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(0)")); err == nil {
		j.soft, err = sql.Open("sqlite", j.dsn("rw", "synchronous(NORMAL)"))
	}
	if err == nil {
		j.db.SetMaxOpenConns(1)
		j.soft.SetMaxOpenConns(1)
		err = upgrade(ctx, j.db)
	}
	if err != nil {
		j.Close()
		return nil, j.explain("open the journal", err)
	}
	return j, nil
}

// OpenReadOnly opens the journal in dir without changing anything there, for status and history. ErrAbsent if no
// migration was ever started from it.
func OpenReadOnly(ctx context.Context, dir string) (*Journal, error) {
	j := &Journal{dir: dir, readOnly: true}
	if _, err := os.Stat(j.file()); err != nil {
		return nil, j.explain("open the journal", err)
	}
	err := j.openReading(ctx, j.dsn("ro"))
	if err != nil && !errors.Is(err, ErrNewer) && !j.beingWritten() {
		// SQLite wants to write its index beside a WAL even to read it. With no WAL the file does not change.
		err = j.openReading(ctx, j.dsn("ro")+"&immutable=1")
	}
	if err != nil {
		return nil, j.explain("open the journal", err)
	}
	return j, nil
}

func (j *Journal) openReading(ctx context.Context, dsn string) error {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	have, err := versionOf(ctx, db)
	if err == nil && have == 0 {
		err = fmt.Errorf("it was not finished being created: %w", fs.ErrNotExist)
	}
	if err == nil {
		_, err = db.ExecContext(ctx, "SELECT 1 FROM migrations LIMIT 1")
	}
	if err != nil {
		db.Close()
		return err
	}
	j.db, j.soft = db, db
	return nil
}

func (j *Journal) file() string { return filepath.Join(j.dir, "journal.db") }

func (j *Journal) beingWritten() bool {
	st, err := os.Stat(j.file() + "-wal")
	return err == nil && st.Size() > 0
}

func (j *Journal) dsn(mode string, pragmas ...string) string {
	q := url.Values{"mode": {mode}, "_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(10000)", "foreign_keys(1)"}, pragmas...)}
	if mode == "ro" {
		q.Del("_txlock")
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: j.file(), RawQuery: q.Encode()}).String()
}

// checkpoint moves what the log holds into the database. It is called where nobody waits for it, since a commit in the
// middle of a guest's pause must not be the one that has to.
func (j *Journal) checkpoint(ctx context.Context) error {
	_, err := j.db.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	return err
}

// Close closes the database. It is idempotent.
func (j *Journal) Close() error {
	var errs []error
	for _, db := range []*sql.DB{j.soft, j.db} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (j *Journal) idLock(id string) string { return filepath.Join(j.dir, "run", id+".lock") }

// guestKey names a guest on its source host: by UUIDs, or by URI and name where a hypervisor has none.
func guestKey(e migrate.Entry) string {
	host, domain := e.SourceHost, e.DomainUUID
	if host == "" {
		host = e.Source
	}
	if domain == "" {
		domain = e.Domain
	}
	return host + "/" + domain
}

func (j *Journal) guestLock(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(j.dir, "run", fmt.Sprintf("guest-%x.lock", sum[:8]))
}

// Begin opens a migration: it takes the guest and writes the entry. See migrate.Journal.
func (j *Journal) Begin(ctx context.Context, e migrate.Entry) (migrate.Log, error) {
	const op = "begin a migration in the journal"
	if !idForm.MatchString(e.ID) {
		return nil, j.explain(op, fmt.Errorf("%q is no name of a migration: letters, digits, dot, dash and underscore, at most 64", e.ID))
	}
	l, err := j.hold(ctx, e)
	if err != nil {
		return nil, err
	}
	if err := j.insert(ctx, e); err != nil {
		l.Close()
		return nil, j.explain(op, err)
	}
	return l, nil
}

// hold takes both locks of a migration.
func (j *Journal) hold(ctx context.Context, e migrate.Entry) (*log, error) {
	const op = "take the guest"
	if j.readOnly {
		return nil, j.explain(op, ErrReadOnly)
	}
	id, _, err := take(j.idLock(e.ID), e.Coordinator)
	if errors.Is(err, errLocked) {
		return nil, j.busy(ctx, e.ID, "its coordinator is alive")
	}
	if err != nil {
		return nil, j.explain(op, err)
	}
	guest, holder, err := take(j.guestLock(guestKey(e)), e.ID)
	if err != nil {
		id.release() //nolint:errcheck // the other error says more
		if errors.Is(err, errLocked) {
			return nil, j.busy(ctx, holder, "it is migrating "+e.Domain)
		}
		return nil, j.explain(op, err)
	}
	return &log{j: j, id: e.ID, locks: []*lock{guest, id}}, nil
}

// busy tells who holds the guest, and who owns it by that one's journal.
func (j *Journal) busy(ctx context.Context, id, why string) error {
	last, err := lastRecord(ctx, j.db, id)
	if err != nil {
		last.Owner = 0
	}
	return &migrate.OpError{Op: "take the guest", Side: migrate.SideCoordinator, Owner: last.Owner,
		Err: fmt.Errorf("migration %s: %s: %w", id, why, migrate.ErrBusy), Fix: "vmmigrate watch " + id + ", or vmmigrate cancel " + id}
}

// insert writes the entry and its first record, unless the guest has a migration that must be recovered first.
func (j *Journal) insert(ctx context.Context, e migrate.Entry) error {
	entry, err := json.Marshal(e)
	if err != nil {
		return err
	}
	first, err := json.Marshal(migrate.Record{At: e.Started, Phase: migrate.PhaseChecking, Owner: migrate.OwnerSource})
	if err != nil {
		return err
	}
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // no effect after Commit
	if err := refuseLeft(ctx, tx, e); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO migrations (id, guest, domain, started, entry) VALUES (?, ?, ?, ?, ?)",
		e.ID, guestKey(e), e.Domain, e.Started.UnixNano(), string(entry)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO steps (migration, record) VALUES (?, ?)", e.ID, string(first)); err != nil {
		return err
	}
	return tx.Commit()
}

// refuseLeft: another migration of this guest that was left after its commit has to be recovered first.
func refuseLeft(ctx context.Context, q rowsQueryer, e migrate.Entry) error {
	rows, err := q.QueryContext(ctx, "SELECT id FROM migrations WHERE guest = ? AND id <> ? AND final = 0", guestKey(e), e.ID)
	if err != nil {
		return err
	}
	ids, err := collect(rows, func(r *sql.Rows) (string, error) {
		var id string
		return id, r.Scan(&id)
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		last, err := lastRecord(ctx, q, id)
		if err != nil {
			return err
		}
		if last.Committed {
			return &migrate.OpError{Op: "take the guest", Side: migrate.SideCoordinator, Owner: last.Owner,
				Err: fmt.Errorf("migration %s of this guest was left unfinished: %w", id, migrate.ErrBusy), Fix: "vmmigrate recover " + id}
		}
	}
	return nil
}

// Attach takes over a migration whose coordinator is gone. See migrate.Journal.
func (j *Journal) Attach(ctx context.Context, id string) (migrate.Saved, migrate.Log, error) {
	s, err := j.Load(ctx, id)
	if err != nil {
		return s, nil, err
	}
	l, err := j.hold(ctx, s.Entry)
	if err != nil {
		return s, nil, err
	}
	if s, err = j.Load(ctx, id); err == nil && !s.Last.Final { // again, now that nobody else writes
		err = j.explain("take the guest", refuseLeft(ctx, j.db, s.Entry))
	}
	if err != nil {
		l.Close()
		return s, nil, err
	}
	s.Alive = false // that is us
	return s, l, nil
}

func now() int64 { return time.Now().UnixNano() }
