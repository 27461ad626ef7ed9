package qemuhost

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// sharedPair is a pair whose guest has its RAM in a shared file each.
func sharedPair(ctx context.Context, t *testing.T) (p *pair, src, dst string) {
	t.Helper()
	need.QEMU(t)
	dir, err := os.MkdirTemp("/dev/shm", "vmmigrate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the QEMUs are gone by then
	src, dst = filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	ram := func(path string) []string {
		return []string{"-object", "memory-backend-file,id=ram0,size=32M,share=on,mem-path=" + path, "-machine", "memory-backend=ram0"}
	}
	image := guestImage(t, 2000)
	p = &pair{t: t, src: startQEMU(t, image, ram(src)...), dst: startQEMU(t, image, append(ram(dst), "-incoming", "defer")...)}
	p.a, p.b = p.src.dial(ctx), p.dst.dial(ctx)
	await(ctx, t, "the guest boots", p.src.booted)
	return p, src, dst
}

// withoutShut passes QEMU's answers on but for the last, that all has arrived.
func withoutShut(to io.Writer, from io.Reader) {
	for head := make([]byte, 4); ; {
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint16(head[2:]))
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		if binary.BigEndian.Uint16(head) != 1 {
			_, _ = to.Write(append(slices.Clone(head), body...)) // it may have gone
		}
	}
}

// relay listens on one unix socket and passes one connection on to another. QEMU's answers go back by the function.
func relay(t *testing.T, from, to string, answers func(to io.Writer, from io.Reader)) {
	t.Helper()
	l, err := net.Listen("unix", from)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("unix", to)
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		var back sync.WaitGroup
		back.Go(func() { answers(in, out) }) // either end may go first
		_, _ = io.Copy(out, in)
		_ = out.(*net.UnixConn).CloseWrite()
		back.Wait()
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

func sharedParams(uri string) migrate.Params {
	return migrate.Params{Strategy: migrate.StrategyPrecopy, SharedRAM: true, MigrateURI: uri, MaxDowntime: 2 * time.Second}
}

// TestT3SharedRAM: QEMU sends all but the RAM, over a way that leads through other hands; the RAM is moved by the test while
// the guest stands still. Afterwards both QEMUs have the settings that they had.
func TestT3SharedRAM(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, src, dst := sharedPair(ctx, t)
	before, err := p.b.current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	params := sharedParams("unix://" + dir + "/in")
	o, ticket := p.prepared(ctx, params)
	if ticket.URI != params.MigrateURI {
		t.Errorf("the ticket says %s", ticket.URI)
	}
	relay(t, dir+"/out", dir+"/in", func(to io.Writer, from io.Reader) { _, _ = io.Copy(to, from) })
	ticket.URI = "unix://" + dir + "/out"
	ticket, err = p.a.Perform(ctx, o, params, ticket)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.a.Stats(ctx, "guest")
	if err != nil || s.RAMTotal == nil || *s.RAMTotal >= 32<<20 {
		t.Errorf("QEMU sends RAM: %+v, %v", s.RAMTotal, err)
	}
	b, err := os.ReadFile(src)
	if err == nil {
		err = os.WriteFile(dst, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.landed(ctx, o, params, ticket)
	after, err := p.b.current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before.Caps, after.Caps); d != "" {
		t.Errorf("capabilities of the destination: %s", d)
	}
}

// TestT3SharedRAMTakenBack: a migration that is cancelled leaves a source that sends its RAM again. QEMU has sent everything
// by then, and waits for the destination's word.
func TestT3SharedRAMTakenBack(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, _, _ := sharedPair(ctx, t)
	dir := t.TempDir()
	params := sharedParams("unix://" + dir + "/in")
	o, ticket := p.prepared(ctx, params)
	relay(t, dir+"/out", dir+"/in", withoutShut)
	ticket.URI = "unix://" + dir + "/out"
	done := make(chan error, 1)
	go func() {
		_, err := p.a.Perform(ctx, o, params, ticket)
		done <- err
	}()
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return s.Status == "device" })
	if caps, err := qmp.QueryMigrateCapabilities(ctx, p.a.c); err != nil || !caps[qmp.CapIgnoreShared] {
		t.Errorf("in Perform: %v, %v", caps, err)
	}
	again, err := Dial(ctx, Scheme+"://"+p.src.third, Options{}) // as after the death of a coordinator, with nothing remembered
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := p.b.Finish(ctx, o, params, ticket, false); err != nil {
		t.Error(err)
	}
	if err := again.Cancel(ctx, "guest"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("Perform knows nothing of it")
	}
	p.sendsAgain(ctx)
}

