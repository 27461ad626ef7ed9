package qmp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qemu"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// The tests of this file are what go-qemu's own monitor fails at, each against a
// real QEMU, and the ways in which a QEMU goes away.

// A reply of some 240 KB ends go-qemu's monitor for good.
func TestT3LargeReply(t *testing.T) {
	c := startQEMU(t).client()
	ctx := testContext(t)
	var raw json.RawMessage
	if err := c.Execute(ctx, "query-qmp-schema", nil, &raw); err != nil || len(raw) < 200_000 {
		t.Fatalf("%d bytes, %v; want more than 200000", len(raw), err)
	}
	if _, err := qmp.QueryStatus(ctx, c); err != nil {
		t.Errorf("the command after it: %v", err)
	}
}

// A subscriber that does not read stops go-qemu's reader, and with it everything.
func TestT3UndrainedSubscriber(t *testing.T) {
	c := startQEMU(t).client()
	ctx := testContext(t)
	sub := subscribe(t, c, 2)
	for range 10 {
		if err := qmp.Cont(ctx, c); err != nil {
			t.Fatal(err)
		}
		if err := qmp.Stop(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	st, err := qmp.QueryStatus(ctx, c)
	if err != nil || st.Running || st.Status != qmp.StatePaused {
		t.Errorf("status %+v, %v", st, err)
	}
	if sub.Dropped() != 18 {
		t.Errorf("%d events dropped, want 18 of 20", sub.Dropped())
	}
	for _, want := range []string{qmp.EventResume, qmp.EventStop} {
		e, err := sub.Next(ctx)
		if err != nil || e.Name != want || e.Timestamp.IsZero() {
			t.Errorf("got %+v, %v; want %s", e, err, want)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestT3OOB(t *testing.T) {
	q := startQEMU(t)
	c := q.client()
	ctx := testContext(t)
	if !c.OOB() {
		t.Fatal("out-of-band execution was not negotiated")
	}
	var yank []qmp.YankInstance
	if err := c.ExecuteOOB(ctx, "query-yank", nil, &yank); err != nil || len(yank) == 0 {
		t.Errorf("query-yank: %+v, %v", yank, err)
	}
	if err := qmp.Yank(ctx, c); err != nil {
		t.Errorf("yank of nothing: %v", err)
	}
	var refusal *qmp.Error
	if err := c.ExecuteOOB(ctx, "query-status", nil, nil); !errors.As(err, &refusal) {
		t.Errorf("a command that does not allow it: %v", err)
	}
	for name, err := range map[string]error{
		"migrate-pause": qmp.MigratePause(ctx, c), "migrate-recover": qmp.MigrateRecover(ctx, c, "unix:/nowhere"),
	} {
		if !errors.Is(err, &qmp.Error{Class: qmp.ClassGeneric, Command: name}) {
			t.Errorf("%s without a migration: %v", name, err)
		}
	}
	plain := q.dial(qmp.WithoutOOB())
	if err := qmp.Yank(ctx, plain); plain.OOB() || err != nil {
		t.Errorf("in band: %v", err)
	}
}

// Descriptors need no out-of-band execution, which go-qemu asks for. A migration
// into the file proves that QEMU got the right one.
func TestT3PassFiles(t *testing.T) {
	q := startQEMU(t)
	c := q.client(qmp.WithoutOOB())
	ctx := testContext(t)
	path := q.file("stream", 0)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	added, err := qmp.AddFD(ctx, c, nil, f)
	if err != nil {
		t.Fatalf("AddFD: %v", err)
	}
	if err := qmp.RemoveFD(ctx, c, added.SetID, new(added.FD)); err != nil {
		t.Errorf("RemoveFD: %v", err)
	}
	for range 2 { // the second replaces the first
		if err := qmp.GetFD(ctx, c, "mig", f); err != nil {
			t.Fatalf("GetFD: %v", err)
		}
	}
	if err := qmp.SetMigrateCapabilities(ctx, c, qmp.Capabilities{qmp.CapEvents: true}); err != nil {
		t.Fatal(err)
	}
	sub := subscribe(t, c, 0, qmp.EventMigration)
	if err := qmp.Migrate(ctx, c, qmp.MigrateArgs{URI: "fd:mig"}); err != nil {
		t.Fatal(err)
	}
	e, err := sub.Wait(ctx, ended)
	if s, _ := e.MigrationStatus(); err != nil || s != qmp.MigrationCompleted {
		t.Fatalf("migration into the file: %q, %v", s, err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte("QEVM")) {
		t.Errorf("the file begins %.4q, %v", b, err)
	}
	if err := qmp.CloseFD(ctx, c, "mig"); err == nil {
		t.Error("the migration left its descriptor")
	}
}

// ended matches the last event of a migration.
func ended(e qmp.Event) bool {
	s, ok := e.MigrationStatus()
	return ok && s.Ended()
}

// go-qemu cannot read a reply whose id is a number.
func TestT3AnyID(t *testing.T) {
	m := qmp.NewMonitor(t.Context(), startQEMU(t).client())
	for _, id := range []string{`17`, `"seventeen"`, `{"a":[1]}`, `null`} {
		out, err := m.Run([]byte(`{"execute":"query-status","id":` + id + `}`))
		var reply struct {
			ID     json.RawMessage
			Return qmp.StatusInfo
		}
		if err == nil {
			err = json.Unmarshal(out, &reply)
		}
		if err != nil || string(reply.ID) != id || reply.Return.Status != qmp.StatePreLaunch {
			t.Errorf("id %s: %s, %v", id, out, err)
		}
	}
	if err := m.Disconnect(); err != nil {
		t.Error(err)
	}
}

// Twenty thousand commands of many callers, every second one with an event beside
// its reply. go-qemu loses its place in the stream, and its replies alias a buffer
// that is being read into.
func TestT3ManyCommandsWithEvents(t *testing.T) {
	c := startQEMU(t, "-device", "ide-cd,id=cd").client()
	const callers, each = 8, 1250
	ctx := testContext(t)
	sub := subscribe(t, c, 2*callers*each, "DEVICE_TRAY_MOVED")
	idle := subscribe(t, c, 1)
	tray := func(ctx context.Context, i int) error {
		command := "blockdev-open-tray"
		if i%2 == 1 {
			command = "blockdev-close-tray"
		}
		return c.Execute(ctx, command, map[string]string{"id": "cd"}, nil)
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range each {
				if _, err := qmp.QueryStatus(ctx, c); err != nil {
					t.Errorf("caller %d: %v", i, err)
					return
				}
			}
		})
	}
	for i := range callers * each {
		if err := tray(ctx, i); err != nil {
			t.Fatalf("tray %d: %v", i, err)
		}
	}
	wg.Wait()
	if len(sub.C()) != callers*each || sub.Dropped() != 0 || len(idle.C()) != 1 {
		t.Errorf("%d events, %d dropped; want %d", len(sub.C()), sub.Dropped(), callers*each)
	}
	for i := range callers * each {
		e := <-sub.C()
		var moved struct {
			Open bool `json:"tray-open"`
		}
		if err := json.Unmarshal(e.Data, &moved); err != nil || moved.Open != (i%2 == 0) {
			t.Fatalf("event %d out of order: %s, %v", i, e.Data, err)
		}
	}
}

// A stopped QEMU holds nobody longer than the context allows, and the connection
// is as good as before when it goes on.
func TestT3StoppedQEMU(t *testing.T) {
	q := startQEMU(t)
	c := q.client()
	q.signal(syscall.SIGSTOP)
	defer q.signal(syscall.SIGCONT)
	within := func(d time.Duration) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		t.Cleanup(cancel)
		return ctx
	}
	if c, err := qmp.Dial(within(50*time.Millisecond), "unix", q.path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial: %v, %v", c, err)
	}
	var ce *qmp.CallError
	for i := range 6 {
		ctx, cancel := context.WithCancel(testContext(t))
		go func() {
			qmp.WaitCount(c, i+1)
			cancel()
		}()
		if _, err := qmp.QueryStatus(ctx, c); !errors.Is(err, context.Canceled) || !errors.As(err, &ce) || !ce.Sent {
			t.Errorf("command: %v", err)
		}
	}
	_, err := qmp.QueryStatus(within(300*time.Millisecond), c)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &ce) || !ce.Sent {
		t.Errorf("command with a deadline: %v", err)
	}
	// The window is full of commands that QEMU may still run; this one is not.
	if err := qmp.Cont(within(50*time.Millisecond), c); !errors.As(err, &ce) || ce.Sent {
		t.Errorf("command beyond the window: %v", err)
	}
	q.signal(syscall.SIGCONT)
	st, err := qmp.QueryStatus(testContext(t), c)
	if err != nil || st.Status != qmp.StatePreLaunch {
		t.Errorf("afterwards: %+v, %v", st, err)
	}
	if c.Stray() != 7 {
		t.Errorf("%d late replies, want 7", c.Stray())
	}
}

// A second client of one monitor is never greeted; a third one, after the first
// has left, is.
func TestT3SecondClient(t *testing.T) {
	q := startQEMU(t)
	_ = q.client() // QEMU is up
	first := q.dial()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := qmp.Dial(ctx, "unix", q.path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second client: %v, %v", c, err)
	}
	_ = first.Close()
	if _, err := qmp.QueryStatus(testContext(t), q.dial()); err != nil {
		t.Errorf("after the first has left: %v", err)
	}
}

func TestT3Quit(t *testing.T) {
	q := startQEMU(t)
	c, other := q.client(), q.dial()
	sub := subscribe(t, c, 0)
	ctx := testContext(t)
	if err := qmp.Quit(ctx, c); err != nil {
		t.Errorf("quit: %v", err)
	}
	<-c.Done()
	<-other.Done()
	for _, err := range []error{c.Err(), other.Err()} {
		if !errors.Is(err, qmp.ErrPeerClosed) {
			t.Errorf("ended with %v", err)
		}
	}
	e, err := sub.Next(ctx)
	v, _ := e.Typed()
	if s, ok := v.(*qmp.ShutdownEvent); err != nil || !ok || s.Guest || s.Reason != "host-qmp-quit" {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestT3Killed(t *testing.T) {
	q := startQEMU(t)
	c := q.client()
	q.signal(syscall.SIGSTOP) // so that the command below waits
	done := make(chan error)
	ctx := testContext(t)
	go func() { done <- qmp.Cont(ctx, c) }()
	qmp.WaitSent(c, "cont")
	q.signal(syscall.SIGKILL)
	var ce *qmp.CallError
	if err := <-done; !errors.Is(err, qmp.ErrPeerClosed) || !errors.As(err, &ce) || !ce.Sent {
		t.Errorf("waiting command: %v", err)
	}
}

// go-qemu's Domain works on our client.
func TestT3GoQEMUDomain(t *testing.T) {
	q := startQEMU(t, "-drive", "file=null-co://,format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0")
	c := q.client()
	d, err := qemu.NewDomain(qmp.NewMonitor(testContext(t), c), "guest")
	if err != nil {
		t.Fatal(err)
	}
	version, err := d.Version()
	if err != nil || version != c.Version().String() {
		t.Errorf("version %q, %v", version, err)
	}
	status, err := d.Status()
	if err != nil || status != qemu.StatusPreLaunch {
		t.Errorf("status %v, %v", status, err)
	}
	if disk, err := d.BlockDevice("d0"); err != nil || disk.Device != "d0" {
		t.Errorf("disk %+v, %v", disk, err)
	}
	if pci, err := d.PCIDevices(); err != nil || len(pci) < 4 {
		t.Errorf("%d PCI devices, %v", len(pci), err)
	}
	if ok, err := d.Supported("migrate-recover"); !ok || err != nil {
		t.Errorf("Supported: %t, %v", ok, err)
	}
	events, done, err := d.Events()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SystemReset(); err != nil {
		t.Errorf("reset: %v", err)
	}
	if e := <-events; e.Event != qmp.EventReset || e.Data["reason"] != "host-qmp-system-reset" {
		t.Errorf("event %+v", e)
	}
	done <- struct{}{}
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	<-events // closed, once the domain has noticed
}

// The typed commands run over go-qemu's own monitor too.
func TestT3GoQEMUMonitor(t *testing.T) {
	q := startQEMU(t)
	_ = q.client() // QEMU is up
	w := wrapSocketMonitor(t, q.path)
	ctx := testContext(t)
	sub := subscribe(t, w, 0)
	if err := qmp.Cont(ctx, w); err != nil {
		t.Error(err)
	}
	if e, err := sub.Next(ctx); err != nil || e.Name != qmp.EventResume || e.Timestamp.IsZero() {
		t.Errorf("event %+v, %v", e, err)
	}
	if caps, err := qmp.QueryMigrateCapabilities(ctx, w); err != nil || len(caps) < 10 {
		t.Errorf("capabilities %v, %v", caps, err)
	}
	f, err := os.Open(filepath.Dir(q.path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := qmp.GetFD(ctx, w, "dir", f); err != nil {
		t.Errorf("GetFD: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := sub.Next(ctx); err == nil {
		t.Error("the subscription outlived the monitor")
	}
}
