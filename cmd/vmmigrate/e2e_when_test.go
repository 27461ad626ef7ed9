package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
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
	p = x.start(nil, "recover", guestName, "--progress", "log")
	p.line("waiting")
	if code, out := x.run(later...); code != exitBlocked || !strings.Contains(out, "vmmigrate hurry") {
		t.Errorf("a second one that waits: exit code %d, %s", code, out)
	}
	x.ok("hurry", guestName)
	p.ends(exitDone)
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
