package libvirthost

import (
	"errors"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// TestT4Monitor: QEMU is asked by way of libvirt, also while this connection holds libvirt's job; its refusals and events
// come through; and all of it ends with the Host.
func TestT4Monitor(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	x, err := p.a.Monitor(ctx, p.name)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.a.Monitor(ctx, p.uuid); err != nil || again != x {
		t.Errorf("another monitor for the same domain: %v", err)
	}
	if _, err := p.a.Monitor(ctx, "nobody"); !errors.Is(err, migrate.ErrNoDomain) {
		t.Errorf("a monitor of nobody: %v", err)
	}
	if s, err := qmp.QueryStatus(ctx, x); err != nil || !s.Running {
		t.Errorf("status %+v, %v", s, err)
	}
	var refused *qmp.Error
	if err := x.Execute(ctx, "no-such-command", nil, nil); !errors.As(err, &refused) || refused.Class != qmp.ClassCommandNotFound {
		t.Errorf("a refusal: %v", err)
	}
	sub, err := x.Subscribe(qmp.SubscribeOptions{Names: []string{qmp.EventStop}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.suspend(ctx, p.a); err != nil {
		t.Fatal(err)
	}
	if e, err := sub.Next(ctx); err != nil || e.Name != qmp.EventStop || e.Timestamp.IsZero() {
		t.Errorf("event %+v, %v", e, err)
	}
	if err := p.resume(ctx, p.a); err != nil {
		t.Fatal(err)
	}
	w := p.begin(ctx, precopyParams()).prepare(ctx)
	if _, err := qmp.QueryStatus(ctx, x); err != nil {
		t.Errorf("while the job is held: %v", err)
	}
	w.performing(ctx)
	if _, err := qmp.QueryStatus(ctx, x); err != nil {
		t.Errorf("in Perform: %v", err)
	}
	if err := p.a.Close(); err != nil {
		t.Error(err)
	}
	for range sub.C() { // ends
	}
	if _, err := qmp.QueryStatus(ctx, x); err == nil {
		t.Error("a monitor outlives its Host")
	}
	p.b.Close()
	p.a, p.b = p.dial(ctx, p.hostA), p.dial(ctx, p.hostB)
}

// TestT4Place: an agent belongs into the daemon's namespaces, where libvirt's file names the guest's process.
func TestT4Place(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	at, err := p.a.Place(ctx)
	if err != nil || !at.Local || !isDaemon(at.PID) || at.SocketDir != "/var/lib/libvirt/qemu" {
		t.Fatalf("place %+v, %v", at, err)
	}
	pid, err := readPID(seenFrom(p.hostA, at.PIDFile(p.name)))
	if err != nil || pid <= 0 {
		t.Errorf("QEMU's process: %d, %v", pid, err)
	}
	if other, err := p.b.Place(ctx); err != nil || other.PID == at.PID {
		t.Errorf("the other host is at %+v, %v", other, err)
	}
}
