package qmp_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

// wantUnsent runs something that must wait on our side for room, while one command
// is with QEMU, gives it every chance to get through, and calls it back.
func wantUnsent(t *testing.T, c *qmp.Client, fn func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	for range 20_000 {
		if n := qmp.CountSent(c); n != 1 {
			t.Errorf("%d commands are with QEMU, want 1", n)
			break
		}
		runtime.Gosched()
	}
	cancel()
	err := <-done
	var ce *qmp.CallError
	if !errors.As(err, &ce) || ce.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a command that was not sent", err)
	}
}

// An abandoned command that QEMU still has counts, or its queue could fill up.
func TestAbandonedCommandKeepsItsPlace(t *testing.T) {
	gate := make(chan struct{})
	ctx, cancel := context.WithCancel(testContext(t))
	c := dial(t, qmptest.Listen(t, []qmptest.Step{
		qmptest.Negotiate("oob"), qmptest.Expect("slow").As("slow"), qmptest.Do(cancel),
		qmptest.Do(func() { <-gate }), qmptest.Reply("slow", nil),
		qmptest.Expect("yank").OOB(true).Return(nil), qmptest.Expect("next").Return(nil),
	}), qmp.WithWindow(1))
	var ce *qmp.CallError
	if err := c.Execute(ctx, "slow", nil, nil); !errors.As(err, &ce) || !ce.Sent {
		t.Fatalf("slow: %v", err)
	}
	wantUnsent(t, c, func(ctx context.Context) error { return c.Execute(ctx, "b", nil, nil) })
	close(gate)
	for _, err := range []error{qmp.Yank(testContext(t), c), c.Execute(testContext(t), "next", nil, nil)} {
		if err != nil {
			t.Error(err)
		}
	}
}

// An out-of-band command does not wait for room among the others.
func TestOOBHasItsOwnWindow(t *testing.T) {
	c := script(t, qmptest.Expect("yank").OOB(true).Return(nil))
	release := qmp.HoldWindow(c)
	defer release()
	if err := qmp.Yank(testContext(t), c); err != nil {
		t.Error(err)
	}
}

// A second descriptor waits until the first has found its command.
func TestSecondFileWaits(t *testing.T) {
	arrived, gate := make(chan struct{}), make(chan struct{})
	c := dial(t, qmptest.Listen(t, []qmptest.Step{
		qmptest.Negotiate(), qmptest.Expect("getfd").File(wantText(t, "first")).As("a"),
		qmptest.Do(func() { close(arrived); <-gate }), qmptest.Reply("a", nil),
		qmptest.Expect("getfd").File(wantText(t, "third")).Return(nil),
	}))
	first, second := pipeWith(t, "first"), pipeWith(t, "second")
	ctx := testContext(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := qmp.GetFD(ctx, c, "a", first); err != nil {
			t.Error(err)
		}
	})
	<-arrived
	wantUnsent(t, c, func(ctx context.Context) error { return qmp.GetFD(ctx, c, "b", second) })
	close(gate)
	wg.Wait()
	if err := qmp.GetFD(ctx, c, "c", pipeWith(t, "third")); err != nil {
		t.Error(err)
	}
}

// gatedConn holds the failing Read that follows Close until the gate opens.
type gatedConn struct {
	net.Conn
	held, gate chan struct{}
}

func (c *gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		close(c.held)
		<-c.gate
	}
	return n, err
}

// Close returns when the reader has ended, not before.
func TestCloseJoins(t *testing.T) {
	conn := &gatedConn{Conn: qmptest.Start(t, qmptest.Negotiate()), held: make(chan struct{}), gate: make(chan struct{})}
	c := connect(t, conn)
	var opened atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Close(); err != nil || !opened.Load() {
			t.Errorf("Close returned before the reader (%v)", err)
		}
	}()
	<-conn.held
	for range 10_000 {
		runtime.Gosched() // the chance to return too early
	}
	opened.Store(true)
	close(conn.gate)
	<-done
}

// A peer that stops to listen, and says nothing more, is gone too.
func TestPeerClosesOneDirection(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Skipf("the temporary folder's name is too long for a socket: %v", err)
	}
	defer func() { _ = l.Close() }()
	served := make(chan *net.UnixConn, 1)
	go func() {
		defer close(served)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		_, _ = conn.Write([]byte(`{"QMP":{"version":{},"capabilities":[]}}`))
		id, _ := readID(conn)
		_, _ = conn.Write([]byte(`{"return":{},"id":"` + id + `"}`))
		_ = conn.CloseRead()
		served <- conn
	}()
	c := dial(t, path)
	conn := <-served
	if conn == nil {
		t.Fatal("nothing was served")
	}
	defer func() { _ = conn.Close() }()
	if err := c.Execute(testContext(t), "query-status", nil, nil); !errors.Is(err, qmp.ErrPeerClosed) {
		t.Errorf("got %v", err)
	}
}
