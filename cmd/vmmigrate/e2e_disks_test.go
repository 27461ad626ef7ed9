package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// leg is one migration of a guest with disks.
type leg struct {
	engine, strategy string
	how              []string // instead of --copy-storage-all
	long             bool     // only where roundsEnv asks for a long run
}

func (l leg) String() string {
	return strings.Join(append([]string{l.engine, l.strategy}, l.how...), ", ")
}

func diskLegs() []leg {
	return []leg{
		{engine: "native", strategy: "precopy"}, {engine: "nbd", strategy: "hybrid"},
		{engine: "nbd", strategy: "hybrid", how: after()}, {engine: "nbd", strategy: "hybrid", how: reuse()},
		{engine: "native", strategy: "precopy", how: after()}, {engine: "nbd", strategy: "postcopy", how: after(), long: true},
		{engine: "nbd", strategy: "precopy", how: reuse(), long: true}, {engine: "nbd", strategy: "precopy", how: after(), long: true},
		{engine: "nbd", strategy: "precopy", long: true}, {engine: "native", strategy: "postcopy", long: true},
		{engine: "nbd", strategy: "postcopy", long: true}, {engine: "native", strategy: "hybrid", long: true},
	}
}

func after() []string { return []string{"--copy-storage-after"} }
func reuse() []string { return []string{"--copy-storage-all", "--reuse"} }

// A guest with disks in two formats, one of them partly full, moves there and back by either engine, through faults, and to
// images of other kinds. It boots once for all of that, which takes as long as a migration.
func TestT4Disks(t *testing.T) {
	d := newDiskBench(t)
	for _, s := range []struct {
		name string
		do   func(*diskBench, *testing.T)
	}{
		{"there and back", (*diskBench).thereAndBack}, {"faults", (*diskBench).faults},
		{"overlay", (*diskBench).overlay}, {"device", (*diskBench).device},
		{"ended", (*diskBench).ended}, // the last: the guest forgets what it wrote
	} {
		if !t.Run(s.name, func(t *testing.T) { s.do(d.of(t), t) }) {
			break // what follows needs the guest
		}
	}
}

func TestT3Disks(t *testing.T) {
	d := newBareBench(t)
	if t.Run("there and back", func(t *testing.T) { d.of(t).thereAndBack(t) }) {
		t.Run("faults", func(t *testing.T) { d.of(t).bareFaults(t) })
	}
}

// thereAndBack: each write arrives and none twice, what was there before is unchanged, and holes stay holes.
func (d *diskBench) thereAndBack(t *testing.T) {
	from := d.wellAt("a").Host
	for _, l := range diskLegs() {
		if l.long && os.Getenv(roundsEnv) == "" {
			continue
		}
		ok := t.Run(l.String(), func(t *testing.T) { d.of(t).leg(l, from) })
		if !ok {
			break // what follows needs the guest where this has it
		}
		from = other(from)
	}
}

// defined: the definition that the guest has left has the images that it runs on, and they stand alone.
func (d *diskBench) defined(at string) {
	d.t.Helper()
	live, kept := d.virsh(at, "domblklist", guestName), d.virsh(at, "domblklist", guestName, "--inactive")
	if text := d.virsh(at, "dumpxml", "--inactive", guestName); live != kept || strings.Contains(text, "nbd") {
		d.t.Errorf("it runs on\n%sand is defined on\n%s%s", live, kept, text)
	}
}

// leg moves the guest, which arrives at a standstill, so that both images can be compared.
func (d *diskBench) leg(l leg, from string) {
	d.t.Helper()
	if d.bare == nil {
		d.guard()
	}
	to := other(from)
	args := d.move(l.engine, l.strategy, from)
	still := l.engine != "native" || l.strategy == "precopy" // in QEMU's post-copy the guest has to run
	if still {
		args = append(args, "--suspend")
	}
	if l.how != nil {
		args = append(slices.DeleteFunc(args, func(a string) bool { return a == "--copy-storage-all" }), l.how...)
	}
	p := d.start(nil, args...)
	p.ends(exitDone)
	r := p.report()
	if r.Outcome != migrate.OutcomeCompleted || r.Owner != migrate.OwnerDestination || string(r.Engine) != l.engine || len(r.Disks) != 2 {
		d.t.Errorf("outcome %s, owner %s, engine %s, %d disks", r.Outcome, r.Owner, r.Engine, len(r.Disks))
	}
	if still {
		d.alike(from)
		d.resume(to)
	}
	d.wellAt(to)
	if d.bare == nil {
		d.defined(to)
		d.traceless(to, goneWithin)
	}
	checkProgress(d.t, p)
}
