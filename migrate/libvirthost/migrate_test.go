package libvirthost

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// image makes the file of a disk on a host.
func image(t *testing.T, h *testenv.Host, name string, fill byte) string {
	t.Helper()
	path := filepath.Join(h.ImagesDir(), name)
	if err := os.WriteFile(path, bytes.Repeat([]byte{fill}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return path
}

func TestT4StorageCopy(t *testing.T) {
	ctx := testContext(t)
	lab := theLab.up(t)
	image(t, mustHost(t, lab, "a"), "disk.img", 0xd1)
	copied := image(t, mustHost(t, lab, "b"), "disk.img", 0)
	p := newPair(ctx, t, guestConfig{disk: "disk.img"})

	d, err := p.a.Domain(ctx, p.name)
	if err != nil || len(d.Disks) != 1 || d.Disks[0].Capacity != 1<<20 || d.Disks[0].Target != "vda" || d.Disks[0].Used == 0 || d.XML == "" {
		t.Errorf("the disk: %+v, %v", d.Disks, err)
	}
	if _, err := p.a.Begin(ctx, p.name, migrate.Params{Strategy: migrate.StrategyPrecopy}); err == nil || migrate.FixOf(err) == "" {
		t.Errorf("a disk that is not shared may go along: %v (fix %q)", err, migrate.FixOf(err))
	}
	w := p.begin(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, MigrateDisks: []string{"vda"}})
	w.prepare(ctx).performed(ctx)
	if s, err := p.a.Stats(ctx, p.name); err != nil || s.DiskTotal == nil || *s.DiskTotal != 1<<20 {
		t.Errorf("figures of the disk: %+v, %v", s.DiskTotal, err)
	}
	w.finished(ctx)
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, true); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideDestination)
	b, err := os.ReadFile(copied)
	if err != nil || !bytes.Equal(b, bytes.Repeat([]byte{0xd1}, 1<<20)) {
		t.Errorf("the disk did not arrive: %v", err)
	}
}

// TestT4Persistent: the definition goes along and is gone at the source, under another name and with figures that the
// destination keeps, since the event that would bring them is lost in go-libvirt.
func TestT4Persistent(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{define: true})
	moved := *p
	moved.name = "moved"
	t.Cleanup(moved.clear)
	events, err := p.b.Watch(ctx, "moved")
	if err != nil {
		t.Fatal(err)
	}
	w := p.begin(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, Persistent: true, UndefineSource: true, DestinationName: "moved"})
	w.prepare(ctx).performed(ctx).finished(ctx)
	if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, true); err != nil {
		t.Error(err)
	}
	if r := p.runOf(ctx, p.a); r != "" {
		t.Errorf("the source still has it: %s", r)
	}
	d, err := p.b.Domain(ctx, "moved")
	if err != nil || !d.Persistent || d.UUID != p.uuid || d.State.Run != migrate.RunRunning {
		t.Errorf("the destination: %+v, %v", d, err)
	}
	s, err := p.b.Stats(ctx, "moved")
	if err != nil || s.Status != "completed" || s.Downtime == nil || *s.Downtime <= 0 || s.RAMSent == nil {
		t.Errorf("figures: %+v, %v", s, err)
	}
	for e := range events {
		if e.Kind == migrate.EventResume {
			if e.At.IsZero() {
				t.Error("QEMU's stamp is missing")
			}
			break
		}
	}
}

// TestT4WatchersLeaveWhileEventsFlow: go-libvirt's own subscriptions stop the whole connection here.
func TestT4WatchersLeaveWhileEventsFlow(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	if _, err := p.a.Watch(ctx, p.name); err != nil { // never read
		t.Fatal(err)
	}
	strangers, err := p.a.Watch(ctx, "another")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		leave, cancel := context.WithCancel(ctx)
		events, err := p.a.Watch(leave, p.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.suspend(ctx, p.a), p.resume(ctx, p.a)); err != nil {
			t.Fatal(err)
		}
		for e := range events { // the last RESUME may come before it
			if e.Kind == migrate.EventStop {
				break
			}
		}
		cancel()
		for range events { // ends
		}
	}
	if len(strangers) != 0 {
		t.Errorf("%d events of this domain went to the watcher of another", len(strangers))
	}
	p.whole(ctx, migrate.SideSource)
}

// TestT4Looks asks the daemon all that check wants to know.
func TestT4Looks(t *testing.T) {
	ctx := testContext(t)
	p := newPair(ctx, t, guestConfig{})
	d, err := p.a.Domain(ctx, p.name)
	if err != nil {
		t.Fatal(err)
	}
	if ok, why, err := p.b.CompareCPU(ctx, ""); err != nil || !ok {
		t.Errorf("no CPU: %v, %q, %v", ok, why, err)
	}
	tcg := Platform{Virt: "qemu", Emulator: d.Emulator, Machine: d.Machine, Arch: "x86_64"}
	if ok, why, err := p.b.CompareCPUFor(ctx, tcg, d.CPU); err != nil || !ok {
		t.Errorf("the guest's own CPU: %v, %q, %v", ok, why, err)
	}
	for _, cpu := range []string{
		`<cpu match="exact" mode="custom"><model fallback="forbid">qemu64</model><feature policy="require" name="avx512f"/></cpu>`,
		`<cpu match="exact" mode="custom"><model fallback="forbid">Pentium-XII</model></cpu>`,
	} {
		if ok, why, err := p.b.CompareCPUOn(ctx, tcg.Emulator, tcg.Arch, tcg.Machine, tcg.Virt, cpu); err != nil || ok || why == "" {
			t.Errorf("%s: %v, %q, %v", cpu, ok, why, err)
		}
	}
	ms, err := p.b.MachineTypes(ctx, d.Emulator, "x86_64", "qemu")
	if err != nil || !contains(ms, d.Machine) || !contains(ms, "q35") {
		t.Errorf("machine types: %v, %v", ms, err)
	}
	if ms, err := p.b.MachineTypes(ctx, "/no/emulator", "", ""); err != nil || len(ms) != 0 {
		t.Errorf("machine types of no emulator: %v, %v", ms, err)
	}
	if names, err := p.a.Domains(ctx); err != nil || !contains(names, p.name) {
		t.Errorf("domains: %v, %v", names, err)
	}
	if n, err := p.a.NodeFreeMemory(ctx); err != nil || n < 1<<20 {
		t.Errorf("free memory: %d, %v", n, err)
	}
	if _, err := p.a.HugePagesFree(ctx, 2<<20); err != nil {
		t.Error(err)
	}
	if _, err := p.a.Networks(ctx); err != nil && !errors.Is(err, migrate.ErrNotSupported) {
		t.Errorf("networks: %v", err)
	}
	if known, ok := p.a.HasBridge(ctx, "no-such-bridge"); ok {
		t.Errorf("a bridge that is not there: %v, %v", known, ok)
	}
	if v, err := p.b.Volume(ctx, "/no/such/image"); err != nil || v.Exists {
		t.Errorf("an image that is not there: %+v, %v", v, err)
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
