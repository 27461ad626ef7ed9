package domain

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

var update = flag.Bool("update", false, "write testdata instead of comparing with it")

func specs() map[string]Spec {
	plain := Spec{
		Name: "web", Memory: 512 << 20, CPUs: 1, Kernel: "/k", Initrd: "/i", Cmdline: "console=ttyS0 a<b&c",
		MAC: "52:54:00:00:00:01", Console: "/var/log/libvirt/qemu/web.console",
	}
	full := plain
	full.CPUs, full.Shared, full.KVM = 4, true, true
	full.Monitor = "/run/vmmigrate/web.qmp"
	full.Disks = []Disk{{"vda", "/var/lib/libvirt/images/web.qcow2", "qcow2"}, {"vdb", "/var/lib/libvirt/images/web@vdb.img", "raw"}}
	nodes := plain
	nodes.CPUs, nodes.Shared, nodes.PageSize, nodes.NUMA = 3, true, 2<<20, 2
	bare := plain
	bare.NUMA = 2 // more nodes than processors
	return map[string]Spec{"plain": plain, "full": full, "nodes": nodes, "bare-nodes": bare}
}

func TestXML(t *testing.T) {
	for name, spec := range specs() {
		got, err := XML(spec)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".xml")
		if *update {
			if err := os.WriteFile(path, []byte(got+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got+"\n" != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
		var back libvirtxml.Domain
		if err := back.Unmarshal(got); err != nil || back.OS.Cmdline != spec.Cmdline {
			t.Errorf("%s: read back: %v, command line %q", name, err, back.OS.Cmdline)
		}
	}
}

func TestArgs(t *testing.T) {
	files := Files{Watch: "/run/vmmigrate/web.lab", Pid: "/run/vmmigrate/web.pid", Tap: "tap01", Join: "/run/vmmigrate/join"}
	for name, spec := range specs() {
		spec.Monitor = "/run/vmmigrate/web.qmp"
		got := strings.Join(Args(spec, files, name == "full"), "\n") + "\n"
		path := filepath.Join("testdata", name+".args")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

// A restarted guest would look well with its memory lost, so none may restart.
func TestNothingRestartsAGuest(t *testing.T) {
	xml, err := XML(specs()["plain"])
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"poweroff", "reboot", "crash"} {
		if want := "<on_" + event + ">destroy<"; !strings.Contains(xml, want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestT4LibvirtAcceptsTheSchema(t *testing.T) {
	need.Libvirt(t)
	for program, pkg := range map[string]string{"virt-xml-validate": "libvirt-clients", "xmllint": "libxml2-utils"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v; apt-get install %s", err, pkg)
		}
	}
	for name, spec := range specs() {
		xml, err := XML(spec)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "domain.xml")
		if err := os.WriteFile(path, []byte(xml), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("virt-xml-validate", path, "domain").CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}
