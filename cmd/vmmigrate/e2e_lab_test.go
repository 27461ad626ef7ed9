package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
)

// patience bounds whatever is waited for: one command, one state of the hosts.
const patience = 90 * time.Second

// The guest that all tests move about. Its disk and what it writes are small, so that it is verified in a second.
const (
	guestName   = "web"
	guestMemory = 240 << 20
	guestDisk   = 8 << 20
	guestWork   = "mixed:size=16MiB,rate=1500,writes=20"
)

// sharedLab is the lab of this package's tests: hosts a and b and one guest, brought up by the first test that needs it.
type sharedLab struct {
	once sync.Once
	lab  *testenv.Lab
	dir  string
	err  error
}

var theLab sharedLab

func (s *sharedLab) up(ctx context.Context) error {
	s.once.Do(func() {
		// The paths of sockets have to be short.
		if s.dir, s.err = os.MkdirTemp("/var/tmp", "e2e"); s.err != nil {
			return
		}
		if s.lab, s.err = testenv.Up(ctx, testenv.Config{Name: "lab", Dir: s.dir, Bound: true}); s.err != nil {
			return
		}
		_, s.err = s.lab.StartGuest(ctx, testenv.GuestConfig{Name: guestName, Memory: guestMemory, Disk: guestDisk, Workload: guestWork, Accel: testenv.AccelTCG})
	})
	return s.err
}

func (s *sharedLab) down() error {
	if s.dir == "" {
		return nil
	}
	var err error
	if s.lab != nil {
		err = s.lab.Down(context.Background())
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// bench is the lab in the hands of one test, with a journal of its own.
type bench struct {
	t     *testing.T
	hosts map[string]*testenv.Host
	uris  map[string]string // as the command tells them
	state string
	env   []string
	guest []string     // how the lab starts the guest
	dir   string       // where the lab is
	bare  *testenv.Lab // the lab, if it is one without libvirt
}

// plainGuest starts the guest that all tests move about but those that say otherwise.
func plainGuest() []string {
	return []string{"--memory", "240MiB", "--disk", "8MiB", "--workload", guestWork, "--accel", testenv.AccelTCG}
}

func newBench(t *testing.T) *bench {
	t.Helper()
	need.Libvirt(t)
	need.Netns(t)
	_, err := guest.Find()
	need.Guest(t, err)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if err := theLab.up(ctx); err != nil {
		t.Fatal(err)
	}
	x := &bench{t: t, hosts: map[string]*testenv.Host{}, uris: map[string]string{}, state: t.TempDir(), guest: plainGuest(), dir: theLab.dir}
	x.env = append(os.Environ(), testenv.DirEnv+"="+theLab.dir, "VMMIGRATE_STATE_DIR="+x.state)
	for _, h := range theLab.lab.Hosts() {
		x.hosts[h.Name()] = h
		x.uris[h.Name()] = strings.TrimSpace(x.ok("lab", "uri", h.Name()))
	}
	x.keepLogs(t)
	return x
}

// keepLogs looks at the end of a test into what the coordinators logged: they die unseen.
func (x *bench) keepLogs(t *testing.T) {
	dir := filepath.Join(x.state, "log")
	t.Cleanup(func() {
		logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		for _, f := range logs {
			text, err := os.ReadFile(f)
			if err != nil || strings.Contains(string(text), "DATA RACE") || strings.Contains(string(text), "panic:") {
				t.Errorf("%s: %v\n%s", f, err, text)
			}
			if t.Failed() && len(text) > 0 {
				t.Logf("%s:\n%s", f, text)
			}
		}
		if t.Failed() {
			x.sweep()
		}
	})
}

// sweep ends the coordinators that a failed test has left, and all agents: the tests after it would find them at work on the
// guest. What becomes of that settle puts right.
func (x *bench) sweep() {
	for _, p := range append(x.coordinators(), x.agents()...) {
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			x.t.Error(err)
		}
	}
}

// in is the same bench for a subtest, with another journal.
func (x *bench) in(t *testing.T) *bench {
	y := *x
	y.t, y.state = t, t.TempDir()
	y.env = append(y.env[:len(y.env):len(y.env)], "VMMIGRATE_STATE_DIR="+y.state)
	y.keepLogs(t)
	return &y
}

// other is the other host.
func other(host string) string {
	if host == "a" {
		return "b"
	}
	return "a"
}

// virsh runs plain virsh on a host and returns what it prints.
func (x *bench) virsh(host string, args ...string) string {
	x.t.Helper()
	ctx, stop := context.WithTimeout(context.WithoutCancel(x.t.Context()), patience) // tests clean up with it, too
	defer stop()
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", x.uris[host]}, args...)...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("virsh %s on %s: %v: %s", strings.Join(args, " "), host, err, out)
	}
	return string(out)
}

