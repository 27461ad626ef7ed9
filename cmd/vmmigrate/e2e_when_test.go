package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// coordinators are the processes that drive this test's migrations, or wait with them.
func (x *bench) coordinators() []process {
	x.t.Helper()
	return processes(x.t, func(pid int, args []string) bool {
		if !slices.Contains(args, "coordinate") {
			return false
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return err == nil && strings.Contains(string(env), "VMMIGRATE_STATE_DIR="+x.state+"\x00")
	})
}

// A migration waits for its moment, also when its process is killed; it can be begun at once, or be given up.
func TestT4When(t *testing.T) {
	x := newBench(t).in(t)
	from := x.settle()
	later := append(x.migrateArgs(from), "--when", "+2h", "--progress", "log")
	p := x.start(nil, later...)
	p.line("waiting")
	if out := x.ok("status"); !strings.Contains(out, "of "+guestName+" waits until") {
		t.Errorf("status says %q", out)
	}
	all := x.coordinators()
	if len(all) != 1 {
		t.Fatalf("coordinators: %v", all)
	}
	if err := syscall.Kill(all[0].pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ends(exitSource)
	p.says("nothing was done yet")
	if out := x.ok("status", guestName); !strings.Contains(out, "vmmigrate recover") {
		t.Errorf("status says %q", out)
	}
	if code, out := x.run("hurry", guestName); code != exitFailure || !strings.Contains(out, "vmmigrate recover") {
		t.Errorf("hurry of what nobody waits with: exit code %d, %s", code, out)
	}
	p = x.start(nil, "recover", guestName, "--progress", "json", "-o", "json")
	w := p.until("it waits", func(l migrate.Progress) bool { return l.Phase == migrate.PhaseWaiting })
	if w.Wait == nil || !w.Wait.Start.After(w.Time) || w.Owner != migrate.OwnerSource {
		t.Errorf("it says %+v", w)
	}
	if code, out := x.run(later...); code != exitBlocked || !strings.Contains(out, "vmmigrate hurry") {
		t.Errorf("a second one that waits: exit code %d, %s", code, out)
	}
	x.ok("hurry", guestName)
	p.ends(exitDone)
	checkProgress(t, p)
	x.at(other(from))
	from = other(from)
	p = x.start(nil, append(x.migrateArgs(from), "--when", "+2h", "--progress", "log")...)
	p.line("waiting")
	if out := x.ok("cancel", guestName); !strings.Contains(out, "is cancelled; owner: source") {
		t.Errorf("cancel says %q", out)
	}
	p.ends(exitSource)
	if out := x.ok("status"); !strings.Contains(out, "no migration runs or waits") {
		t.Errorf("status says %q", out)
	}
	x.at(from)
}

// A migration that waits and whose process is gone is taken up by the service, once however many look, and outlives that.
func TestT4TakenUp(t *testing.T) {
	x := newBench(t).in(t)
	from := x.settle()
	p := x.start(nil, append(x.migrateArgs(from), "--when", "+2h")...)
	id := p.until("it waits", func(l migrate.Progress) bool { return l.Phase == migrate.PhaseWaiting }).Migration
	first := x.coordinators()
	if len(first) != 1 {
		t.Fatalf("coordinators: %v", first)
	}
	x.kill(first[0].pid)
	p.ends(exitSource)

	var daemons []*proc
	for range 2 {
		daemons = append(daemons, x.start(nil, "watch", "--daemon", "--no-dirty", "-c", x.uris[from]))
	}
	x.until("it waits again", func() bool { return strings.Contains(x.ok("status"), id+" of "+guestName+" waits until") })
	x.until("one coordinator has it", func() bool { return len(x.coordinators()) == 1 })
	for _, d := range daemons {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		d.ends(exitDone)
	}
	if all := x.coordinators(); len(all) != 1 || all[0].pid == first[0].pid {
		t.Fatalf("coordinators: %v", all)
	}
	p = x.start(nil, "watch", id, "-o", "json")
	x.ok("hurry", guestName)
	p.ends(exitDone)
	if r := p.report(); r.Migration != id || r.Outcome != migrate.OutcomeCompleted {
		t.Errorf("migration %s %s", r.Migration, r.Outcome)
	}
	x.at(other(from))
}
