package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
)

// blow is what happens to one migration by agents.
type blow struct {
	strategy string
	// agent is a fault of an agent's own: POINT[:N]=ACTION (worker.FaultFrom).
	agent string
	// park is a point of the coordinator, and do what is done while it stands there.
	park, do string
	// slow makes RAM take seconds.
	slow bool
	more []string
	// long is tried where roundsEnv asks for a long run, rare only where blowsEnv names it.
	long, rare bool
	// done: the migration ends as if nothing had been.
	done bool
}

func (b blow) String() string {
	s := b.strategy
	if b.agent != "" {
		s += " agent:" + b.agent
	}
	if b.park != "" {
		s += " " + b.do + "@" + b.park
	}
	if b.slow {
		s += " slow"
	}
	return strings.Join(append([]string{s}, b.more...), " ")
}

// The deeds that may be done while a coordinator is parked.
const (
	killCoordinator = "kill-coordinator"
	killSourceAgent = "kill-source-agent"
	killDestAgent   = "kill-dest-agent"
	stopSourceAgent = "stop-source-agent"
	stopDestAgent   = "stop-dest-agent"
	cutLink         = "cut-link"
	slowDown        = "slow-link"
	killDestQEMU    = "kill-dest-qemu"
)

// deeds are those of them that may be done at a point: without the destination's QEMU no guest comes through the commit.
func deeds(point string) []string {
	all := []string{killCoordinator, killSourceAgent, killDestAgent, stopSourceAgent, stopDestAgent, cutLink, slowDown}
	switch point {
	case "after-prepare", "in-copy", "after-rounds":
		all = append(all, killDestQEMU)
	}
	return all
}

func blows() []blow {
	all := []blow{
		{strategy: "hybrid", agent: "harvest:2=error", long: true},
		{strategy: "precopy", agent: "harvest:2=error", long: true},
		{strategy: "hybrid", agent: "harvest:2=kill"},
		{strategy: "hybrid", agent: "piece:40=kill", long: true},
		{strategy: "hybrid", agent: "switched=kill"},
		{strategy: "hybrid", agent: "released=kill", long: true},
		{strategy: "postcopy", agent: "relayed=kill", done: true},
		{strategy: "postcopy", agent: "prepage:20=kill"},
		{strategy: "postcopy", park: "in-page", do: killSourceAgent, slow: true, long: true},
		{strategy: "postcopy", park: "in-page", do: cutLink, slow: true, long: true},
		{strategy: "hybrid", park: "in-copy", do: cutLink, slow: true, long: true},
		{strategy: "hybrid", park: "after-rounds", do: killDestQEMU},
	}
	for _, strategy := range []string{"precopy", "postcopy", "hybrid"} {
		for _, point := range worker.Points() {
			for _, action := range []string{"kill", "error", "hang", "stop"} {
				all = append(all, blow{strategy: strategy, agent: point + "=" + action, rare: true})
			}
		}
		for _, point := range append(migrate.ParkPoints(), "after-prepare", "in-copy", "before-page") {
			for _, do := range deeds(point) {
				all = append(all, blow{strategy: strategy, park: point, do: do, slow: true, rare: true})
			}
		}
	}
	return all
}

// blowsEnv limits TestT4NBDFaults to those whose text contains it, out of all that there are: hours, if it is a blank.
const blowsEnv = "VMMIGRATE_E2E_BLOWS"

// Whatever happens to agents, the link or the destination's QEMU, the guest is whole on one host and runs there, or stands
// still until recover brings it back.
func TestT4NBDFaults(t *testing.T) {
	x := newSharedBench(t)
	k := kindNamed(t, "plain")
	x.shared(k)
	t.Cleanup(func() { x.take(k, blow{strategy: "hybrid"}) }) // nothing stands in the way of the next
	only := os.Getenv(blowsEnv)
	for _, b := range blows() {
		if only == "" && (b.rare || b.long && os.Getenv(roundsEnv) == "") || !strings.Contains(b.String()+" ", only) {
			continue
		}
		t.Run(strings.ReplaceAll(b.String(), " ", ","), func(t *testing.T) { x.in(t).take(k, b) })
	}
}

