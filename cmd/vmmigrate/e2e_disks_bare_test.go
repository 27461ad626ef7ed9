package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// bareBlows are what befalls a QEMU without libvirt whose disks move with it: while they are mirrored, in the switch, and
// while they follow it.
func bareBlows() []afterBlow {
	const src, dst, any = migrate.OwnerSource, migrate.OwnerDestination, migrate.OwnerUnknown
	return []afterBlow{
		{engine: "native", strategy: "precopy", point: "in-copy", do: killCoordinator, way: byDrivers, owner: src},
		{engine: "nbd", strategy: "hybrid", point: "disks-paging", do: killDestAgent, owner: dst},
		{engine: "native", strategy: "precopy", point: "in-copy", do: cutLink, way: byDrivers, owner: any, long: true},
		{engine: "native", strategy: "precopy", point: "in-copy", do: killDestQEMU, way: byDrivers, owner: src, long: true},
		{engine: "native", strategy: "precopy", point: "before-commit", do: killCoordinator, way: byDrivers, owner: src, long: true},
		{engine: "native", strategy: "precopy", point: "before-commit", do: cutLink, way: byDrivers, owner: any, long: true},
		{engine: "native", strategy: "precopy", point: "before-commit", do: killDestQEMU, way: byDrivers, owner: src, long: true},
		{engine: "native", strategy: "precopy", point: "before-resume", do: killCoordinator, way: byDrivers, owner: any, long: true},
		{engine: "native", strategy: "precopy", point: "before-resume", do: cutLink, way: byDrivers, owner: any, long: true},
		{engine: "native", strategy: "precopy", point: "after-resume", do: killCoordinator, way: byDrivers, owner: dst, long: true},
		{engine: "native", strategy: "postcopy", point: "after-resume", do: killCoordinator, way: byDrivers, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: killCoordinator, way: byDrivers, owner: src, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: killSourceAgent, way: byDrivers, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: cutLink, way: byDrivers, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-still", do: killCoordinator, way: byDrivers, owner: src, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-still", do: cutLink, way: byDrivers, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-gate", do: killCoordinator, way: byDrivers, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: killCoordinator, way: byAgents, owner: src, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: killDestAgent, way: byAgents, owner: src, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: cutLink, way: byAgents, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-still", do: killCoordinator, way: byAgents, owner: src, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-punch", do: killSourceAgent, way: byAgents, owner: any, long: true},
		{engine: "native", strategy: "precopy", point: "in-copy", do: killCoordinator, owner: src, long: true},
		{engine: "native", strategy: "precopy", point: "before-resume", do: killCoordinator, owner: any, long: true},
		{engine: "native", strategy: "precopy", point: "after-resume", do: killCoordinator, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disks-paging", do: killCoordinator, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disks-paging", do: killSourceAgent, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disks-paging", do: cutLink, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disks-fetched", do: killDestAgent, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disk-folded", do: killCoordinator, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-punch", do: killCoordinator, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-gate", do: killCoordinator, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "disks-paging", do: cutLink, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "before-finish", do: killCoordinator, owner: dst, long: true},
	}
}

// bareFaults: whoever dies or is cut off, the guest runs on one host with each of its writes, and what has no room says so and
// goes on once there is some.
func (d *diskBench) bareFaults(t *testing.T) {
	long := os.Getenv(roundsEnv) != ""
	for _, b := range bareBlows() {
		if b.long && !long {
			continue
		}
		if !t.Run(b.String(), func(t *testing.T) { d.of(t).afterBlow(b) }) {
			return // what follows needs the guest
		}
	}
	for _, f := range []struct {
		name string
		long bool
		do   func(*diskBench)
	}{
		{"destination full, native", false, func(d *diskBench) { d.bareFull("native", "precopy", byDrivers) }},
		{"destination full, nbd", true, func(d *diskBench) { d.bareFull("nbd", "hybrid", byDrivers) }},
		{"destination stays full", true, (*diskBench).bareStaysFull},
	} {
		if f.long && !long {
			continue
		}
		if !t.Run(f.name, func(t *testing.T) { f.do(d.of(t)) }) {
			return
		}
	}
}

// smallDir is the small file system of a bare lab, made before its hosts are, so that they see it, too.
func (d *diskBench) smallDir() string { return filepath.Join(d.dir, "small") }

// smallSize holds a guest's first disk.
func smallSize() string {
	if os.Getenv(roundsEnv) != "" {
		return "size=400m"
	}
	return "size=64m"
}

// mountSmall mounts it, until the test ends.
func mountSmall(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("vmmigrate-lab", dir, "tmpfs", 0, smallSize()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// intoSmall has the destination's first image made on the small file system, and returns what fills that up.
func (d *diskBench) intoSmall(to string) (fill func()) {
	d.t.Helper()
	image := d.image(to, 0)
	if err := os.Remove(image); err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(d.smallDir(), filepath.Base(image)), image); err != nil {
		d.t.Fatal(err)
	}
	return func() {
		var st unix.Statfs_t
		if err := unix.Statfs(d.smallDir(), &st); err != nil {
			d.t.Fatal(err)
		}
		d.fallocate(d.ballast(), int64(st.Bavail)*st.Bsize-4<<20)
	}
}

// ballast is the file that fills the small file system up.
func (d *diskBench) ballast() string { return filepath.Join(d.smallDir(), "other") }

func (d *diskBench) fallocate(file string, size int64) {
	d.t.Helper()
	f, err := os.Create(file)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
		_ = f.Close()
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// fillUp starts a migration to a file system that is full once the disks are to be copied.
func (d *diskBench) fillUp(engine, strategy string, way diskWay, more ...string) (p *proc, from string) {
	d.t.Helper()
	from = d.settle()
	d.guard()
	fill := d.intoSmall(other(from))
	marker := d.marker()
	p = d.start([]string{migrate.ParkEnv + "=before-copy@" + marker}, way.args(d.move(engine, strategy, from, more...))...)
	p.parked(d.bench, marker)
	fill()
	d.t.Cleanup(func() { _ = os.Remove(d.ballast()) })
	if err := os.Remove(marker); err != nil {
		d.t.Fatal(err)
	}
	return p, from
}

// bareFull: a copy that has no room waits for it, and says so, while the guest runs on where it is.
func (d *diskBench) bareFull(engine, strategy string, way diskWay) {
	d.t.Helper()
	p, from := d.fillUp(engine, strategy, way)
	line := p.until("it says that there is no room", func(l migrate.Progress) bool {
		return len(l.Disks) > 0 && strings.Contains(l.Disks[0].Waits, "space")
	})
	if line.Owner != migrate.OwnerSource {
		d.t.Errorf("the owner is %s", line.Owner)
	}
	if got := d.where(); got != from {
		d.t.Errorf("it runs on %s meanwhile", got)
	}
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
	p.ends(exitDone)
	d.wellAt(other(from))
	d.settled(other(from), goneWithin)
}

// bareStaysFull: one that gets none in time is given up, and names the disk.
func (d *diskBench) bareStaysFull() {
	d.t.Helper()
	p, from := d.fillUp("native", "precopy", byDrivers, "--disk-full", "3s")
	r := d.stays(p, from, "vda")
	if !strings.Contains(strings.ToLower(r.Error.Cause+r.Error.Fix), "space") {
		d.t.Errorf("nothing is said of the space: %+v", r.Error)
	}
	d.wellAt(from)
}

// theGuest is the guest of a lab without libvirt.
func (x *bench) theGuest(ctx context.Context) *testenv.Guest {
	x.t.Helper()
	g, err := x.bare.Guest(ctx, guestName)
	if err != nil {
		x.t.Fatal(err)
	}
	return g
}

// presence is what a host of such a lab has of it.
func (x *bench) presence(host string) testenv.Presence {
	x.t.Helper()
	ctx, stop := context.WithTimeout(x.t.Context(), patience)
	defer stop()
	for _, p := range x.theGuest(ctx).Where(ctx) {
		if p.Host == host {
			return p
		}
	}
	x.t.Fatalf("the lab has no host %s", host)
	return testenv.Presence{}
}

// bareNames has the guest's name if a host has it in that state, or in any if none is given.
func (x *bench) bareNames(host, state string) []string {
	x.t.Helper()
	if p := x.presence(host); p.State != testenv.StateAbsent && (state == "" || p.State == state) {
		return []string{guestName}
	}
	return nil
}

// askQEMU runs a command of the guest's QEMU on a host of such a lab.
func (x *bench) askQEMU(host, command string, result any) {
	x.t.Helper()
	ctx, stop := context.WithTimeout(x.t.Context(), 10*time.Second)
	defer stop()
	if err := x.theGuest(ctx).Ask(ctx, x.hosts[host], command, result); err != nil {
		x.t.Fatalf("%s on host %s: %v", command, host, err)
	}
}

// bareRuns is runs for a lab without libvirt.
func (s *sentry) bareRuns(ctx context.Context, host string) (how string, ok bool) {
	g, err := s.x.bare.Guest(ctx, guestName)
	if err != nil {
		return "", false
	}
	for _, p := range g.Where(ctx) {
		switch {
		case p.Host != host:
		case p.State == testenv.StateUnknown:
			return "", false
		case p.State == testenv.StateRunning:
			return p.State, true
		}
	}
	return "", true
}
