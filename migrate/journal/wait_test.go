package journal

import (
	"database/sql"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func aWait(id string) Wait {
	at := time.Unix(1_000_000, 5)
	return Wait{ID: id, Domain: "web", Source: "s", Dest: "d", Order: json.RawMessage(`{"a":1}`), Since: at, Start: at.Add(time.Hour), Deadline: at.Add(2 * time.Hour), Why: "quiet then"}
}

// A wait is there for another process after its own has died, and only then.
func TestWaitOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	one, other := open(t, dir), open(t, dir)
	h, err := one.BeginWait(t.Context(), aWait("m-1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.AttachWait(t.Context(), "m-1"); !errors.Is(err, migrate.ErrBusy) {
		t.Errorf("taken from a process that waits: %v", err)
	}
	if _, err := other.BeginWait(t.Context(), aWait("m-2")); !errors.Is(err, migrate.ErrBusy) {
		t.Errorf("the same guest waits twice: %v", err)
	}
	if err := h.Plan(t.Context(), time.Unix(7, 0), "later"); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil { // as when it is killed
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	w, h, err := other.AttachWait(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if want := aWait("m-1"); w.ID != "m-1" || string(w.Order) != string(want.Order) || !w.Since.Equal(want.Since) || !w.Deadline.Equal(want.Deadline) ||
		!w.Start.Equal(time.Unix(7, 0)) || w.Why != "later" {
		t.Errorf("%+v", w)
	}
	if err := errors.Join(h.End(t.Context()), h.Close()); err != nil {
		t.Fatal(err)
	}
	if all, err := one.Waits(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := one.FindWait(t.Context(), "m-1"); !errors.Is(err, migrate.ErrNoMigration) {
		t.Error(err)
	}
}

func TestAskAWait(t *testing.T) {
	j := open(t, t.TempDir())
	h, err := j.BeginWait(t.Context(), aWait("m-1"))
	if err != nil {
		t.Fatal(err)
	}
	asked := func(wantCancel, wantHurry bool) {
		t.Helper()
		if cancel, hurry, err := h.Asked(t.Context()); err != nil || cancel != wantCancel || hurry != wantHurry {
			t.Errorf("cancel %t, hurry %t, %v", cancel, hurry, err)
		}
	}
	asked(false, false)
	for _, c := range []struct {
		r             Request
		cancel, hurry bool
	}{{RequestHurry, false, true}, {RequestCancel, true, false}, {RequestHurry, true, false}} {
		if err := j.Ask(t.Context(), "web", c.r); err != nil {
			t.Fatal(err)
		}
		asked(c.cancel, c.hurry)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	var oe *migrate.OpError
	if err := j.Ask(t.Context(), "m-1", RequestHurry); !errors.As(err, &oe) || oe.Fix != "vmmigrate recover m-1" {
		t.Errorf("nobody is there to hurry: %v", err)
	}
	if err := j.Ask(t.Context(), "m-1", RequestCancel); err != nil {
		t.Error(err)
	}
	if err := j.Ask(t.Context(), "m-1", RequestCancel); !errors.Is(err, migrate.ErrNoMigration) {
		t.Errorf("it is still there: %v", err)
	}
}

// A wait that has become a migration waits no more, also if its process died between the two.
func TestWaitBecomesAMigration(t *testing.T) {
	j := open(t, t.TempDir())
	h, err := j.BeginWait(t.Context(), aWait("m-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	l, err := j.Begin(t.Context(), migrate.Entry{ID: "m-1", Domain: "web", Source: "s", Started: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if all, err := j.Waits(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// A journal of the version before is read as it is, and brought up to date when it is written.
func TestWaitsOfAnOlderJournal(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	if _, err := j.db.ExecContext(t.Context(), "DROP TABLE waits; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	if all, err := j.Waits(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	again := open(t, dir)
	if h, err := again.BeginWait(t.Context(), aWait("m-1")); err != nil {
		t.Error(err)
	} else if err := h.Close(); err != nil {
		t.Error(err)
	}
	var n int
	if err := again.db.QueryRowContext(t.Context(), "SELECT count(*) FROM waits").Scan(&n); err != nil && !errors.Is(err, sql.ErrNoRows) || n != 1 {
		t.Errorf("%d waits, %v", n, err)
	}
}
