package main

import (
	"os"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// lingers is how long an agent may stay that nobody directs any more: the lock's and the source's own limits, and some.
const lingers = 75 * time.Second

// nbdDeath is a point of a migration by agents at which the coordinator is killed.
type nbdDeath struct {
	strategy, point string
	// owner is who has the guest in the end; unknown where that is a race, and then either is right.
	owner migrate.Owner
	slow  bool // RAM takes seconds
	long  bool
}

func nbdDeaths() []nbdDeath {
	const src, dst, any = migrate.OwnerSource, migrate.OwnerDestination, migrate.OwnerUnknown
	return []nbdDeath{
		{strategy: "hybrid", point: "before-prepare", owner: src, long: true},
		{strategy: "hybrid", point: "after-prepare", owner: src, long: true},
		{strategy: "hybrid", point: "before-copy", owner: src, long: true},
		{strategy: "hybrid", point: "in-copy", owner: src, slow: true},
		{strategy: "hybrid", point: "after-rounds", owner: src, long: true},
		{strategy: "hybrid", point: "after-early-commit", owner: src, long: true},
		{strategy: "hybrid", point: "after-stream", owner: src, long: true},
		{strategy: "hybrid", point: "after-still", owner: src, long: true},
		{strategy: "hybrid", point: "after-punch", owner: src},
		{strategy: "hybrid", point: "after-gate", owner: any},
		{strategy: "hybrid", point: "after-copy", owner: any, long: true},
		{strategy: "hybrid", point: "before-resume", owner: any, long: true},
		{strategy: "hybrid", point: "after-resume", owner: dst, long: true},
		{strategy: "hybrid", point: "before-page", owner: dst, long: true},
		{strategy: "hybrid", point: "after-page", owner: dst, long: true},
		{strategy: "hybrid", point: "before-finish", owner: dst, long: true},
		{strategy: "hybrid", point: "after-finish", owner: dst, long: true},
		{strategy: "postcopy", point: "after-early-commit", owner: src, long: true},
		{strategy: "postcopy", point: "after-punch", owner: src, long: true},
		{strategy: "postcopy", point: "after-gate", owner: any, slow: true, long: true},
		{strategy: "postcopy", point: "after-resume", owner: dst, slow: true, long: true},
		{strategy: "postcopy", point: "before-page", owner: dst, slow: true, long: true},
		{strategy: "postcopy", point: "in-page", owner: dst, slow: true},
		{strategy: "postcopy", point: "after-page", owner: dst, long: true},
		{strategy: "postcopy", point: "before-finish", owner: dst, long: true},
		{strategy: "precopy", point: "in-copy", owner: src, slow: true, long: true},
		{strategy: "precopy", point: "after-early-commit", owner: src, long: true},
		{strategy: "precopy", point: "after-punch", owner: src, long: true},
		{strategy: "precopy", point: "after-gate", owner: any, long: true},
		{strategy: "precopy", point: "after-copy", owner: any, long: true},
		{strategy: "precopy", point: "after-resume", owner: dst, long: true},
		{strategy: "precopy", point: "after-page", owner: dst, long: true},
		{strategy: "precopy", point: "before-finish", owner: dst, long: true},
		{strategy: "precopy", point: "after-finish", owner: dst, long: true},
	}
}

// Wherever the coordinator is killed, recover finishes a migration by agents or undoes it: the guest runs on one host, is
// whole, never ran on two, and nothing is left behind.
func TestT4NBDKilledCoordinator(t *testing.T) {
	x := newSharedBench(t)
	k := kindNamed(t, "plain")
	x.shared(k)
	for _, d := range nbdDeaths() {
		if d.long && os.Getenv(roundsEnv) == "" {
			continue
		}
		t.Run(d.strategy+"/"+d.point, func(t *testing.T) {
			x.in(t).dieByAgents(k, d)
		})
	}
}

func (x *bench) dieByAgents(k sharedKind, d nbdDeath) {
	from := x.settle()
	x.guard()
	if d.slow {
		x.shape(from, "100mbit")
	}
	marker := x.marker()
	p := x.start([]string{migrate.ParkEnv + "=" + d.point + "@" + marker}, x.nbdArgs(k, from, "--strategy", d.strategy)...)
	id := p.parked(x, marker)
	x.kill(x.coordinator(id))
	p.ends(exitUnknown)
	if d.owner != migrate.OwnerUnknown {
		x.named(d.owner)
	}
	r := x.start(nil, "recover", guestName, "--progress", "json", "-o", "json")
	code := r.wait()
	got := r.report()
	if got.Migration != id {
		x.t.Errorf("recover reports migration %s, want %s", got.Migration, id)
	}
	if d.owner != migrate.OwnerUnknown && got.Owner != d.owner {
		x.t.Errorf("recover reports the owner %s, want %s", got.Owner, d.owner)
	}
	at := from
	switch {
	case code == exitDone && got.Owner == migrate.OwnerDestination:
		at = other(from)
	case code == exitSource && got.Owner == migrate.OwnerSource:
	default:
		x.t.Fatalf("recover: exit code %d, owner %s\n%s\n%s", code, got.Owner, r.stdout(), r.stderr())
	}
	x.at(at)
	x.traceless(at, lingers)
	if left := x.ok("status", "-o", "json"); left != "[]\n" {
		x.t.Errorf("status still lists %s", left)
	}
}
