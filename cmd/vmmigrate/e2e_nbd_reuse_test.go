package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
)

// copies are the copies of RAM that a host has.
func (x *bench) copies(host string) (list []keptCopy) {
	x.t.Helper()
	if out := x.ok("lab", "exec", host, "--", "vmmigrate", "kept", "-o", "json"); json.Unmarshal([]byte(out), &list) != nil {
		x.t.Fatalf("copies on host %s: %s", host, out)
	}
	return list
}

// begun are the copies on a host that never became any.
func (x *bench) begun(host string) []string {
	x.t.Helper()
	found, err := filepath.Glob(fmt.Sprintf("/proc/%d/root%s/.*-*", x.hosts[host].PID(), worker.KeepDirs()[0]))
	if err != nil {
		x.t.Fatal(err)
	}
	return found
}

// returns moves the guest with reuse, and tells what the report says of its RAM, and its notes.
func (x *bench) returns(k sharedKind, env []string, strategy string) (*migrate.ReportRAM, string) {
	x.t.Helper()
	from := x.settle()
	p := x.start(env, x.nbdArgs(k, from, "--strategy", strategy, "--keep-copy", "--reuse")...)
	p.ends(exitDone)
	x.at(other(from))
	x.settled(other(from), lingers)
	r := p.report()
	if r.Outcome != migrate.OutcomeCompleted || r.RAM == nil || r.RAM.SentBytes == nil {
		x.t.Fatalf("outcome %s, RAM %+v", r.Outcome, r.RAM)
	}
	return r.RAM, strings.Join(r.Notes, "\n")
}

// A guest that returns gets what its host still has of its RAM from there. Where the agent dies while it keeps a copy the guest
// moves all the same, and half a copy is nobody's.
func TestT4NBDReuse(t *testing.T) {
	x := newSharedBench(t)
	k := kindNamed(t, "plain")
	k.guest = append(k.guest[:len(k.guest):len(k.guest)], "--workload", "uniform:size=40MiB,rate=300")
	x.shared(k)
	x.guard()
	from := x.where()
	to := other(from)
	t.Cleanup(func() {
		for _, host := range []string{from, to} {
			x.ok("lab", "exec", host, "--", "vmmigrate", "kept", "--drop-all")
		}
	})
	first, notes := x.in(t).returns(k, []string{worker.FaultEnv + "=keep:20=kill@" + t.TempDir() + "/fault"}, "hybrid")
	if !strings.Contains(notes, "no copy of the guest's RAM was kept") || first.ReusedPages != nil {
		t.Errorf("after the agent's death %v pages were reused: %s", first.ReusedPages, notes)
	}
	if left := x.begun(from); len(x.copies(from)) != 0 || len(left) != 1 {
		t.Errorf("the host has %+v, and of what was begun %v", x.copies(from), left)
	}
	second, notes := x.in(t).returns(k, nil, "precopy")
	if !strings.Contains(notes, "none of the guest's RAM can be reused") || second.ReusedPages != nil {
		t.Errorf("half a copy was used: %v pages were reused: %s", second.ReusedPages, notes)
	}
	for i, strategy := range []string{"hybrid", "postcopy"} {
		var env []string
		if strategy == "postcopy" { // the agent that takes over looks for the copy, too
			env = append(env, worker.FaultEnv+"=prepage:20=kill@"+t.TempDir()+"/fault")
		}
		back, notes := x.in(t).returns(k, env, strategy)
		if back.ReusedPages == nil || *back.ReusedPages == 0 || *back.SentBytes > *first.SentBytes/2 {
			t.Errorf("by %s %v pages were reused, and %d bytes sent instead of %d: %s", strategy, back.ReusedPages, *back.SentBytes, *first.SentBytes, notes)
		}
		if list, left := x.copies([]string{from, to}[i]), x.begun([]string{from, to}[i]); len(list) != 1 || list[0].Guest != guestName || len(left) != 0 {
			t.Errorf("the host that it left has %+v, and of what was begun %v", list, left)
		}
		t.Logf("by %s %d bytes were sent, %d the first time, %d pages reused", strategy, *back.SentBytes, *first.SentBytes, *back.ReusedPages)
	}
}
