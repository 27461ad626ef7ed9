package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Wait is a migration that waits for its moment. Nothing of it has been done: it becomes a migration of the same name when it begins.
type Wait struct {
	ID     string `json:"id"`
	Domain string `json:"domain"`
	Source string `json:"source"`
	Dest   string `json:"destination"`
	// Order says what is to be done then; its form is the caller's.
	Order json.RawMessage `json:"-"`
	// Since is when it was asked for, Start when it is to begin as things stand, Deadline when it begins at the latest; zero if
	// there is none.
	Since    time.Time `json:"since"`
	Start    time.Time `json:"start,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
	// Why tells a person what it waits for.
	Why string `json:"why,omitempty"`
	// Alive tells that a process waits for it. Without one it does not begin.
	Alive bool `json:"alive"`
	// CancelAsked and HurryAsked tell what another process asked for.
	CancelAsked bool `json:"cancel_asked,omitempty"`
	HurryAsked  bool `json:"hurry_asked,omitempty"`
}

// Request is what another process may ask of a wait.
type Request string

// A wait can be given up, or be ended now.
const (
	RequestCancel Request = "cancel"
	RequestHurry  Request = "hurry"
)

// Waiting is a wait in the hands of the process that waits.
type Waiting struct {
	j    *Journal
	id   string
	lock *lock
}

func (j *Journal) waitLock(id string) string { return filepath.Join(j.dir, "run", "wait-"+id+".lock") }

// BeginWait notes that a migration waits. ErrBusy if another process waits with one of that guest already.
func (j *Journal) BeginWait(ctx context.Context, w Wait) (*Waiting, error) {
	const op = "note that a migration waits"
	if j.readOnly {
		return nil, j.explain(op, ErrReadOnly)
	}
	if !idForm.MatchString(w.ID) {
		return nil, j.explain(op, fmt.Errorf("%q is no name of a migration", w.ID))
	}
	others, err := j.Waits(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		if o.Alive && o.Domain == w.Domain && o.Source == w.Source {
			return nil, waitBusy(o)
		}
	}
	out, err := j.holdWait(w.ID)
	if err != nil {
		return nil, err
	}
	_, err = j.db.ExecContext(ctx, "INSERT INTO waits (id, domain, source, dest, wish, since, start, deadline, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		w.ID, w.Domain, w.Source, w.Dest, string(w.Order), nanos(w.Since), nanos(w.Start), nanos(w.Deadline), w.Why)
	if err != nil {
		return nil, errors.Join(j.explain(op, err), out.lock.release())
	}
	return out, nil
}

func (j *Journal) holdWait(id string) (*Waiting, error) {
	const op = "take the migration that waits"
	l, _, err := take(j.waitLock(id), id)
	if errors.Is(err, errLocked) {
		return nil, waitBusy(Wait{ID: id})
	}
	if err != nil {
		return nil, j.explain(op, err)
	}
	return &Waiting{j: j, id: id, lock: l}, nil
}

func waitBusy(o Wait) error {
	return &migrate.OpError{Op: "take the guest", Side: migrate.SideCoordinator, Owner: migrate.OwnerSource,
		Err: fmt.Errorf("migration %s waits for its moment: %w", o.ID, migrate.ErrBusy), Fix: "vmmigrate hurry " + o.ID + ", or vmmigrate cancel " + o.ID}
}

// AttachWait takes over a wait that no process waits with any more. ErrBusy if one does, ErrNoMigration if there is none.
func (j *Journal) AttachWait(ctx context.Context, id string) (Wait, *Waiting, error) {
	w, err := j.FindWait(ctx, id)
	if err != nil {
		return w, nil, err
	}
	h, err := j.holdWait(w.ID)
	if err != nil {
		return w, nil, err
	}
	if w, err = j.FindWait(ctx, w.ID); err != nil { // again, now that nobody else has it
		return w, nil, errors.Join(err, h.Close())
	}
	return w, h, nil
}

// Plan notes when it is to begin as things stand, and why.
func (h *Waiting) Plan(ctx context.Context, start time.Time, why string) error {
	_, err := h.j.db.ExecContext(ctx, "UPDATE waits SET start = ?, why = ? WHERE id = ?", nanos(start), why, h.id)
	return h.j.explain("note what a migration waits for", err)
}

// Asked tells what other processes asked for.
func (h *Waiting) Asked(ctx context.Context) (cancel, hurry bool, err error) {
	w, err := h.j.FindWait(ctx, h.id)
	return w.CancelAsked, w.HurryAsked, err
}

// End takes the wait out of the journal: it was given up, or has become a migration. Close is still to be called.
func (h *Waiting) End(ctx context.Context) error {
	_, err := h.j.db.ExecContext(ctx, "DELETE FROM waits WHERE id = ?", h.id)
	return h.j.explain("note the end of a wait", err)
}

// Close lets go of the wait; unless End was called another process can take it up. It is idempotent.
func (h *Waiting) Close() error {
	if h.lock == nil {
		return nil
	}
	l := h.lock
	h.lock = nil
	return l.release()
}

// Waits are the migrations that wait, the newest first. One that has begun waits no more.
func (j *Journal) Waits(ctx context.Context) ([]Wait, error) {
	const op = "list the migrations that wait"
	if have, err := versionOf(ctx, j.db); err != nil || have < 2 { // an older journal that is only read
		return nil, j.explain(op, err)
	}
	rows, err := j.db.QueryContext(ctx, "SELECT id, domain, source, dest, wish, since, start, deadline, why, request FROM waits "+
		"WHERE id NOT IN (SELECT id FROM migrations) ORDER BY since DESC, id")
	if err != nil {
		return nil, j.explain(op, err)
	}
	out, err := collect(rows, j.scanWait)
	return out, j.explain(op, err)
}

func (j *Journal) scanWait(r *sql.Rows) (w Wait, err error) {
	var since, start, deadline int64
	var order, request string
	if err := r.Scan(&w.ID, &w.Domain, &w.Source, &w.Dest, &order, &since, &start, &deadline, &w.Why, &request); err != nil {
		return w, err
	}
	w.Order, w.Since, w.Start, w.Deadline = json.RawMessage(order), moment(since), moment(start), moment(deadline)
	w.CancelAsked, w.HurryAsked = request == string(RequestCancel), request == string(RequestHurry)
	w.Alive, err = held(j.waitLock(w.ID))
	return w, err
}

// FindWait gives a wait by its name, or by its domain's: then the newest. ErrNoMigration if there is none.
func (j *Journal) FindWait(ctx context.Context, nameOrDomain string) (Wait, error) {
	all, err := j.Waits(ctx)
	if err != nil {
		return Wait{}, err
	}
	for _, byName := range []bool{true, false} {
		for _, w := range all {
			if byName && w.ID == nameOrDomain || !byName && w.Domain == nameOrDomain {
				return w, nil
			}
		}
	}
	return Wait{}, &migrate.OpError{Op: "find a migration that waits", Side: migrate.SideCoordinator,
		Err: fmt.Errorf("%q: %w", nameOrDomain, migrate.ErrNoMigration), Fix: "vmmigrate status lists them"}
}

// Ask asks a wait, in whatever process it is, and does not wait for what comes of it. A later request replaces an earlier one,
// but a wait that was cancelled stays so. With no process that waits, giving up is done at once, and hurrying is refused.
func (j *Journal) Ask(ctx context.Context, id string, r Request) error {
	const op = "ask a migration that waits"
	w, err := j.FindWait(ctx, id)
	switch {
	case err != nil:
		return err
	case j.readOnly:
		return j.explain(op, ErrReadOnly)
	case w.Alive:
		_, err = j.db.ExecContext(ctx, "UPDATE waits SET request = ? WHERE id = ? AND request <> ?", string(r), w.ID, string(RequestCancel))
		return j.explain(op, err)
	case r == RequestCancel:
		_, h, err := j.AttachWait(ctx, w.ID)
		if err != nil {
			return err
		}
		return errors.Join(h.End(ctx), h.Close())
	}
	return &migrate.OpError{Op: op, Side: migrate.SideCoordinator, Owner: migrate.OwnerSource,
		Err: fmt.Errorf("nobody waits with migration %s any more", w.ID), Fix: "vmmigrate recover " + w.ID}
}

// nanos and moment keep a time as nanoseconds since 1970; 0 is none.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
