package main

import (
	"os"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// trip is one migration by agents.
type trip struct {
	name, strategy string
	more           []string
	paused         bool // the guest's owner has paused it
	long           bool // only where roundsEnv asks for a long run
}

func trips(kind string) []trip {
	long := kind != "plain"
	all := []trip{
		{name: "precopy", strategy: "precopy", long: long},
		{name: "postcopy", strategy: "postcopy", long: long && kind != "huge pages"},
		{name: "hybrid", strategy: "hybrid", long: kind == "huge pages"},
	}
	if kind == "plain" || kind == "disk" {
		for _, s := range []string{"precopy", "postcopy", "hybrid"} {
			all = append(all,
				trip{name: "paused by " + s, strategy: s, paused: true, long: kind != "plain" || s != "hybrid"},
				trip{name: "suspend by " + s, strategy: s, more: []string{"--suspend"}, long: kind != "plain" || s != "postcopy"},
				trip{name: "plain data by " + s, strategy: s, more: []string{"--plain-data"}, long: true})
		}
	}
	return all
}

// Agents move guests of every kind by every strategy and leave no trace; then QEMU moves the same guest alone, driven by us
// and by virsh.
func TestT4NBDMatrix(t *testing.T) {
	long := os.Getenv(roundsEnv) != ""
	x := newSharedBench(t)
	for _, k := range sharedKinds() {
		if k.name == "two blocks" && !long {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			y := x.in(t)
			y.shared(k)
			y.guard()
			for _, tr := range trips(k.name) {
				if tr.long && !long {
					continue
				}
				t.Run(tr.name, func(t *testing.T) { y.in(t).travel(k, tr) })
			}
			if k.native {
				t.Run("without agents", func(t *testing.T) { y.in(t).aloneAgain(k) })
			}
		})
	}
}

// travel moves the guest there, and in a long run back.
func (x *bench) travel(k sharedKind, tr trip) {
	rounds := 1
	if os.Getenv(roundsEnv) != "" {
		rounds = 2
	}
	for range rounds {
		from := x.settle()
		to := other(from)
		if tr.paused {
			x.virsh(from, "suspend", guestName)
		}
		p := x.start(nil, x.nbdArgs(k, from, append([]string{"--strategy", tr.strategy}, tr.more...)...)...)
		p.ends(exitDone)
		r := p.report()
		if r.Outcome != migrate.OutcomeCompleted || r.Owner != migrate.OwnerDestination || r.Engine != migrate.EngineNBD || string(r.Strategy) != tr.strategy {
			x.t.Errorf("outcome %s, owner %s, engine %s, strategy %s", r.Outcome, r.Owner, r.Engine, r.Strategy)
		}
		if tr.paused || tr.more != nil && tr.more[0] == "--suspend" {
			if n := len(x.running(to)); n != 0 {
				x.t.Errorf("host %s runs %d guests, and the guest was to stand still", to, n)
			}
			x.virsh(to, "resume", guestName)
		}
		x.at(to)
		x.traceless(to, goneWithin)
		checkProgress(x.t, p)
		x.checkHistory(r)
	}
}

// aloneAgain moves a guest by QEMU alone that agents have moved before.
func (x *bench) aloneAgain(k sharedKind) {
	from := x.settle()
	args := x.nbdArgs(k, from, "--strategy", "precopy")
	for i, a := range args {
		if a == "nbd" && args[i-1] == "--engine" {
			args[i] = "native"
		}
	}
	x.start(nil, args...).ends(exitDone)
	from = other(from)
	x.at(from)
	line := []string{"migrate", "--live", "--p2p", "--persistent", "--undefinesource"}
	if k.disk {
		line = append(line, "--copy-storage-all")
	}
	x.virsh(from, append(line, guestName, x.hosts[other(from)].TLSURI())...)
	x.at(other(from))
	x.traceless(other(from), goneWithin)
}
