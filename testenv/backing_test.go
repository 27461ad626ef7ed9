package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
)

func TestBackingsOfAGuest(t *testing.T) {
	good := GuestConfig{Name: "web", Backing: BackingShared, NUMA: 2, PageSize: hugepages.Size, Memory: 512 * mib}
	c, err := good.withDefaults("a")
	if err != nil || !c.Monitor {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := (GuestConfig{Name: "web"}).withDefaults("a"); err != nil || c.Monitor || c.PageSize != smallPage {
		t.Errorf("%+v, %v", c, err)
	}
	for name, spoil := range map[string]func(*GuestConfig){
		"pages of 64 KiB":         func(c *GuestConfig) { c.PageSize = 64 << 10 },
		"half a page":             func(c *GuestConfig) { c.NUMA, c.Memory = 0, 513*mib },
		"nodes of unequal memory": func(c *GuestConfig) { c.NUMA = 3 },
		"half a page in a node":   func(c *GuestConfig) { c.Memory = 514 * mib },
		"too many nodes":          func(c *GuestConfig) { c.NUMA = 9 },
	} {
		c := good
		spoil(&c)
		if _, err := c.withDefaults("a"); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// ramProbe is what a program in the host finds out about a QEMU that it did not
// start: which capabilities it has, and what each file of guest RAM is on, read
// through QEMU's own descriptor.
const ramProbe = `set -e
pid=$(cat /run/libvirt/qemu/$1.pid)
grep CapEff /proc/self/status
for fd in /proc/$pid/fd/*; do
	case $(readlink $fd) in
	*/ram-node*|*/pc.ram|` + "/run/hugepages/*" + `) echo $(readlink $fd) $(stat -L -f -c %T $fd) $(head -c 65536 $fd | wc -c);;
	esac
done
ls /proc/$pid/map_files >/dev/null
echo mem $(dd if=/proc/$pid/mem bs=1 count=0 2>/dev/null && echo opened)`

// wantProbe runs ramProbe and wants so many files of RAM, all on that file system.
func wantProbe(t *testing.T, h *Host, guest string, blocks int, kind string) {
	t.Helper()
	out := output(t, h, "sh", "-c", ramProbe, "probe", guest)
	files := 0
	for line := range strings.Lines(out) {
		switch f := strings.Fields(line); f[0] {
		case "CapEff:":
			const wanted = 1<<19 | 1<<21 // CAP_SYS_PTRACE, CAP_SYS_ADMIN
			if caps, err := strconv.ParseUint(f[1], 16, 64); err != nil || caps&wanted != wanted {
				t.Errorf("a program in host %s has the capabilities %s", h.Name(), f[1])
			}
		case "mem":
			if len(f) != 2 {
				t.Errorf("a program in host %s cannot open QEMU's memory", h.Name())
			}
		default:
			files++ // huge pages are behind a file without a name: "… (deleted)"
			if len(f) < 3 || f[len(f)-2] != kind || f[len(f)-1] != "65536" {
				t.Errorf("RAM of %s: %s, want it on %s and readable", guest, line, kind)
			}
		}
	}
	if files != blocks {
		t.Errorf("%d files of RAM, want %d:\n%s", files, blocks, out)
	}
}

// memdevs are the RAM blocks that QEMU tells on the second monitor.
func memdevs(t *testing.T, g *Guest, h *Host) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	c := dialed(ctx, t, g.Monitor(h))
	var list []struct {
		ID    string `json:"id"`
		Share bool   `json:"share"`
		Size  int64  `json:"size"`
	}
	if err := c.Execute(ctx, "query-memdev", nil, &list); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestT4SharedRAMOfSeveralBlocksAndProcessors(t *testing.T) {
	needGuest(t)
	lab := up(t, Config{})
	a := host(t, lab, "a")
	g := running(t, lab, GuestConfig{Name: "nodes", CPUs: 2, NUMA: 2, Backing: BackingShared, Memory: 256 * mib, Workload: "hotset:size=16MiB,rate=500"})
	want := `[{"id":"ram-node1","share":true,"size":134217728},{"id":"ram-node0","share":true,"size":134217728}]`
	if got := memdevs(t, g, a); got != want {
		t.Errorf("RAM blocks %s, want %s", got, want)
	}
	wantProbe(t, a, "nodes", 2, "tmpfs")
	// It is not migrated by QEMU here: see GuestConfig.CPUs.
	well(t, g, "a")
}

// hugePool is how many huge pages the machine has.
func hugePool(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestT4HugePagesAreBorrowedAndReturned(t *testing.T) {
	needGuest(t)
	if !hugepages.Supported() {
		t.Skip("this kernel has no huge pages of 2 MiB (CONFIG_HUGETLBFS)")
	}
	before := hugePool(t)
	lab := up(t, Config{})
	a, b := host(t, lab, "a"), host(t, lab, "b")
	c := GuestConfig{Name: "huge", PageSize: 2 * mib, Backing: BackingShared, Memory: 256 * mib, Workload: "hotset:size=16MiB,rate=500"}
	g := running(t, lab, c)
	wantProbe(t, a, "huge", 1, "hugetlbfs")
	migrated(t, g, a, b)
	wantProbe(t, b, "huge", 1, "hugetlbfs")
	if err := g.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := hugePool(t); got != before {
		t.Errorf("with the guest removed the machine has %s huge pages, %s before", got, before)
	}
	running(t, lab, c)
	if got := hugePool(t); got == before {
		t.Errorf("with the guest running the machine has %s huge pages", got)
	}
	// Down after a kill finds what the daemon could not return.
	if err := lab.state.Daemon.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := lab.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := hugePool(t); got != before {
		t.Errorf("with the lab down the machine has %s huge pages, %s before", got, before)
	}
}

// running starts a guest.
func running(t *testing.T, lab *Lab, c GuestConfig) *Guest {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	g, err := lab.StartGuest(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestT3AGuestWithoutLibvirtMigrates(t *testing.T) {
	needGuest(t)
	lab := up(t, Config{Bare: true})
	a, b := host(t, lab, "a"), host(t, lab, "b")
	g := running(t, lab, GuestConfig{Name: "bare", NUMA: 2, Backing: BackingShared, Memory: 256 * mib, Workload: "hotset:size=16MiB,rate=500"})
	if err := g.Await(t.Context(), a); err == nil {
		t.Fatal("a QEMU waits where the guest runs")
	}
	for range 2 { // the second takes the place of the first
		if err := g.Await(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	source, dest := dialed(ctx, t, g.Monitor(a)), dialed(ctx, t, g.Monitor(b))
	moves, err := dest.Events(ctx, qmp.EventMigration)
	if err != nil {
		t.Fatal(err)
	}
	events := map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}
	uri := map[string]any{"uri": "tcp:" + b.Address().String() + ":4444"}
	err = errors.Join(
		// Held while it moves: an emulated processor that writes beside QEMU's own search
		// for written pages loses a write now and then where the machine is busy.
		source.Execute(ctx, "stop", nil, nil),
		dest.Execute(ctx, "migrate-set-capabilities", events, nil),
		dest.Execute(ctx, "migrate-incoming", uri, nil),
		source.Execute(ctx, "migrate", uri, nil))
	if err != nil {
		t.Fatal(err)
	}
	for s := qmp.MigrationStatus(""); s != qmp.MigrationCompleted; {
		e, ok := <-moves
		if s, _ = e.MigrationStatus(); !ok || s == qmp.MigrationFailed {
			t.Fatalf("the guest does not come to host b (%q)", s)
		}
	}
	if err := dest.Execute(ctx, "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	well(t, g, "b")
	if err := g.Remove(ctx); err != nil || g.Where(ctx)[1].State != StateAbsent {
		t.Errorf("after its removal %+v, %v", g.Where(ctx), err)
	}
}

// dialed connects to a monitor.
func dialed(ctx context.Context, t *testing.T, socket string) *qmp.Client {
	t.Helper()
	c, err := qmp.Dial(ctx, "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
