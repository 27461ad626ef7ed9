package check_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// domain is a guest that boots nothing: what check looks at is the same.
const domain = `<domain type='qemu'>
  <name>%[1]s</name><uuid>00000000-0000-4000-8000-%012[2]d</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/%[1]s'/><target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <memballoon model='none'/>
  </devices>
</domain>`

// bench is a lab of two hosts, and the command that a user would check with: this package knows no host driver, and
// what counts is what is told in the end.
type bench struct {
	t       *testing.T
	a, b    *testenv.Host
	program string
	guests  int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	need.Libvirt(t)
	// Paths of sockets have to be short.
	dir, err := os.MkdirTemp("", "ck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the lab is gone by then
	x := &bench{t: t, program: filepath.Join(dir, "vmmigrate")}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", x.program, "github.com/vmmigrate/vmmigrate/cmd/vmmigrate")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the command: %v\n%s", err, out)
	}
	lab, err := testenv.Up(t.Context(), testenv.Config{Name: "check", Dir: dir, Bound: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	x.a, x.b = lab.Hosts()[0], lab.Hosts()[1]
	return x
}

func (x *bench) virsh(h *testenv.Host, args ...string) string {
	x.t.Helper()
	out, err := exec.Command("virsh", append([]string{"-q", "-c", h.URI()}, args...)...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("virsh %s on %s: %v: %s", strings.Join(args, " "), h.Name(), err, out)
	}
	return string(out)
}

// guest starts a guest at a with a disk of that size.
func (x *bench) guest(name, size string) {
	x.t.Helper()
	x.guests++
	x.virsh(x.a, "vol-create-as", "default", name, size, "--format", "qcow2")
	x.virsh(x.a, "create", x.file(fmt.Sprintf(domain, name, x.guests)))
}

func (x *bench) file(text string) string {
	x.t.Helper()
	f := filepath.Join(x.t.TempDir(), "x.xml")
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		x.t.Fatal(err)
	}
	return f
}

// edited is the web guest's XML with a change, as a file.
func (x *bench) edited(pattern, with string) string {
	x.t.Helper()
	text := x.virsh(x.a, "dumpxml", "--migratable", "web")
	out := regexp.MustCompile(pattern).ReplaceAllString(text, with)
	if out == text {
		x.t.Fatalf("the guest's XML has no %s:\n%s", pattern, text)
	}
	return x.file(out)
}

// snapshot is all that a check might change: domains, volumes, pools, and the files of the hosts.
func (x *bench) snapshot() []string {
	x.t.Helper()
	var out []string
	for _, h := range []*testenv.Host{x.a, x.b} {
		for _, cmd := range []string{"list --all", "vol-list default", "pool-list --all"} {
			out = append(out, h.Name()+": "+cmd, x.virsh(h, strings.Fields(cmd)...))
		}
		for _, dir := range []string{h.ImagesDir(), h.PKIDir()} {
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := d.Info()
				if err == nil && !d.IsDir() {
					out = append(out, fmt.Sprint(path, " ", info.Size(), " ", info.Mode()))
				}
				return err
			})
			if err != nil {
				x.t.Fatal(err)
			}
		}
	}
	return out
}

// told is the JSON of a check.
type told struct {
	Schema   string          `json:"schema"`
	Blocked  bool            `json:"blocked"`
	Strategy string          `json:"strategy"`
	Reason   string          `json:"strategy_reason"`
	Findings []check.Finding `json:"findings"`
}

// exitBlocked is the exit code of a check that found a blocker.
const exitBlocked = 3