// take has a migration suffer a blow, and recover put right what is left. It returns where the guest is.
func (x *bench) take(k sharedKind, b blow) string {
	x.t.Helper()
	from := x.settle()
	x.guard()
	if b.slow {
		x.shape(from, "100mbit")
	}
	var env []string
	if b.agent != "" {
		env = append(env, worker.FaultEnv+"="+b.agent+"@"+x.t.TempDir()+"/fault")
	}
	marker := x.marker()
	if b.park != "" {
		env = append(env, migrate.ParkEnv+"="+b.park+"@"+marker)
	}
	begun := time.Now()
	p := x.start(env, x.nbdArgs(k, from, append([]string{"--strategy", b.strategy}, b.more...)...)...)
	if b.park != "" && x.parkedOrOver(p, marker) {
		x.deed(b, from, marker)
	}
	code := p.waitFor(3 * patience)
	x.t.Logf("%s: exit code %d after %.1f s%s", b, code, time.Since(begun).Seconds(), lastWords(p, code))
	if b.done && code != exitDone {
		x.t.Errorf("it did not come through: %s", p.stderr())
	}
	at := x.conclude(p, code, from)
	x.at(at)
	if b.agent == "" && b.park == "" {
		x.traceless(at, goneWithin)
	} else {
		x.settled(at, lingers)
	}
	return at
}

// parkedOrOver waits until the coordinator stands at its point, which not every migration comes to.
func (x *bench) parkedOrOver(p *proc, marker string) (parked bool) {
	x.t.Helper()
	over := false
	x.until("the coordinator parks, or ends", func() bool {
		_, err := os.Stat(marker)
		parked = err == nil
		select {
		case <-p.done:
			over = true
		default:
		}
		return parked || over
	})
	return parked && !over
}

// deed does what is to be done to a migration whose coordinator is parked, and lets it go on.
func (x *bench) deed(b blow, from, marker string) {
	x.t.Helper()
	switch b.do {
	case killCoordinator:
		x.kill(x.coordinator(guestName))
		return
	case killSourceAgent:
		x.signalAgents(from, syscall.SIGKILL)
	case killDestAgent:
		x.signalAgents(other(from), syscall.SIGKILL)
	case stopSourceAgent:
		x.signalAgents(from, syscall.SIGSTOP)
	case stopDestAgent:
		x.signalAgents(other(from), syscall.SIGSTOP)
	case killDestQEMU:
		x.kill(x.qemu(other(from)))
	case slowDown:
		x.shape(from, "20mbit,delay=20ms")
	case cutLink:
		x.cut(from)
		defer x.mendAfter(from, 7*time.Second)
	}
	if err := os.Remove(marker); err != nil {
		x.t.Fatal(err)
	}
}

// mendAfter mends a link that has been cut for some time.
func (x *bench) mendAfter(host string, d time.Duration) {
	x.t.Helper()
	select {
	case <-time.After(d):
	case <-x.t.Context().Done():
	}
	x.mend(host)
}

// signalAgents signals the agents of a host.
func (x *bench) signalAgents(host string, sig syscall.Signal) {
	x.t.Helper()
	for _, a := range x.agents() {
		if x.isOn(a.pid, host) {
			if err := syscall.Kill(a.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				x.t.Errorf("signal agent %d: %v", a.pid, err)
			}
		}
	}
}

// isOn tells whether a process is in a host's network.
func (x *bench) isOn(pid int, host string) bool {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", x.hosts[host].PID()))
	if err != nil {
		x.t.Fatal(err)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && ours == theirs
}

// conclude finds out where a guest is after a migration that may have failed, and has recover put right what is left.
func (x *bench) conclude(p *proc, code int, from string) string {
	x.t.Helper()
	for try := 1; ; try++ {
		switch code {
		case exitDone:
			return other(from)
		case exitSource:
			return from
		}
		if _, open := x.open(); !open && code == exitFailure {
			return x.where() // it ended, and says so
		}
		x.t.Logf("try %d: exit code %d\n%s", try, code, p.stderr())
		if try == 4 {
			x.t.Fatalf("recover does not bring the guest back: exit code %d\n%s%s", code, p.stdout(), p.stderr())
		}
		p = x.start(nil, "recover", guestName, "--progress", "json", "-o", "json")
		code = p.waitFor(3 * patience)
	}
}

// open gives the migration that is not over, if there is one.
func (x *bench) open() (text string, open bool) {
	x.t.Helper()
	_, text = x.run("status", "-o", "json")
	return text, text != "[]\n"
}

// lastWords is what a command that did not end well said last.
func lastWords(p *proc, code int) string {
	if code == exitDone {
		return ""
	}
	lines := strings.Split(p.stderr(), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-3):], "\n")
}
