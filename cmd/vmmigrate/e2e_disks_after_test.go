package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// afterBlow is what happens to a migration whose disks come after the guest, while its coordinator stands at a point.
type afterBlow struct {
	engine, strategy, point, do string
	// owner is who has the guest in the end; unknown where that is a race.
	owner migrate.Owner
	// way is how the disks go: after the guest, unless it is given.
	way  diskWay
	long bool
}

// diskWay is one of the ways that disks go.
type diskWay string

const (
	byAgents  diskWay = "reuse"   // agents copy them before the guest goes
	byDrivers diskWay = "drivers" // QEMU mirrors them before it goes
)

// args makes of arguments that have QEMU mirror the disks those of another way.
func (w diskWay) args(args []string) []string {
	switch w {
	case byAgents:
		return append(args, "--reuse")
	case byDrivers:
		return args
	}
	args[slices.Index(args, "--copy-storage-all")] = "--copy-storage-after"
	return args
}

func (b afterBlow) String() string {
	s := b.engine + " " + b.strategy + " " + b.do + "@" + b.point
	if b.way != "" {
		s += " " + string(b.way)
	}
	return s
}

func afterBlows() []afterBlow {
	const src, dst, any = migrate.OwnerSource, migrate.OwnerDestination, migrate.OwnerUnknown
	return []afterBlow{
		{engine: "nbd", strategy: "hybrid", point: "disks-paging", do: killCoordinator, owner: dst},
		{engine: "native", strategy: "precopy", point: "disks-fetched", do: killCoordinator, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "disks-paging", do: killDestAgent, owner: dst},
		{engine: "native", strategy: "precopy", point: "disks-paging", do: killSourceAgent, owner: dst},
		{engine: "nbd", strategy: "hybrid", point: "disks-paging", do: cutLink, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: killCoordinator, owner: src, way: byAgents},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: killDestAgent, owner: src, way: byAgents, long: true},
		{engine: "nbd", strategy: "hybrid", point: "in-copy", do: cutLink, owner: any, way: byAgents, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-still", do: killCoordinator, owner: src, way: byAgents, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-punch", do: killDestAgent, owner: any, way: byAgents, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-gate", do: killCoordinator, owner: any, way: byAgents, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-prepare", do: killCoordinator, owner: src, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-punch", do: killCoordinator, owner: src, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-gate", do: killCoordinator, owner: any, long: true},
		{engine: "nbd", strategy: "hybrid", point: "after-resume", do: killCoordinator, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "disks-thawed", do: killCoordinator, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "disk-folded", do: killCoordinator, owner: dst, long: true},
		{engine: "nbd", strategy: "hybrid", point: "before-finish", do: killCoordinator, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "in-copy", do: killCoordinator, owner: src, long: true},
		{engine: "native", strategy: "precopy", point: "before-resume", do: killCoordinator, owner: any, long: true},
		{engine: "native", strategy: "precopy", point: "after-resume", do: killCoordinator, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disk-folded", do: killCoordinator, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disks-fetched", do: killDestAgent, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disks-fetched", do: killSourceAgent, owner: dst, long: true},
		{engine: "native", strategy: "precopy", point: "disks-paging", do: cutLink, owner: dst, long: true},
	}
}

// Whoever dies or is cut off while a guest's disks follow it: the guest runs on one host, each write is there, its disks are
// whole on images of their own in the end, and nothing is left beside them.
func TestT4DisksAfterFaults(t *testing.T) {
	d := newDiskBench(t)
	for _, b := range afterBlows() {
		if b.long && os.Getenv(roundsEnv) == "" {
			continue
		}
		if !t.Run(b.String(), func(t *testing.T) { d.of(t).afterBlow(b) }) {
			break // what follows needs the guest
		}
	}
}

func (d *diskBench) afterBlow(b afterBlow) {
	d.t.Helper()
	from := d.settle()
	d.guard()
	d.shape(from, "200mbit")
	marker := d.marker()
	args := b.way.args(d.move(b.engine, b.strategy, from))
	p := d.start([]string{migrate.ParkEnv + "=" + b.point + "@" + marker}, args...)
	p.parked(d.bench, marker)
	d.deed(blow{do: b.do}, from, marker)
	code := p.wait()
	at := d.conclude(p, code, from)
	if b.owner == migrate.OwnerDestination && at != other(from) || b.owner == migrate.OwnerSource && at != from {
		d.t.Errorf("the guest is on %s, its owner should be the %s", at, b.owner)
	}
	d.wellAt(at)
	d.settled(at, lingers)
	if at == from && (b.point == "after-punch" || b.point == "after-gate" || b.point == "before-resume") {
		d.ok("lab", "exec", other(from), "--", "sh", "-c", "rm -f "+d.hosts[other(from)].ImagesDir()+"/.vmmigrate-*")
		return // past the commit the guest may have run there unseen: the report names what is left
	}
	for host, h := range d.hosts {
		left, err := filepath.Glob(filepath.Join(h.ImagesDir(), ".vmmigrate-*"))
		if err != nil || len(left) > 0 {
			d.t.Errorf("host %s has %q left, %v", host, left, err)
		}
	}
}
