package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate/check"
)

// bareDomain is a guest that boots nothing, for what is refused in any case.
const bareDomain = `<domain type='qemu'><name>%s</name><memory unit='MiB'>%d</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/>%s</devices></domain>`

const bareDisk = `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/var/lib/libvirt/images/%s'/><target dev='vda' bus='virtio'/></disk>`

// obstacle is something that forbids a migration.
type obstacle struct {
	name, id string
	domain   string   // guestName if empty
	dest     string   // the other host if empty
	args     []string // beside moveFlags
	arrange  func(x *bench, from string) []string
}

func obstacles() []obstacle {
	return []obstacle{
		{name: "scheme", id: check.IDURIInvalid, dest: "qmeu:///system"},
		{name: "nobody there", id: check.IDConnectRefused, dest: "qemu+unix:///system?socket=/no/such/sock"},
		{name: "domain", id: check.IDNoDomain, domain: "nobody"},
		{name: "memory", id: check.IDMemoryShort, domain: "heavy", arrange: (*bench).heavy},
		{name: "disk room", id: check.IDDiskNoRoom, domain: "wide", arrange: (*bench).wide},
		{name: "cpu", id: check.IDCPUMissing, domain: "rare", arrange: (*bench).rare},
		{name: "port", id: check.IDPortBlocked, arrange: (*bench).wall},
		{name: "certificate", id: check.IDTLSExpired, args: []string{"--tls"}, arrange: (*bench).expired},
		{name: "same name", id: check.IDNameTaken, arrange: (*bench).namesake},
	}
}

// What forbids a migration is one finding with a fix, check and migrate say the same, and neither changes anything.
func TestT4Blocked(t *testing.T) {
	x := newBench(t)
	from := x.settle()
	for _, o := range obstacles() {
		t.Run(o.name, func(t *testing.T) {
			y := x.in(t)
			args := o.args
			if o.arrange != nil {
				args = append(args, o.arrange(y, from)...)
			}
			y.blocked(from, o, args)
		})
	}
	x.at(from)
}

func (x *bench) blocked(from string, o obstacle, args []string) {
	x.t.Helper()
	if o.dest == "" {
		o.dest = x.uris[other(from)]
	}
	if o.domain == "" {
		o.domain = guestName
	}
	line := append(append([]string{"-c", x.uris[from], o.domain, o.dest}, moveFlags...), args...)
	before := x.snapshot()

	c := x.start(nil, append([]string{"check", "-o", "json"}, line...)...)
	c.ends(exitBlocked)
	var r struct {
		Schema   string
		Blocked  bool
		Findings []check.Finding
	}
	if err := json.Unmarshal([]byte(c.stdout()), &r); err != nil {
		x.t.Fatalf("%v\n%s", err, c.stdout())
	}
	i := slices.IndexFunc(r.Findings, func(f check.Finding) bool { return f.ID == o.id })
	if i < 0 || r.Findings[i].Severity != check.Blocker || r.Findings[i].Fix == "" || !r.Blocked {
		x.t.Errorf("check does not block by %s with a fix:\n%s", o.id, c.stdout())
	}

	m := x.start(nil, append([]string{"migrate", "-o", "json", "--progress", "json"}, line...)...)
	m.ends(exitBlocked)
	m.says(`\[` + o.id + `\]`)
	m.says(`(?m)^ +fix: `)
	if report := m.report(); report.Owner.String() != "source" || report.Outcome.String() != "failed" || report.Error == nil || report.Error.Fix == "" {
		x.t.Errorf("migrate reports %s", m.stdout())
	}

	if d := cmp.Diff(before, x.snapshot()); d != "" {
		x.t.Errorf("a migration that was blocked changed something (-before +after):\n%s", d)
	}
	for _, list := range []string{"status", "history"} {
		if got := x.ok(list, "-o", "json"); got != "[]\n" {
			x.t.Errorf("%s lists a migration that never began: %s", list, got)
		}
	}
}

// snapshot is all that a migration changes first: domains, volumes, and the files of the images.
func (x *bench) snapshot() map[string]string {
	x.t.Helper()
	all := map[string]string{}
	for name, h := range x.hosts {
		all[name+" domains"] = x.virsh(name, "list", "--all")
		all[name+" volumes"] = x.virsh(name, "vol-list", "default")
		entries, err := os.ReadDir(h.ImagesDir())
		if err != nil {
			x.t.Fatal(err)
		}
		for _, e := range entries {
			all[name+" "+e.Name()] = e.Type().String()
		}
	}
	return all
}

// create starts a bare guest until the test ends.
func (x *bench) create(host, name string, mib int64, devices string) {
	x.t.Helper()
	x.virsh(host, "create", x.file(fmt.Sprintf(bareDomain, name, mib, devices)))
	x.t.Cleanup(func() { x.tidy(host, "destroy", name) })
}

// heavy starts a guest with nearly all of the machine's memory, of which it touches next to nothing.
func (x *bench) heavy(from string) []string {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		x.t.Fatal(err)
	}
	var kib int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil {
		x.t.Fatal(err)
	}
	x.create(from, "heavy", kib>>10-guestMemory>>20, "")
	return nil
}

// wide starts a guest with a disk that is to go where there is no room for it.
func (x *bench) wide(from string) []string {
	x.virsh(from, "vol-create-as", "default", "wide", "1GiB", "--format", "qcow2")
	x.t.Cleanup(func() { x.tidy(from, "vol-delete", "wide", "--pool", "default") })
	x.create(from, "wide", 32, fmt.Sprintf(bareDisk, "wide"))
	const tiny = "/run/tiny"
	x.ok("lab", "exec", other(from), "--", "sh", "-c", "mkdir "+tiny+" && mount -t tmpfs -o size=64k none "+tiny)
	x.undo("lab", "exec", other(from), "--", "sh", "-c", "umount "+tiny+" && rmdir "+tiny)
	return []string{"--disk", "vda=" + tiny + "/wide"}
}

// rare starts a guest whose CPU no host has. It needs KVM: what TCG offers libvirt does not tell, so that check cannot
// know either.
func (x *bench) rare(from string) []string {
	need.KVM(x.t)
	xml := strings.Replace(fmt.Sprintf(bareDomain, "rare", 32, ""), "type='qemu'", "type='kvm'", 1)
	xml = strings.Replace(xml, "<devices>", "<cpu mode='custom' match='exact' check='none'><model>EPYC-Genoa</model></cpu><devices>", 1)
	x.virsh(from, "create", x.file(xml))
	x.t.Cleanup(func() { x.tidy(from, "destroy", "rare") })
	return nil
}

// wall keeps the destination's ports from being reached.
func (x *bench) wall(from string) []string {
	x.ok("lab", "block", other(from), "49152-49215")
	x.undo("lab", "unblock", other(from), "49152-49215")
	return nil
}

// expired gives the destination certificates that were good until an hour ago.
func (x *bench) expired(from string) []string {
	x.ok("lab", "certs", other(from), "--valid", "-1h")
	x.undo("lab", "certs", other(from))
	return nil
}

// namesake defines another domain of the guest's name at the destination.
func (x *bench) namesake(from string) []string {
	x.virsh(other(from), "define", x.file(fmt.Sprintf(bareDomain, guestName, 32, "")))
	x.t.Cleanup(func() { x.tidy(other(from), "undefine", guestName) })
	return nil
}