// run checks whether the guest could go from one URI to another, and holds the hosts to be as they were before.
func (x *bench) run(t *testing.T, from, to, name string, options ...string) told {
	t.Helper()
	before := x.snapshot()
	cmd := exec.CommandContext(t.Context(), x.program, append([]string{"check", "-c", from, name, to, "-o", "json"}, options...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, x.snapshot()); diff != "" {
		t.Errorf("the check changed something:\n%s", diff)
	}
	var r told
	if err := json.Unmarshal(out, &r); err != nil || r.Schema != check.Schema {
		t.Fatalf("%v: exit %d, %s\n%s", err, cmd.ProcessState.ExitCode(), out, errText(exit))
	}
	want := 0
	if r.Blocked {
		want = exitBlocked
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("exit %d, want %d", got, want)
	}
	for _, f := range r.Findings {
		t.Logf("%s %s (%s): %s; %s; fix: %s", f.Severity, f.ID, f.Side, f.Title, f.Detail, f.Fix)
	}
	return r
}

func errText(e *exec.ExitError) string {
	if e == nil {
		return ""
	}
	return string(e.Stderr)
}

// blocks holds the result to exactly these blockers, each with a fix, and to knowing the rest.
func blocks(t *testing.T, r told, ids ...string) {
	t.Helper()
	var got []string
	for _, f := range r.Findings {
		switch f.Severity {
		case check.Blocker:
			got = append(got, f.ID)
			if f.Fix == "" {
				t.Errorf("%s has no fix", f.ID)
			}
		case check.Unknown:
			t.Errorf("not known: %s: %s", f.Title, f.Detail)
		}
	}
	if !slices.Equal(got, ids) || r.Blocked != (len(ids) > 0) {
		t.Errorf("blocked %t by %v, want %v", r.Blocked, got, ids)
	}
}

// Two real libvirt hosts: what is in order is let pass without a doubt, each fault is one clear finding, and nothing is
// changed by looking.
func TestT4Check(t *testing.T) {
	x := newBench(t)
	x.guest("web", "16MiB")
	a, b := x.a.URI(), x.b.URI()
	const all = "--copy-storage-all"
	t.Run("in order", func(t *testing.T) {
		r := x.run(t, a, b, "web", all, "--tls")
		blocks(t, r)
		if r.Strategy != "hybrid" {
			t.Errorf("strategy %s: %s", r.Strategy, r.Reason)
		}
	})
	t.Run("peer to peer", func(t *testing.T) {
		blocks(t, x.run(t, a, b, "web", all, "--p2p", "--peer-uri", x.b.TLSURI()))
	})
	t.Run("wrong URI", func(t *testing.T) { blocks(t, x.run(t, "qmeu:///system", b, "web"), "uri-invalid") })
	t.Run("nobody there", func(t *testing.T) {
		blocks(t, x.run(t, "qemu+unix:///system?socket=/no/such/sock", b, "web"), "connect-refused")
	})
	t.Run("unknown domain", func(t *testing.T) { blocks(t, x.run(t, a, b, "nobody", all), "no-domain") })
	t.Run("local disk", func(t *testing.T) { blocks(t, x.run(t, a, b, "web"), "disk-local") })
	t.Run("same host", func(t *testing.T) {
		blocks(t, x.run(t, a, a, "web", "--unsafe"), "same-host", "domain-running-there")
	})
	t.Run("port blocked", func(t *testing.T) {
		block := func(do func(context.Context, uint16, uint16) error) {
			if err := do(t.Context(), 49152, 49215); err != nil {
				t.Fatal(err)
			}
		}
		block(x.b.BlockPorts)
		blocks(t, x.run(t, a, b, "web", all), "port-blocked")
		block(x.b.UnblockPorts)
	})
	t.Run("expired certificate", func(t *testing.T) {
		issue := func(until time.Time) {
			if err := x.b.IssueCertificates(until); err != nil {
				t.Fatal(err)
			}
		}
		issue(time.Now().Add(-time.Hour))
		blocks(t, x.run(t, a, b, "web", all, "--tls"), "tls-expired")
		issue(time.Time{})
	})
	t.Run("same name", func(t *testing.T) {
		x.virsh(x.b, "define", x.file(fmt.Sprintf(domain, "web", 99)))
		blocks(t, x.run(t, a, b, "web", all), "name-taken", "disk-in-use")
		x.virsh(x.b, "undefine", "web")
	})
	t.Run("no bridge", func(t *testing.T) {
		blocks(t, x.run(t, a, b, "web", all, "--xml", x.edited("'br0'", "'br7'")), "bridge-missing")
	})
	t.Run("no room", func(t *testing.T) {
		x.guest("big", "100TiB")
		r := x.run(t, a, b, "big", all)
		blocks(t, r) // what it holds fits
		if !slices.ContainsFunc(r.Findings, func(f check.Finding) bool { return f.ID == check.IDDiskNoRoom && f.Severity == check.Warning }) {
			t.Errorf("findings %+v, want a warning that it can outgrow the destination", r.Findings)
		}
	})
	t.Run("no machine type", func(t *testing.T) {
		blocks(t, x.run(t, a, b, "web", all, "--xml", x.edited("pc-q35-", "pc-q35-9")), "machine-missing")
	})
	t.Run("no such CPU", func(t *testing.T) {
		xml := x.edited("(?s)<cpu .*</cpu>", "<cpu mode='custom' match='exact'><model>EPYC-Genoa</model></cpu>")
		r := x.run(t, a, b, "web", all, "--xml", xml)
		blocks(t, r, check.IDCPUMissing)
		if len(r.Findings) == 0 || r.Findings[0].ID != check.IDCPUMissing || !strings.Contains(r.Findings[0].Detail, "avx512") {
			t.Errorf("findings %+v, want the missing features", r.Findings)
		}
	})
}
