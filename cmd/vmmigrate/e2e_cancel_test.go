package main

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// slowLink makes the copying take several seconds, so that there is time to interfere.
const slowLink = "100mbit"

func copying(p migrate.Progress) bool {
	return p.Phase == migrate.PhaseCopying && p.RemainingBytes != nil
}

func landed(p migrate.Progress) bool {
	return p.Phase == migrate.PhasePaging && p.Owner == migrate.OwnerDestination
}

func (p *proc) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// stays holds a migration to having been taken back: the guest runs on, is whole, and nothing is left on the other side.
func (x *bench) stays(p *proc, code int, from string, outcome migrate.Outcome) {
	x.t.Helper()
	p.ends(code)
	r := p.report()
	if r.Outcome != outcome || r.Owner != migrate.OwnerSource {
		x.t.Errorf("outcome %s, owner %s; want %s, source", r.Outcome, r.Owner, outcome)
	}
	for _, l := range p.progress() {
		if l.Percent == 100 {
			x.t.Errorf("a migration that was taken back says 100 %%: %+v", l)
		}
	}
	x.at(from)
}

// What is interrupted before the commit stays on the source, whoever interrupts it.
func TestT4Cancel(t *testing.T) {
	x := newBench(t)
	from := x.settle()
	x.shape(from, "40mbit")
	t.Run("ctrl-c", func(t *testing.T) {
		y := x.in(t)
		y.guard()
		p := y.start(nil, y.migrateArgs(from, "--strategy", "precopy")...)
		p.until("copying", copying)
		p.signal(syscall.SIGINT)
		y.stays(p, exitSource, from, migrate.OutcomeCancelled)
		p.says("cancelling: the guest stays on the source")
	})
	t.Run("ctrl-c while preparing", func(t *testing.T) {
		y := x.in(t)
		marker := y.marker()
		p := y.start([]string{migrate.ParkEnv + "=after-prepare@" + marker}, y.migrateArgs(from, "--strategy", "hybrid")...)
		p.parked(y, marker)
		p.signal(syscall.SIGINT)
		p.line("cancelling")
		if err := os.Remove(marker); err != nil {
			t.Fatal(err)
		}
		y.stays(p, exitSource, from, migrate.OutcomeCancelled)
	})
	t.Run("from another terminal", func(t *testing.T) {
		y := x.in(t)
		y.guard()
		p := y.start(nil, y.migrateArgs(from, "--strategy", "precopy")...)
		p.until("copying", copying)
		if out := y.ok("cancel", guestName); !strings.Contains(out, "is cancelled; owner: source") {
			t.Errorf("cancel says %q", out)
		}
		y.stays(p, exitSource, from, migrate.OutcomeCancelled)
		if code, out := y.run("cancel", guestName); code != exitFailure || !strings.Contains(out, "has ended: cancelled") {
			t.Errorf("cancel again: exit code %d, %s", code, out)
		}
	})
	t.Run("time limit", func(t *testing.T) {
		y := x.in(t)
		p := y.start(nil, y.migrateArgs(from, "--strategy", "precopy", "--max-duration", "1s")...)
		y.stays(p, exitLimit, from, migrate.OutcomeCancelled)
		if code, _ := y.run("watch", guestName, "--progress", "none"); code != exitLimit {
			t.Errorf("watch of its end: exit code %d, want %d", code, exitLimit)
		}
	})
	t.Run("busy", func(t *testing.T) { x.in(t).busy(from) })
}

// busy: a second migration of the guest is refused and names the first, which goes on.
func (x *bench) busy(from string) {
	p := x.start(nil, x.migrateArgs(from, "--strategy", "precopy")...)
	first := p.until("copying", copying)
	second := x.start(nil, x.migrateArgs(from, "--strategy", "precopy")...)
	code := second.wait()
	if code != exitBlocked || !strings.Contains(second.stderr(), first.Migration) {
		x.t.Errorf("a second migration: exit code %d; it does not name %s:\n%s", code, first.Migration, second.stderr())
	}
	if code, out := x.run("recover", guestName); code != exitFailure || !strings.Contains(out, first.Migration) {
		x.t.Errorf("recover of a migration that runs: exit code %d\n%s", code, out)
	}
	if code, out := x.run("status", guestName); code != exitDone || !strings.Contains(out, "running") {
		x.t.Errorf("status of a migration that runs: exit code %d\n%s", code, out)
	}
	if r := second.report(); r.Error == nil || !strings.Contains(r.Error.Cause, first.Migration) {
		x.t.Errorf("its report: %+v", r.Error)
	}
	p.signal(syscall.SIGINT)
	x.stays(p, exitSource, from, migrate.OutcomeCancelled)
}

// After the commit Ctrl-C only leaves, and others can watch to the end.
func TestT4LeaveAfterCommit(t *testing.T) {
	x := newBench(t)
	x.guard()
	from := x.settle()
	x.shape(from, slowLink)
	p := x.start(nil, x.migrateArgs(from, "--strategy", "postcopy")...)
	id := p.until("the guest runs at the destination", landed).Migration
	p.signal(syscall.SIGINT)
	p.ends(exitPaused)
	p.says("cannot be cancelled any more and goes on without you")
	p.says("vmmigrate watch " + id)
	p.says("vmmigrate recover " + id)
	if code, out := x.run("cancel", id); code != exitFailure || !strings.Contains(out, "past its commit") {
		t.Errorf("cancel after the commit: exit code %d\n%s", code, out)
	}
	// One watcher that leaves, and one that stays.
	w := x.start(nil, "watch", id, "--progress", "json")
	w.until("a line", func(l migrate.Progress) bool { return l.Migration == id })
	w.signal(syscall.SIGINT)
	if code := w.wait(); code == exitDone {
		t.Errorf("a watcher that leaves ends as if the migration had: %s", w.stderr())
	}
	w = x.start(nil, "watch", guestName, "--progress", "json", "-o", "json")
	w.ends(exitDone)
	if r := w.report(); r.Migration != id || r.Outcome != migrate.OutcomeCompleted {
		t.Errorf("the watcher's report: %+v", r)
	}
	x.at(other(from))
}

// A watcher that is killed takes nothing with it.
func TestT4KilledWatcher(t *testing.T) {
	x := newBench(t)
	x.guard()
	from := x.settle()
	p := x.start(nil, x.migrateArgs(from, "--strategy", "precopy")...)
	id := p.until("copying", func(l migrate.Progress) bool { return l.Phase == migrate.PhaseCopying }).Migration
	p.signal(syscall.SIGKILL)
	p.wait()
	w := x.start(nil, "watch", id, "--progress", "json", "-o", "json")
	w.ends(exitDone)
	x.checkHistory(w.report())
	x.at(other(from))
}
