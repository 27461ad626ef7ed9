package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// started is a coordinator that a caretaker believes to have started.
type started struct {
	o     order
	lines *io.PipeWriter
}

// careBench is a caretaker whose coordinators are the test's.
type careBench struct {
	*caretaker
	db   *journal.Journal
	kids chan started
	over chan struct{}
}

func newCareBench(t *testing.T) *careBench {
	t.Helper()
	state := t.TempDir()
	db, err := journal.Open(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	b := &careBench{db: db, kids: make(chan started, 100), over: make(chan struct{})}
	b.caretaker = newCaretaker(&globals{stateDir: state}, slog.New(slog.DiscardHandler))
	b.every = time.Millisecond
	b.start = func(_ *globals, o order) (*exec.Cmd, io.ReadCloser, error) {
		child := exec.Command("true")
		if err := child.Start(); err != nil {
			return nil, nil, err
		}
		r, w := io.Pipe()
		b.kids <- started{o, w}
		return child, r, nil
	}
	return b
}

func (b *careBench) begin(ctx context.Context) {
	go func() {
		defer close(b.over)
		b.run(ctx)
	}()
}

// wait notes a wait, in whose hands it stays until they are closed.
func (b *careBench) wait(t *testing.T, id, domain string) *journal.Waiting {
	t.Helper()
	raw, err := json.Marshal(order{ID: id, Domain: domain, Source: "s", Dest: "d", When: moment{At: time.Unix(1<<33, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := b.db.BeginWait(t.Context(), journal.Wait{ID: id, Domain: domain, Source: "s", Dest: "d", Order: raw, Since: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Waits of processes that are gone are taken up, each by one coordinator at a time, and again where that has ended early.
func TestCaretakerTakesUpWhatNobodyWaitsWith(t *testing.T) {
	b := newCareBench(t)
	alive := b.wait(t, "m-1", "web")
	defer alive.Close()
	if err := b.wait(t, "m-2", "db").Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	b.begin(ctx)
	for range 2 {
		k := <-b.kids
		if k.o.ID != "m-2" || !k.o.Waited || k.o.StateDir != b.g.stateDir || !k.o.When.At.Equal(time.Unix(1<<33, 0)) {
			t.Errorf("%+v", k.o)
		}
		if len(b.kids) > 0 {
			t.Error("a second one was started beside it")
		}
		if err := json.NewEncoder(k.lines).Encode(line{End: &end{Code: exitSource, Error: "the host is not there yet"}}); err != nil {
			t.Fatal(err)
		}
		k.lines.Close()
	}
	k := <-b.kids
	_, h, err := b.db.AttachWait(t.Context(), "m-2") // as the coordinator does
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.End(t.Context()), h.Close()); err != nil {
		t.Fatal(err)
	}
	k.lines.CloseWithError(io.ErrUnexpectedEOF) // killed
	if err := alive.Close(); err != nil {
		t.Fatal(err)
	}
	if k := <-b.kids; k.o.ID != "m-1" {
		t.Errorf("%+v", k.o)
	}
	stop()
	<-b.over // although the last coordinator goes on
}

// A journal that is not there yet, and an order that cannot be read, hold nothing up.
func TestCaretakerGoesOn(t *testing.T) {
	c := newCaretaker(&globals{stateDir: t.TempDir()}, slog.New(slog.DiscardHandler))
	if err := c.look(t.Context()); err != nil {
		t.Error(err)
	}
	b := newCareBench(t)
	h, err := b.db.BeginWait(t.Context(), journal.Wait{ID: "m-1", Domain: "web", Source: "s", Order: []byte("{"), Since: time.Unix(1, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Close(), b.wait(t, "m-2", "db").Close()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	b.begin(ctx)
	if k := <-b.kids; k.o.ID != "m-2" {
		t.Errorf("%+v", k.o)
	}
	stop()
	<-b.over
}

// What a script reads of a wait is as the schema says.
func TestWaitAsJSON(t *testing.T) {
	var out bytes.Buffer
	v, err := newView("json", &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []journal.Wait{{ID: "m-1", Domain: "web", Start: time.Now()},
		{ID: "m-1", Domain: "web", Start: time.Now(), Deadline: time.Now().Add(time.Hour), Why: "as asked", Alive: true}} {
		out.Reset()
		v.waits(w)
		conform(t, migrate.ProgressJSONSchema(), out.String())
		if p, ok := progressOf(t, out.String()); !ok || p.Phase != migrate.PhaseWaiting || p.Wait == nil || !p.Wait.Deadline.Equal(w.Deadline) || p.Wait.Why != w.Why {
			t.Errorf("%+v", p)
		}
	}
}
