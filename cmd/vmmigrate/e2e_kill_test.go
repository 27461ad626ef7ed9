package main

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// death is a point at which the coordinator is killed, and how the migration has to end then.
type death struct {
	strategy, point string
	// lands tells whether the destination has the guest in the end.
	lands bool
	// slow makes RAM take seconds, so that the coordinator dies while it is being fetched.
	slow bool
	// long is only tried where roundsEnv asks for a long run: pre-copy shows the same.
	long bool
}

func deaths() []death {
	return []death{
		{strategy: "precopy", point: "before-check"},
		{strategy: "precopy", point: "after-check"},
		{strategy: "precopy", point: "before-prepare"},
		{strategy: "precopy", point: "after-prepare"},
		{strategy: "precopy", point: "before-copy"},
		{strategy: "precopy", point: "in-copy", slow: true},
		{strategy: "precopy", point: "after-copy"},
		{strategy: "precopy", point: "before-commit"},
		{strategy: "precopy", point: "after-commit"},
		{strategy: "precopy", point: "before-resume"},
		{strategy: "precopy", point: "after-resume", lands: true},
		{strategy: "precopy", point: "before-page", lands: true},
		{strategy: "precopy", point: "after-page", lands: true},
		{strategy: "precopy", point: "before-finish", lands: true},
		{strategy: "precopy", point: "after-finish", lands: true},
		{strategy: "postcopy", point: "before-check", long: true},
		{strategy: "postcopy", point: "after-check", long: true},
		{strategy: "postcopy", point: "before-prepare", long: true},
		{strategy: "postcopy", point: "after-prepare", long: true},
		{strategy: "postcopy", point: "before-copy"},
		{strategy: "postcopy", point: "in-copy", slow: true},
		{strategy: "postcopy", point: "after-copy", lands: true},
		{strategy: "postcopy", point: "before-resume", lands: true},
		{strategy: "postcopy", point: "after-resume", lands: true, slow: true},
		{strategy: "postcopy", point: "before-page", lands: true, slow: true, long: true},
		{strategy: "postcopy", point: "after-page", lands: true},
		{strategy: "postcopy", point: "before-finish", lands: true, long: true},
		{strategy: "postcopy", point: "after-finish", lands: true},
		{strategy: "hybrid", point: "in-copy", slow: true},
		{strategy: "hybrid", point: "after-resume", lands: true},
	}
}

// Whenever the coordinator is killed, the watcher says so, the owner is known, and recover finishes or undoes the
// migration: the guest runs on one host, is whole, and never ran on two.
func TestT4KilledCoordinator(t *testing.T) {
	x := newBench(t)
	for _, d := range deaths() {
		if d.long && os.Getenv(roundsEnv) == "" {
			continue
		}
		t.Run(d.strategy+"/"+d.point, func(t *testing.T) {
			x.in(t).die(d)
		})
	}
}

func (x *bench) die(d death) {
	from := x.settle()
	to := other(from)
	x.guard()
	if d.slow {
		x.shape(from, "150mbit")
	}
	marker := x.marker()
	p := x.start([]string{migrate.ParkEnv + "=" + d.point + "@" + marker}, x.migrateArgs(from, "--strategy", d.strategy)...)
	id := p.parked(x, marker)
	x.kill(x.coordinator(id))
	p.ends(exitUnknown)
	p.says("the coordinator ended without a word .*killed")
	p.says("fix: vmmigrate status " + id + " .*vmmigrate recover " + id)

	want, end, at := migrate.OwnerSource, exitSource, from
	if d.lands {
		want, end, at = migrate.OwnerDestination, exitDone, to
	}
	x.named(want)
	r := x.start(nil, "recover", guestName, "--progress", "json", "-o", "json")
	r.ends(end)
	if got := r.report(); got.Owner != want || got.Migration != id {
		x.t.Errorf("recover reports migration %s, owner %s; want %s, %s", got.Migration, got.Owner, id, want)
	}
	x.at(at)
	if left := x.ok("status", "-o", "json"); left != "[]\n" {
		x.t.Errorf("status still lists %s", left)
	}
}

// named holds status to naming the owner of a migration that nobody drives, in words and in its exit code.
func (x *bench) named(want migrate.Owner) {
	x.t.Helper()
	p := x.start(nil, "status", guestName, "-o", "json")
	code := p.wait()
	var s struct {
		Alive bool         `json:"alive"`
		Plan  migrate.Plan `json:"plan"`
	}
	if err := json.Unmarshal([]byte(p.stdout()), &s); err != nil {
		x.t.Fatalf("status: %v\n%s%s", err, p.stdout(), p.stderr())
	}
	codes := map[migrate.Owner]int{migrate.OwnerSource: exitSource, migrate.OwnerDestination: exitPaused}
	if s.Alive || s.Plan.Owner != want || code != codes[want] {
		x.t.Errorf("status: exit code %d, alive %t, plan %+v; want the owner %s and exit code %d", code, s.Alive, s.Plan, want, codes[want])
	}
	_, text := x.run("status", guestName)
	if !regexp.MustCompile(`(?m)^owner +` + want.String() + `$`).MatchString(text) {
		x.t.Errorf("status does not name the owner %s:\n%s", want, text)
	}
}
