package main

import (
	"regexp"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// A link that is cut while the guest is copied costs the migration and nothing else.
func TestT4LinkCutInPrecopy(t *testing.T) {
	x := newBench(t)
	x.guard()
	from := x.settle()
	x.shape(from, slowLink)
	p := x.start(nil, x.migrateArgs(from, "--strategy", "precopy")...)
	p.until("copying", copying)
	x.cut(from)
	p.ends(exitSource)
	if r := p.report(); r.Outcome != migrate.OutcomeFailed || r.Owner != migrate.OwnerSource || r.Error == nil || r.Error.Fix == "" {
		t.Errorf("outcome %s, owner %s, error %+v", r.Outcome, r.Owner, r.Error)
	}
	x.mend(from)
	x.at(from)
}

// A link that is cut after the switch pauses the guest, which goes on by itself when the link is back.
func TestT4LinkCutInPostcopy(t *testing.T) {
	x := newBench(t)
	x.guard()
	from := x.settle()
	x.shape(from, slowLink)
	p := x.start(nil, x.migrateArgs(from, "--strategy", "postcopy")...)
	p.until("the guest runs at the destination", landed)
	x.cut(from)
	note := p.until("a note that it is paused", noted("^paused: "))
	if note.Owner != migrate.OwnerDestination {
		t.Errorf("paused, the owner is %s", note.Owner)
	}
	if code, out := x.run("status", guestName); code != exitDone || !regexp.MustCompile(`(?m)^owner +destination$`).MatchString(out) {
		t.Errorf("status while it is paused: exit code %d\n%s", code, out)
	}
	x.mend(from)
	p.until("a note that it was recovered", noted("^recovered: "))
	p.ends(exitDone)
	if r := p.report(); r.Outcome != migrate.OutcomeCompleted || len(r.Notes) < 2 {
		t.Errorf("outcome %s, notes %q", r.Outcome, r.Notes)
	}
	checkProgress(t, p)
	x.at(other(from))
}

func noted(pattern string) func(migrate.Progress) bool {
	re := regexp.MustCompile(pattern)
	return func(p migrate.Progress) bool { return re.MatchString(p.Note) }
}

// cut pulls a host's cable, until the test ends at the latest.
func (x *bench) cut(host string) {
	x.t.Helper()
	x.undo("lab", "link", host, "up")
	x.ok("lab", "link", host, "down")
}

func (x *bench) mend(host string) {
	x.t.Helper()
	x.ok("lab", "link", host, "up")
}
