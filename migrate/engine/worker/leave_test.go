package worker

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// hung is an end that does not let go of its guest until it is told to.
type hung struct {
	pid  int
	done chan struct{}
}

func (h hung) detach() error                 { return nil }
func (h hung) linger(context.Context)        {}
func (h hung) guest() int                    { return h.pid }
func (h hung) abandon(context.Context) error { <-h.done; return nil }

func hanging(t *testing.T, pid int) *Worker {
	t.Helper()
	w, err := New(Options{Patience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	h := hung{pid, make(chan struct{})}
	t.Cleanup(func() { close(h.done) })
	w.keep(migrate.SideSource, pid, h)
	return w
}

// An agent that nobody directs any more ends although something of its own hangs.
func TestAnEndThatHangsIsLeft(t *testing.T) {
	if err := hanging(t, os.Getpid()).Close(); err == nil {
		t.Error("nobody says that it hung")
	}
}

// But not while a thread of QEMU is in its hand: that would run on with registers that are not its own.
func TestT1NoEndWhileAThreadIsHeld(t *testing.T) {
	need.UFFD(t)
	guest := start(t, exec.Command("sleep", "60")).Process.Pid
	w := hanging(t, guest)
	held, letGo, free := make(chan error), make(chan struct{}), make(chan struct{})
	hold := func() { // the thread ends with it, and what it traces is let go of
		defer close(free)
		runtime.LockOSThread()
		held <- unix.PtraceSeize(guest)
		<-letGo
	}
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the main thread does not end with a goroutine; while it is held here another is taken
			go hold()
			<-free
			return
		}
		hold()
	}()
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	select {
	case err := <-closed:
		t.Fatalf("closed with a thread in hand: %v", err)
	case <-time.After(5 * heldEvery):
	}
	close(letGo)
	<-free
	if err := <-closed; err == nil {
		t.Error("nobody says that it hung")
	}
}

// A source's agent whose relay hangs waits for the destination's to come back as long as any other, and not for the relay.
func TestAHungRelayIsNotWaitedFor(t *testing.T) {
	relays := make(chan struct{})
	w, err := New(Options{Spoil: func(ctx context.Context, point string) error {
		if point == "stream" {
			close(relays)
			<-ctx.Done()
		}
		return ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	conf := datalink.Config{Migration: "m-1", Token: "secret"}
	lis, err := datalink.Listen(t.Context(), "127.0.0.1:0", [2]int{})
	if err != nil {
		t.Fatal(err)
	}
	dest, err := datalink.NewAcceptor(lis, conf)
	if err != nil {
		t.Fatal(err)
	}
	s := relayingSource(t, w)
	s.link, err = datalink.Keep(datalink.KeepConfig{Config: conf, Addr: dest.Addr().String(), Bulk: 1, Stream: true}, s.serve)
	if err != nil {
		t.Fatal(err)
	}
	w.keep(migrate.SideSource, s.pid, s)
	qemu, err := net.Dial("unix", s.stream.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer qemu.Close()
	<-relays
	if err := dest.Close(); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(40 * time.Second): // less than the limit for one that may come back
		t.Fatal("it stays")
	}
}

// relayingSource is a source's end of which this process is QEMU, up to its connections.
func relayingSource(t *testing.T, w *Worker) *sourceEnd {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay") // paths of sockets have to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &sourceEnd{w: w, spec: agent.SourceSpec{Migration: "m-1"}, pid: os.Getpid(), streamUp: make(chan struct{})}
	var errs [4]error
	s.qemu, errs[0] = sys.OpenProcess(s.pid)
	s.lock, errs[1] = takeLock(t.Context(), migrate.SideSource, -s.pid, false)
	s.stream, errs[2] = listenUnix(t.Context(), filepath.Join(dir, "out"))
	s.server, errs[3] = nbd.NewServer(nbd.Config{Exports: nbd.NewExports()})
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return s
}