// TestT3SharedRAMRunAgain: the same for a source that is done, whose guest is lost at the destination before it ran there.
func TestT3SharedRAMRunAgain(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, _, _ := sharedPair(ctx, t)
	params := sharedParams("unix://" + t.TempDir() + "/in")
	o, ticket := p.prepared(ctx, params)
	ticket, err := p.a.Perform(ctx, o, params, ticket)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.state(ctx, p.a); got != migrate.RunMigrated {
		t.Errorf("the source is %s", got)
	}
	if err := p.b.Finish(ctx, o, params, ticket, false); err != nil {
		t.Error(err)
	}
	again, err := Dial(ctx, Scheme+"://"+p.src.third, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.ResumeGuest(ctx, "guest"); err != nil {
		t.Fatal(err)
	}
	p.sendsAgain(ctx)
}

// sendsAgain checks that the guest runs at the source, which leaves nothing of it out any more.
func (p *pair) sendsAgain(ctx context.Context) {
	p.t.Helper()
	if got := p.state(ctx, p.a); got != migrate.RunRunning {
		p.t.Errorf("the source is %s", got)
	}
	if caps, err := qmp.QueryMigrateCapabilities(ctx, p.a.c); err != nil || caps[qmp.CapIgnoreShared] {
		p.t.Errorf("left behind: %v, %v", caps, err)
	}
}

// TestT3PlaceAndFacts: the driver knows its QEMU's process and what the guest's RAM is made of.
func TestT3PlaceAndFacts(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, src, _ := sharedPair(ctx, t)
	for _, end := range []struct {
		q *testQEMU
		h *Host
	}{{p.src, p.a}, {p.dst, p.b}} {
		at, err := end.h.Place(ctx)
		if err != nil || !at.Local || at.PID != end.q.cmd.Process.Pid || at.PIDFile != nil || at.SocketDir != filepath.Dir(end.q.socket) {
			t.Errorf("place %+v, %v; QEMU is process %d", at, err, end.q.cmd.Process.Pid)
		}
		x, err := end.h.Monitor(ctx, "guest")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := qmp.QueryStatus(ctx, x); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.a.Monitor(ctx, "no-such-guest"); err == nil {
		t.Error("a monitor of no guest")
	}
	d, err := p.a.Domain(ctx, "guest")
	if err != nil || !d.RAMFiles || d.RAMPath != src || !d.Shared {
		t.Errorf("shared RAM: %+v, %v", d, err)
	}
	other := startQEMU(t, guestImage(t, 0)).dial(ctx)
	if d, err = other.Domain(ctx, "guest"); err != nil || d.RAMFiles || d.RAMPath != "" {
		t.Errorf("private RAM: %+v, %v", d, err)
	}
}

func TestParseNetdevs(t *testing.T) {
	got := parseNetdevs("n1: index=0,type=user,net=10.0.2.0,restrict=off\r\n" +
		"virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r\n" +
		" \\ n0: index=0,type=vhost-user,chardev=c\r\nn2: index=1,type=vhost-vdpa\r\nnonsense\r\n")
	if d := cmp.Diff(map[string]string{"n1": "user", "n0": "vhostuser", "n2": "vdpa"}, got); d != "" {
		t.Error(d)
	}
}
