package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func entry(id string) migrate.Entry {
	return migrate.Entry{ID: id, Domain: "web", DomainUUID: "6f3e4f2a-0c9b-4a61-9d53-0a1c2b3d4e5f", SourceHost: "host-a",
		Source: "qemu+tls://a/system", Dest: "qemu+tls://b/system", Engine: migrate.EngineNative,
		Params:  migrate.Params{Strategy: migrate.StrategyHybrid, MaxDowntime: 300 * time.Millisecond, MigrateDisks: []string{"vda"}},
		Started: time.Date(2026, 11, 22, 1, 2, 3, 456, time.UTC), Coordinator: "c pid 1"}
}

func begin(t *testing.T, j *Journal, id string) migrate.Log {
	t.Helper()
	l, err := j.Begin(t.Context(), entry(id))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func record(p migrate.Phase, o migrate.Owner, s migrate.Step) migrate.Record {
	return migrate.Record{At: time.Date(2026, 11, 22, 1, 2, 4, 0, time.UTC), Phase: p, Owner: o, Step: s, Committed: o != migrate.OwnerSource}
}

func TestKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	l := begin(t, j, "m-1")
	r1 := record(migrate.PhaseCopying, migrate.OwnerSource, migrate.StepCopy)
	r2 := record(migrate.PhasePaging, migrate.OwnerDestination, migrate.StepPage)
	r2.Landed, r2.Reason, r2.Outcome, r2.Final, r2.Note = true, migrate.ReasonFailed, migrate.OutcomeFailed, true, "a \"note\"\n"
	left := int64(7)
	prog := migrate.Progress{Migration: "m-1", Phase: migrate.PhasePaging, Owner: migrate.OwnerDestination, Percent: 42.5,
		Time: r1.At, RemainingBytes: &left, ETAMS: &migrate.Range{Low: 1, High: &left}}
	rep := migrate.Report{Schema: migrate.ReportSchema, Migration: "m-1", Domain: "web", Engine: migrate.EngineNative, Strategy: migrate.StrategyHybrid,
		Outcome: migrate.OutcomeFailed, Owner: migrate.OwnerDestination, Error: &migrate.ReportError{Phase: "paging", Cause: "c", Fix: "f"}}
	for _, err := range []error{l.Write(t.Context(), r1), l.Progress(t.Context(), migrate.Progress{Phase: migrate.PhaseCopying, Owner: migrate.OwnerSource}),
		l.Progress(t.Context(), prog), l.Write(t.Context(), r2), j.RequestCancelForTest(t.Context(), "m-1"), l.End(t.Context(), rep, true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	other := open(t, dir)
	got, err := other.Load(t.Context(), "m-1")
	if err != nil {
		t.Fatal(err)
	}
	want := migrate.Saved{Entry: entry("m-1"), Last: r2, Alive: true, Progress: &prog, Report: &rep}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("saved (-want +got):\n%s", d)
	}
	steps, err := other.Steps(t.Context(), "m-1")
	if err != nil || len(steps) != 3 || !cmp.Equal(steps[1:], []migrate.Record{r1, r2}) {
		t.Errorf("steps %+v, %v", steps, err)
	}
}

// RequestCancelForTest writes the request whatever the migration's state is.
func (j *Journal) RequestCancelForTest(ctx context.Context, id string) error {
	_, err := j.soft.ExecContext(ctx, "INSERT INTO requests (migration, at, request) VALUES (?, ?, 'cancel')", id, now())
	return err
}

func TestBusyNamesTheOther(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	l := begin(t, a, "m-1")
	_, err := b.Begin(t.Context(), entry("m-2"))
	if !errors.Is(err, migrate.ErrBusy) || !strings.Contains(err.Error(), "m-1") || !strings.Contains(migrate.FixOf(err), "m-1") {
		t.Errorf("%v (%s)", err, migrate.FixOf(err))
	}
	if _, _, err := b.Attach(t.Context(), "m-1"); !errors.Is(err, migrate.ErrBusy) {
		t.Errorf("attached to a living one: %v", err)
	}
	elsewhere := entry("m-3")
	elsewhere.SourceHost = "host-b"
	l3, err := b.Begin(t.Context(), elsewhere)
	if err != nil {
		t.Errorf("the same domain on another host: %v", err)
	} else {
		l3.Close()
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if s, err := b.Load(t.Context(), "m-1"); err != nil || s.Alive {
		t.Errorf("alive %v after close, %v", s.Alive, err)
	}
	begin(t, b, "m-4") // left before the commit: a new start is allowed
	if left, _ := filepath.Glob(filepath.Join(dir, "run", "*")); len(left) != 2 {
		t.Errorf("lock files left behind: %v", left)
	}
}

func TestLeftAfterCommitIsRecoveredFirst(t *testing.T) {
	j := open(t, t.TempDir())
	l := begin(t, j, "m-1")
	if err := l.Write(t.Context(), record(migrate.PhasePaging, migrate.OwnerDestination, migrate.StepPage)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err := j.Begin(t.Context(), entry("m-2"))
	if !errors.Is(err, migrate.ErrBusy) || migrate.FixOf(err) != "vmmigrate recover m-1" {
		t.Fatalf("%v (%s)", err, migrate.FixOf(err))
	}
	s, l, err := j.Attach(t.Context(), "m-1")
	if err != nil || s.Alive || s.Last.Step != migrate.StepPage {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := l.End(t.Context(), migrate.Report{Outcome: migrate.OutcomeCompleted, Owner: migrate.OwnerDestination}, true); err != nil {
		t.Fatal(err)
	}
	l.Close()
	begin(t, j, "m-2")
}

func TestCancelFromAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	l := begin(t, a, "m-1")
	asked := func() bool {
		v, err := l.CancelAsked(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if asked() {
		t.Error("asked before anybody asked")
	}
	if err := errors.Join(b.RequestCancel(t.Context(), "m-1"), b.RequestCancel(t.Context(), "m-1")); err != nil {
		t.Fatal(err)
	}
	if !asked() {
		t.Error("not asked")
	}
	if err := l.Write(t.Context(), record(migrate.PhasePaging, migrate.OwnerDestination, migrate.StepPage)); err != nil {
		t.Fatal(err)
	}
	if err := b.RequestCancel(t.Context(), "m-1"); err == nil || !strings.Contains(err.Error(), "past its commit") {
		t.Errorf("cancel after the commit: %v", err)
	}
	l.Close()
	if err := b.RequestCancel(t.Context(), "m-1"); err == nil || migrate.FixOf(err) != "vmmigrate recover m-1" {
		t.Errorf("cancel of a dead one: %v", err)
	}
	if err := b.RequestCancel(t.Context(), "m-9"); !errors.Is(err, migrate.ErrNoMigration) {
		t.Errorf("cancel of none: %v", err)
	}
}

func TestListsAndFinds(t *testing.T) {
	j := open(t, t.TempDir())
	for i := range 4 {
		e := entry(fmt.Sprintf("m-%d", i))
		e.Started = e.Started.Add(time.Duration(i) * time.Minute)
		l, err := j.Begin(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.End(t.Context(), migrate.Report{Outcome: migrate.OutcomeFailed, Owner: migrate.OwnerSource}, i != 1); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	names := func(s []migrate.Saved, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, x := range s {
			out = append(out, x.Entry.ID)
		}
		return strings.Join(out, " ")
	}
	if got := names(j.History(t.Context(), 0)); got != "m-3 m-2 m-1 m-0" {
		t.Error(got)
	}
	if got := names(j.History(t.Context(), 2)); got != "m-3 m-2" {
		t.Error(got)
	}
	if got := names(j.Unfinished(t.Context())); got != "m-1" {
		t.Error(got)
	}
	for in, want := range map[string]string{"web": "m-1", "m-3": "m-3"} {
		if got, err := j.Find(t.Context(), in); got != want || err != nil {
			t.Errorf("find %s: %s, %v", in, got, err)
		}
	}
	if _, err := j.Find(t.Context(), "nix"); !errors.Is(err, migrate.ErrNoMigration) {
		t.Error(err)
	}
}

func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenReadOnly(t.Context(), dir); !errors.Is(err, ErrAbsent) || migrate.FixOf(err) == "" {
		t.Errorf("absent: %v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("looking made files: %v", files)
	}
	w := open(t, dir)
	l := begin(t, w, "m-1")
	r, err := OpenReadOnly(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := l.Write(t.Context(), record(migrate.PhaseCopying, migrate.OwnerSource, migrate.StepCopy)); err != nil {
		t.Fatal(err)
	}
	if s, err := r.Load(t.Context(), "m-1"); err != nil || !s.Alive || s.Last.Step != migrate.StepCopy {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := r.Begin(t.Context(), entry("m-2")); !errors.Is(err, ErrReadOnly) {
		t.Errorf("begin: %v", err)
	}
	if err := r.RequestCancel(t.Context(), "m-1"); !errors.Is(err, ErrReadOnly) {
		t.Errorf("cancel: %v", err)
	}
}

// TestBadDirectories: what can be wrong is told apart, each with a fix, and nothing is touched.
func TestBadDirectories(t *testing.T) {
	plant := func(content string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "journal.db"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	full := t.TempDir()
	j := open(t, full)
	if err := begin(t, j, "m-1").Close(); err != nil {
		t.Fatal(err)
	}
	newer := t.TempDir()
	nj := open(t, newer)
	if _, err := nj.db.Exec("PRAGMA user_version = 7"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, dir string
		want      error
	}{
		{"garbage", plant(strings.Repeat("no database at all. ", 300)), ErrDamaged},
		{"newer", newer, ErrNewer},
		{"below a file", filepath.Join(file, "state"), nil},
		{"not to be made", "/proc/vmmigrate/state", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, _ := os.ReadFile(filepath.Join(c.dir, "journal.db"))
			j, err := Open(t.Context(), c.dir)
			if err == nil {
				j.Close()
				t.Fatal("opened")
			}
			if c.want != nil && (!errors.Is(err, c.want) || migrate.FixOf(err) == "") {
				t.Errorf("%v (fix %q), want %v", err, migrate.FixOf(err), c.want)
			}
			if !strings.Contains(err.Error(), c.dir) {
				t.Errorf("%v does not name the directory", err)
			}
			if after, _ := os.ReadFile(filepath.Join(c.dir, "journal.db")); string(after) != string(before) {
				t.Error("the file was changed")
			}
			if r, err := OpenReadOnly(t.Context(), c.dir); err == nil {
				r.Close()
				t.Error("opened for reading")
			}
		})
	}
}

// TestFull: a journal that cannot grow refuses the record, and keeps what it has.
func TestFull(t *testing.T) {
	j := open(t, t.TempDir())
	l := begin(t, j, "m-1")
	if _, err := j.db.Exec("PRAGMA max_page_count = 1"); err != nil { // SQLite takes the present size
		t.Fatal(err)
	}
	var err error
	n := 0
	for ; err == nil && n < 10000; n++ {
		err = l.Write(t.Context(), record(migrate.PhaseCopying, migrate.OwnerSource, migrate.StepCopy))
	}
	if !errors.Is(err, ErrFull) || migrate.FixOf(err) == "" {
		t.Fatalf("after %d: %v", n, err)
	}
	if steps, err := j.Steps(t.Context(), "m-1"); err != nil || len(steps) != n {
		t.Errorf("%d steps, %v; %d were acknowledged", len(steps), err, n)
	}
}

func TestDamagedText(t *testing.T) {
	j := open(t, t.TempDir())
	begin(t, j, "m-1")
	if _, err := j.db.Exec(`UPDATE steps SET record = '{"phase":"copying","owner":"me"}'`); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Load(t.Context(), "m-1"); !errors.Is(err, ErrDamaged) {
		t.Errorf("an unknown owner was read: %v", err)
	}
}

func TestNames(t *testing.T) {
	j := open(t, t.TempDir())
	for _, id := range []string{"", "../x", "a/b", ".x", "a b", strings.Repeat("x", 65)} {
		if l, err := j.Begin(t.Context(), entry(id)); err == nil {
			l.Close()
			t.Errorf("%q was taken", id)
		}
	}
	begin(t, j, "m-1").Close()
	if _, err := j.Begin(t.Context(), entry("m-1")); err == nil {
		t.Error("a name was taken twice")
	}
}

func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		j := open(t, dir)
		wg.Go(func() {
			e := entry(fmt.Sprintf("m-%d", i))
			e.Domain, e.DomainUUID = e.ID, ""
			l, err := j.Begin(t.Context(), e)
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			for range 20 {
				if err := errors.Join(l.Write(t.Context(), record(migrate.PhaseCopying, migrate.OwnerSource, migrate.StepCopy)),
					l.Progress(t.Context(), migrate.Progress{Phase: migrate.PhaseCopying, Owner: migrate.OwnerSource})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkWrite is what a commit adds to a guest's pause.
func BenchmarkWrite(b *testing.B) {
	j, err := Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	l, err := j.Begin(b.Context(), entry("m-1"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := record(migrate.PhaseSwitching, migrate.OwnerDestination, migrate.StepCommit)
	for b.Loop() {
		if err := l.Write(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
