package check_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// domain is a guest that boots nothing: what check looks at is the same.
const domain = `<domain type='qemu'>
  <name>%[1]s</name><uuid>00000000-0000-4000-8000-%012[2]d</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>%[3]s
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/%[1]s'/><target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>
    <memballoon model='none'/>
  </devices>
</domain>`

// onPlatform offers the comparison of CPUs for a certain accelerator under the name that check looks for.
type onPlatform struct{ *libvirthost.Host }

func (h onPlatform) CompareCPUOn(ctx context.Context, emulator, arch, machine, virt, cpuXML string) (bool, string, error) {
	return h.CompareCPUFor(ctx, libvirthost.Platform{Emulator: emulator, Arch: arch, Machine: machine, Virt: virt}, cpuXML)
}

// bench is a lab of two hosts with connections to both.
type bench struct {
	t        *testing.T
	a, b     *testenv.Host
	src, dst *libvirthost.Host
	guests   int
}

func newBench(t *testing.T) *bench {
	t.Helper()
	need.Libvirt(t)
	// Paths of sockets have to be short.
	dir, err := os.MkdirTemp("", "ck")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	lab, err := testenv.Up(t.Context(), testenv.Config{Name: "check", Dir: dir, Bound: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	x := &bench{t: t, a: lab.Hosts()[0], b: lab.Hosts()[1]}
	x.src, x.dst = x.open(x.a), x.open(x.b)
	return x
}

func (x *bench) open(h *testenv.Host) *libvirthost.Host {
	x.t.Helper()
	out, err := libvirthost.Open(x.t.Context(), h.URI(), libvirthost.Options{})
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = out.Close() })
	return out
}

func (x *bench) virsh(h *testenv.Host, args ...string) string {
	x.t.Helper()
	out, err := exec.Command("virsh", append([]string{"-q", "-c", h.URI()}, args...)...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("virsh %s on %s: %v: %s", strings.Join(args, " "), h.Name(), err, out)
	}
	return string(out)
}

// guest starts a guest at a with a disk of that size, and more XML.
func (x *bench) guest(name, size, more string) {
	x.t.Helper()
	x.guests++
	x.virsh(x.a, "vol-create-as", "default", name, size, "--format", "qcow2")
	x.virsh(x.a, "create", x.file(fmt.Sprintf(domain, name, x.guests, more)))
}

func (x *bench) file(text string) string {
	x.t.Helper()
	f := filepath.Join(x.t.TempDir(), "x.xml")
	if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
		x.t.Fatal(err)
	}
	return f
}

// snapshot is all that a check might change: domains, volumes, pools, networks, and the files of the hosts.
func (x *bench) snapshot() []string {
	x.t.Helper()
	var out []string
	for _, h := range []*testenv.Host{x.a, x.b} {
		for _, cmd := range []string{"list --all", "vol-list default", "pool-list --all --details"} {
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

// run checks and holds the hosts to be as they were before.
func (x *bench) run(t *testing.T, name string, p migrate.Params) check.Result {
	t.Helper()
	before := x.snapshot()
	r, err := check.Run(t.Context(), x.src, onPlatform{x.dst}, name, p, check.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, x.snapshot()); diff != "" {
		t.Errorf("the check changed something:\n%s", diff)
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Error(err)
	}
	t.Log("\n" + b.String())
	return r
}

// wants holds the result to its blockers and its unknowns.
func wants(t *testing.T, r check.Result, blockers, unknowns string) {
	t.Helper()
	for sev, want := range map[check.Severity]string{check.Blocker: blockers, check.Unknown: unknowns} {
		var got []string
		for _, f := range r.Findings {
			if f.Severity == sev {
				got = append(got, f.ID)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %q", sev, got, want)
		}
	}
	if r.Blocked() != (blockers != "") {
		t.Errorf("blocked: %t", r.Blocked())
	}
}

// Two real libvirt hosts: what is in order is let pass without a doubt, each fault is one clear finding, and nothing is
// changed by looking.
func TestT4Check(t *testing.T) {
	x := newBench(t)
	x.guest("web", "16MiB", "")
	all := migrate.Params{Strategy: migrate.StrategyAuto, CopyStorage: migrate.CopyAll}
	tlsToo := all
	tlsToo.TLS = true

	t.Run("in order", func(t *testing.T) {
		r := x.run(t, "web", tlsToo)
		wants(t, r, "", "")
		if r.Strategy != migrate.StrategyHybrid {
			t.Errorf("strategy %s: %s", r.Strategy, r.Reason)
		}
	})
	t.Run("peer to peer", func(t *testing.T) {
		p := all
		p.PeerToPeer, p.PeerURI = true, x.b.TLSURI()
		wants(t, x.run(t, "web", p), "", "")
	})
	t.Run("unknown domain", func(t *testing.T) { wants(t, x.run(t, "nobody", all), "no-domain", "") })
	t.Run("local disk", func(t *testing.T) { wants(t, x.run(t, "web", migrate.Params{}), "disk-local", "") })
	t.Run("same host", func(t *testing.T) {
		back := x.dst
		defer func() { x.dst = back }()
		x.dst = x.src
		r := x.run(t, "web", migrate.Params{Unsafe: true})
		wants(t, r, "same-host domain-running-there", "")
	})
	t.Run("port blocked", func(t *testing.T) {
		if err := x.b.BlockPorts(t.Context(), 49152, 49215); err != nil {
			t.Fatal(err)
		}
		wants(t, x.run(t, "web", all), "port-blocked", "")
		if err := x.b.UnblockPorts(t.Context(), 49152, 49215); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("expired certificate", func(t *testing.T) {
		if err := x.b.IssueCertificates(time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		wants(t, x.run(t, "web", tlsToo), "tls-expired", "")
		if err := x.b.IssueCertificates(time.Time{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("same name", func(t *testing.T) {
		x.virsh(x.b, "define", x.file(fmt.Sprintf(domain, "web", 99, "")))
		wants(t, x.run(t, "web", all), "name-taken disk-in-use", "")
		x.virsh(x.b, "undefine", "web")
	})
	t.Run("no bridge", func(t *testing.T) {
		p := all
		p.DestinationXML = strings.ReplaceAll(x.virsh(x.a, "dumpxml", "--migratable", "web"), "'br0'", "'br7'")
		wants(t, x.run(t, "web", p), "bridge-missing", "")
	})
	t.Run("no room", func(t *testing.T) {
		x.guest("big", "100TiB", "")
		wants(t, x.run(t, "big", all), "disk-no-room", "")
	})
	t.Run("no such CPU", func(t *testing.T) {
		p := all
		cpu := regexp.MustCompile(`(?s)<cpu .*</cpu>`)
		p.DestinationXML = cpu.ReplaceAllString(x.virsh(x.a, "dumpxml", "--migratable", "web"),
			"<cpu mode='custom' match='exact'><model>EPYC-Genoa</model></cpu>")
		r := x.run(t, "web", p)
		wants(t, r, "cpu-missing", "")
		if !strings.Contains(r.Findings[0].Detail, "avx512") {
			t.Errorf("the detail does not name a feature: %s", r.Findings[0].Detail)
		}
	})
	t.Run("no machine type", func(t *testing.T) {
		p := all
		p.DestinationXML = strings.ReplaceAll(x.virsh(x.a, "dumpxml", "--migratable", "web"), "pc-q35-", "pc-q35-9")
		wants(t, x.run(t, "web", p), "machine-missing", "")
	})
}