// tidy is virsh at a test's end, whatever became of it.
func (x *bench) tidy(host string, args ...string) {
	x.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	if out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", x.uris[host]}, args...)...).CombinedOutput(); err != nil {
		x.t.Errorf("virsh %s on %s: %v: %s", strings.Join(args, " "), host, err, out)
	}
}

// running lists what runs on a host, as virsh tells.
func (x *bench) running(host string) []string {
	x.t.Helper()
	if x.bare != nil {
		return x.bareNames(host, testenv.StateRunning)
	}
	return strings.Fields(x.virsh(host, "list", "--name", "--state-running"))
}

// known lists what a host knows of, whether it runs or not.
func (x *bench) known(host string) []string {
	x.t.Helper()
	if x.bare != nil {
		return x.bareNames(host, "")
	}
	return strings.Fields(x.virsh(host, "list", "--all", "--name"))
}

// listing is that for a person.
func (x *bench) listing(host string) string {
	x.t.Helper()
	if x.bare != nil {
		return fmt.Sprint(x.presence(host))
	}
	return x.virsh(host, "list", "--all")
}

// where is the host that runs the guest, by virsh; the test fails if it is not exactly one.
func (x *bench) where() string {
	x.t.Helper()
	var found []string
	for _, h := range []string{"a", "b"} {
		for _, name := range x.running(h) {
			if name == guestName {
				found = append(found, h)
			}
		}
	}
	if len(found) != 1 {
		x.t.Fatalf("the guest runs on %q; a:\n%s\nb:\n%s", found, x.listing("a"), x.listing("b"))
	}
	return found[0]
}

// at fails unless the guest runs on that host alone, is whole, and the other host has nothing left of it.
func (x *bench) at(host string) {
	x.t.Helper()
	if got := x.where(); got != host {
		x.t.Fatalf("the guest runs on %s, want %s", got, host)
	}
	x.verify()
	if left := x.known(other(host)); len(left) > 0 {
		x.t.Errorf("host %s has %q left:\n%s", other(host), left, x.listing(other(host)))
	}
}

// verify has the guest checked as a user does it.
func (x *bench) verify() {
	x.t.Helper()
	if code, out := x.run("lab", "verify", guestName); code != exitDone {
		_, all := x.run("lab", "verify", guestName, "-o", "json")
		x.t.Fatalf("lab verify: exit code %d\n%s\nand once more: %s", code, out, all)
	}
}

// run runs a command to its end and returns its exit code and all that it printed.
func (x *bench) run(args ...string) (int, string) {
	x.t.Helper()
	p := x.start(nil, args...)
	code := p.wait()
	return code, p.stdout() + p.stderr()
}

// ok runs a command that must end well and returns its standard output.
func (x *bench) ok(args ...string) string {
	x.t.Helper()
	p := x.start(nil, args...)
	p.ends(exitDone)
	return p.stdout()
}

// until waits for something outside, looking every few milliseconds.
func (x *bench) until(what string, ok func() bool) {
	x.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			x.t.Fatalf("waited %v in vain until %s\na:\n%s\nb:\n%s", patience, what, x.listing("a"), x.listing("b"))
		}
	}
}

// undo runs a command of the lab at the end of the test, whatever became of it.
func (x *bench) undo(args ...string) {
	x.t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		cmd := exec.CommandContext(ctx, "vmmigrate", args...)
		cmd.Env = x.env
		if out, err := cmd.CombinedOutput(); err != nil {
			x.t.Errorf("vmmigrate %q: %v\n%s", args, err, out)
		}
	})
}

// marker is a file that does not exist yet, for a coordinator to park at.
func (x *bench) marker() string { return filepath.Join(x.t.TempDir(), "parked") }

// file writes a text into a file of the test.
func (x *bench) file(text string) string {
	x.t.Helper()
	f := filepath.Join(x.t.TempDir(), "domain.xml")
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		x.t.Fatal(err)
	}
	return f
}

// settle returns the host on which the guest runs, and first puts right what an earlier test that failed has left.
func (x *bench) settle() string {
	x.t.Helper()
	var all, run []string
	for _, h := range []string{"a", "b"} {
		all = append(all, x.known(h)...)
		run = append(run, x.running(h)...)
	}
	if len(all) != 1 || len(run) != 1 || run[0] != guestName {
		x.t.Logf("starting the guest anew, since the hosts have %q and run %q", all, run)
		x.anew()
	}
	return x.where()
}

// anew puts another guest in the place of the one that is there.
func (x *bench) anew() {
	x.t.Helper()
	x.run("lab", "remove", guestName) // it may be gone
	for h := range x.uris {           // libvirt would still see the disk there
		x.virsh(h, "pool-refresh", "default")
	}
	x.ok(append([]string{"lab", "guest", guestName}, x.guest...)...)
}

// shape gives a host's link another rate until the test ends.
func (x *bench) shape(host, spec string) {
	x.t.Helper()
	x.undo("lab", "link", host, "unlimited")
	x.ok("lab", "link", host, spec)
}
