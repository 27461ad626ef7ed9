package testenv

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

func itoa(n int) string { return strconv.Itoa(n) }

// patience bounds what must happen; nothing is waited for that long.
const patience = 2 * time.Minute

// up brings a lab up for the test, which ends with the test or with its process.
func up(t *testing.T, c Config) *Lab {
	t.Helper()
	need.Netns(t)
	if !c.Bare {
		need.Libvirt(t)
	}
	if c.Dir == "" {
		c.Dir = shortDir(t)
	}
	c.Name, c.Bound = "t", true
	lab, err := Up(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// shortDir is a temporary directory whose name leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// host returns a host of the lab.
func host(t *testing.T, lab *Lab, name string) *Host {
	t.Helper()
	h, err := lab.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// output runs a command in the host.
func output(t *testing.T, h *Host, name string, args ...string) string {
	t.Helper()
	out, err := h.Output(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestT2HostsAreApart(t *testing.T) {
	lab := up(t, Config{Bare: true, Hosts: []string{"a", "b", "c"}})
	machine, _ := os.Hostname()
	for i, h := range lab.Hosts() {
		if got := output(t, h, "hostname"); got != h.Name() || got == machine {
			t.Errorf("host %s calls itself %s", h.Name(), got)
		}
		if got := output(t, h, "cat", "/proc/1/cmdline"); !strings.Contains(got, "vml-t-"+h.Name()) {
			t.Errorf("host %s: its first process is %q", h.Name(), got)
		}
		if got := output(t, h, "cat", "/etc/hostname", "/etc/hosts"); !strings.HasPrefix(got, h.Name()+"\n") || !strings.Contains(got, "10.77.0.2 b") {
			t.Errorf("host %s: /etc is %q", h.Name(), got)
		}
		if got := output(t, h, "cat", "/etc/passwd"); !strings.HasPrefix(got, "root:") {
			t.Errorf("host %s: the machine's /etc/passwd reads %q", h.Name(), got)
		}
		if want := "10.77.0." + itoa(i+1); h.Address().String() != want {
			t.Errorf("host %s has the address %v", h.Name(), h.Address())
		}
		output(t, h, "touch", "/dev/shm/mine", "/run/mine", "/etc/mine")
	}
	for _, path := range []string{"/dev/shm/mine", "/run/mine", "/etc/mine"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("what a host writes to %s is on the machine", path)
		}
	}
	if got := output(t, host(t, lab, "a"), "ls", "/sys/class/net"); got != "br0\nlo\nmig0\nuplink0" {
		t.Errorf("devices of a host: %q", got)
	}
}

func TestT2ExecPassesEverythingOn(t *testing.T) {
	a := host(t, up(t, Config{Bare: true}), "a")
	var out, errs strings.Builder
	err := a.Exec(t.Context(), Stdio{In: strings.NewReader("word"), Out: &out, Err: &errs}, "sh", "-c", "cat; pwd; echo oops >&2; exit 9")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("exit: %v", err)
	}
	if dir, _ := os.Getwd(); out.String() != "word"+dir+"\n" || errs.String() != "oops\n" {
		t.Errorf("output %q, errors %q", out.String(), errs.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		_, _ = r.Read(make([]byte, 1)) // it runs
		cancel()
	}()
	err = a.Exec(ctx, Stdio{Out: w}, "sh", "-c", "echo; exec sleep 1000")
	w.Close()
	if err == nil {
		t.Error("a cancelled command has no error")
	}
	if _, err := a.Output(t.Context(), "no-such-program"); err == nil {
		t.Error("a program that is not there has no error")
	}
}

func TestT2DialAndListenInside(t *testing.T) {
	lab := up(t, Config{Bare: true})
	a, b := host(t, lab, "a"), host(t, lab, "b")
	l, err := b.Listen(t.Context(), "tcp", ":700")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, addr := range []string{"b:700", "10.77.0.2:700"} {
		c, err := a.Dial(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if c, err := lab.Client().Dial(ctx, "tcp", "b:700"); err == nil {
		c.Close()
		t.Error("the guests' network reaches the migration network")
	}
	for _, bad := range []string{"example.org:1", "b", "c:1"} {
		if _, err := a.Dial(t.Context(), "tcp", bad); err == nil {
			t.Errorf("dial %s: no error", bad)
		}
	}
	if _, err := a.Dial(t.Context(), "unix", "/x:1"); err == nil {
		t.Error("dial unix: no error")
	}
}

func TestT2AnotherProcessCanTakeOver(t *testing.T) {
	lab := up(t, Config{Bare: true, Link: link.Spec{Rate: 1e9}})
	opened, err := Open(t.Context(), "t", filepath.Dir(lab.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	b := host(t, opened, "b")
	spec := link.Spec{Rate: 1e8, Delay: time.Millisecond}
	for what, err := range map[string]error{
		"shape": b.Link().Shape(t.Context(), spec),
		"cut":   b.Link().Cut(t.Context()),
		"block": b.BlockPorts(t.Context(), 5, 9),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	s, err := lab.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Hosts[1]; !got.Cut || got.Link != spec.String() || len(got.Blocked) != 1 || s.Hosts[0].Cut || s.Hosts[0].Link != "1gbit" {
		t.Errorf("status %+v", s)
	}
	if err := errors.Join(b.Link().Mend(t.Context()), b.UnblockPorts(t.Context(), 5, 9)); err != nil {
		t.Error(err)
	}
	if _, err := b.Link().Counters(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.RestartLibvirtd(t.Context()); err == nil {
		t.Error("a bare host restarts a libvirtd")
	}
}

func TestT2KilledHostIsSilent(t *testing.T) {
	lab := up(t, Config{Bare: true})
	a, b := host(t, lab, "a"), host(t, lab, "b")
	l, err := a.Listen(t.Context(), "tcp", ":700")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := a.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Output(t.Context(), "true"); !errors.Is(err, ErrHostDown) {
		t.Errorf("a command in a dead host: %v", err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err := b.Dial(ctx, "tcp", "a:700"); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a dead host answers: %v", err)
	}
	output(t, b, "true")
	s, err := lab.Status(t.Context())
	if err != nil || !strings.Contains(s.Hosts[0].Libvirtd, "gone") {
		t.Errorf("status %+v, %v", s, err)
	}
}
