package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// sharedKind is a guest whose RAM agents can move.
type sharedKind struct {
	name  string
	guest []string // how the lab starts it
	disk  bool     // it has one, to be copied
	// native tells whether QEMU's own pre-copy moves it whole: under TCG not one of several CPUs.
	native bool
}

const (
	sharedMemory = "240MiB"
	sharedWork   = "hotset:size=24MiB,rate=1500"
)

func sharedKinds() []sharedKind {
	with := func(more ...string) []string {
		return append([]string{"--backing", "shared", "--accel", testenv.AccelTCG}, more...)
	}
	small := []string{"--memory", sharedMemory, "--workload", sharedWork}
	return []sharedKind{
		{name: "plain", native: true, guest: with(small...)},
		{name: "disk", native: true, disk: true, guest: with("--memory", sharedMemory, "--disk", "8MiB", "--workload", "mixed:size=16MiB,rate=1500,writes=20")},
		{name: "two blocks", guest: with(append(small, "--numa", "2", "--cpus", "2")...)},
		{name: "huge pages", native: true, guest: with(append(small, "--pages", "2MiB")...)},
	}
}

func kindNamed(t *testing.T, name string) sharedKind {
	t.Helper()
	i := slices.IndexFunc(sharedKinds(), func(k sharedKind) bool { return k.name == name })
	if i < 0 {
		t.Fatalf("no guest of kind %q", name)
	}
	return sharedKinds()[i]
}

// newSharedBench is a lab without the guest that all other tests share, which is there again at the test's end.
func newSharedBench(t *testing.T) *bench {
	t.Helper()
	need.UFFD(t)
	x := newBench(t)
	t.Cleanup(func() {
		plain := *x
		plain.guest = plainGuest()
		plain.anew()
	})
	return x
}

// shared puts a guest of that kind in the place of whatever guest there is.
func (x *bench) shared(k sharedKind) {
	x.t.Helper()
	x.guest = k.guest
	x.anew()
}

// nbdArgs moves the guest by agents.
func (x *bench) nbdArgs(k sharedKind, from string, more ...string) []string {
	args := []string{"migrate", "-c", x.uris[from], guestName, x.uris[other(from)], "--engine", "nbd", "--persistent", "--undefinesource"}
	if k.disk {
		args = append(args, "--copy-storage-all")
	}
	return append(append(args, "--progress", "json", "-o", "json"), more...)
}

// process is one of this lab's processes.
type process struct {
	pid  int
	args []string
}

// processes gives the processes for which ok is true of their arguments and environment.
func processes(t *testing.T, ok func(pid int, args []string) bool) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(raw) == 0 {
			continue // it has ended
		}
		if args := strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00"); ok(pid, args) {
			found = append(found, process{pid, args})
		}
	}
	return found
}

// agents are the agents of this lab.
func (x *bench) agents() []process {
	x.t.Helper()
	return processes(x.t, func(pid int, args []string) bool {
		if !slices.Contains(args, "agent") || !slices.Contains(args, "--stdio") {
			return false
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return err == nil && strings.Contains(string(env), testenv.DirEnv+"="+x.dir+"\x00")
	})
}

// qemu is the guest's QEMU on a host; 0 if there is none.
func (x *bench) qemu(host string) int {
	x.t.Helper()
	net, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", x.hosts[host].PID()))
	if err != nil {
		x.t.Fatal(err)
	}
	found := processes(x.t, func(pid int, args []string) bool {
		if !strings.Contains(args[0], "qemu-system") || !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(strings.TrimPrefix(a, "guest="), guestName+",") }) {
			return false
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return err == nil && theirs == net
	})
	switch len(found) {
	case 0:
		return 0
	case 1:
		return found[0].pid
	}
	x.t.Fatalf("host %s has %d QEMUs of the guest", host, len(found))
	return 0
}

// goneWithin is how long agents may take to be gone after a migration that nobody disturbed.
const goneWithin = 5 * time.Second

// traceless fails unless nothing is left of a migration by agents: no agent, no socket, nothing in the guest's QEMU.
func (x *bench) traceless(host string, within time.Duration) {
	x.t.Helper()
	x.settled(host, within)
	if n := userfaults(x.t, x.qemu(host)); n > 0 {
		x.t.Errorf("the guest's QEMU has %d userfaultfds left", n)
	}
	for name, h := range x.hosts {
		left, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/var/lib/libvirt/qemu/vmmigrate-*", h.PID()))
		if err != nil {
			x.t.Fatal(err)
		}
		// The monitor's socket lives as long as its QEMU.
		if left = slices.DeleteFunc(left, func(f string) bool { return name == host && strings.HasSuffix(f, ".qmp") }); len(left) > 0 {
			x.t.Errorf("host %s has sockets left: %q", name, left)
		}
	}
}

// settled fails unless nobody is at work on the guest any more. What agents and QEMUs that were killed leave, the next
// migration takes away: a tracker, which costs next to nothing, and sockets.
func (x *bench) settled(host string, within time.Duration) {
	x.t.Helper()
	x.within(within, "the agents are gone", func() bool {
		for name := range x.hosts { // to those that were made to stand still, and to nsenter, which stops with its child
			x.signalAgents(name, syscall.SIGCONT)
		}
		return len(x.agents()) == 0
	}, func() string {
		return fmt.Sprint(x.agents())
	})
	if x.sharedLeftOut(host) {
		x.t.Error("the guest's QEMU still leaves shared RAM out of its migrations")
	}
}

// userfaults counts the userfaultfds that a process has open. The device that QEMU makes its own from, which it keeps open ever
// after, is none.
func userfaults(t *testing.T, pid int) (n int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.Contains(to, "[userfaultfd]") {
			n++
		}
	}
	return n
}

// sharedLeftOut tells whether x-ignore-shared is on in the guest's QEMU.
func (x *bench) sharedLeftOut(host string) bool {
	x.t.Helper()
	var r struct {
		Return []struct {
			Capability string
			State      bool
		}
	}
	const ask = "query-migrate-capabilities"
	if x.bare != nil {
		x.askQEMU(host, ask, &r.Return)
	} else if out := x.virsh(host, "qemu-monitor-command", guestName, `{"execute":"`+ask+`"}`); json.Unmarshal([]byte(out), &r) != nil {
		x.t.Fatal(out)
	}
	for _, c := range r.Return {
		if c.Capability == "x-ignore-shared" {
			return c.State
		}
	}
	x.t.Fatalf("QEMU does not know x-ignore-shared: %v", r.Return)
	return false
}

// within waits for something outside, for that long at most.
func (x *bench) within(d time.Duration, what string, ok func() bool, now func() string) {
	x.t.Helper()
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			x.t.Errorf("waited %v in vain until %s: %s", d, what, now())
			return
		}
	}
}
