package hostinit

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

func plan(t *testing.T) (layout.Plan, layout.Host) {
	t.Helper()
	p, err := layout.New("t", t.TempDir(), []string{"a", "b"}, link.Spec{})
	if err != nil {
		t.Skip(err) // the temporary directory has a long name
	}
	return p, p.Hosts[0]
}

func TestWriteEtc(t *testing.T) {
	p, h := plan(t)
	machine := t.TempDir()
	for _, dir := range []string{h.Etc(), filepath.Join(machine, "libvirt"), filepath.Join(machine, "ssl")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range map[string]string{"passwd": "root", "hosts": "machine", "libvirt/qemu.conf": "machine"} {
		if err := os.WriteFile(filepath.Join(machine, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../usr/zone", filepath.Join(machine, "localtime")); err != nil {
		t.Fatal(err)
	}
	if err := writeEtc(p, h, machine); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"passwd": machineEtc + "/passwd", "ssl": machineEtc + "/ssl",
		// A relative link is copied: it still starts from /etc.
		"localtime": "../usr/zone",
	} {
		if got, err := os.Readlink(filepath.Join(h.Etc(), name)); got != want {
			t.Errorf("/etc/%s leads to %q (%v), want %q", name, got, err, want)
		}
	}
	for path := range p.EtcFiles(h) {
		content, err := os.ReadFile(filepath.Join(h.Etc(), path))
		if err != nil || strings.Contains(string(content), "machine") {
			t.Errorf("/etc/%s: %q, %v; want the host's own", path, content, err)
		}
	}
	if content, _ := os.ReadFile(filepath.Join(machine, "libvirt/qemu.conf")); string(content) != "machine" {
		t.Error("the machine's libvirt configuration was written to")
	}
}

func TestChildrenTellHowTheyEnded(t *testing.T) {
	c := &children{waiting: map[int]chan<- string{}}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]string{"exit 3": "exit status 3", "kill -9 $$": "signal killed", ":": "exit status 0"} {
		_, ended, err := c.start(sh, []string{"sh", "-c", script}, nil, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for got == "" {
			c.reap()
			select {
			case got = <-ended:
			case <-died:
			}
		}
		if got != want {
			t.Errorf("%q: %s, want %s", script, got, want)
		}
	}
	if len(c.waiting) != 0 {
		t.Errorf("still waiting for %v", c.waiting)
	}
	if _, _, err := c.start("/no/such/program", nil, nil, os.Stderr); err == nil {
		t.Error("a program that is not there has no error")
	}
}

func TestUnknownRequestsAreRefused(t *testing.T) {
	h := &host{children: &children{waiting: map[int]chan<- string{}}}
	for _, r := range []Request{{}, {Op: "dance"}, {Op: OpSetup}, {Op: OpSetup, Plan: &layout.Plan{}, Host: "x"}} {
		if e := h.do(r); e.Kind != EventFailed || e.Text == "" {
			t.Errorf("%+v: %+v", r, e)
		}
	}
	if e := h.do(Request{Op: OpStop}); e.Kind != EventStopped {
		t.Errorf("stopping what does not run: %+v", e)
	}
}
