package main

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
)

const sharedBacking = `<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>`

// domainWith is a domain's XML with what is at stake.
func domainWith(backing, devices string) string {
	return fmt.Sprintf(`<domain type='kvm'><name>web</name><uuid>7f000000-0000-4000-8000-000000000001</uuid>
<memory unit='GiB'>2</memory><vcpu>2</vcpu>%s<os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>%s</devices></domain>`, backing, devices)
}

// TestRefusedByTheNBDEngine: from a domain's XML to the reason why our agents cannot move it.
func TestRefusedByTheNBDEngine(t *testing.T) {
	for name, c := range map[string]struct{ backing, devices, id, says string }{
		"nothing special": {sharedBacking, `<memballoon model='virtio'/>`, "", ""},
		"private RAM":     {"", "", check.IDNBDMemory, "private"},
		"vhost-user card": {sharedBacking, `<interface type='vhostuser'><source type='unix' path='/v' mode='client'/><alias name='net4'/></interface>`, check.IDNBDDevice, "vhost-user"},
		"vhost-user disk": {sharedBacking, `<disk type='vhostuser' device='disk'><source type='unix' path='/v'/><target dev='vdb' bus='virtio'/></disk>`, check.IDNBDDevice, "vhost-user"},
		"vhost-user gpu":  {sharedBacking, `<video><driver name='vhostuser'/><model type='virtio'/></video>`, check.IDNBDDevice, "vhost-user"},
		"virtiofs":        {sharedBacking, `<filesystem type='mount'><driver type='virtiofs'/><source dir='/s'/><target dir='share'/></filesystem>`, check.IDNBDDevice, "virtiofsd"},
		"VFIO": {sharedBacking, `<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></source></hostdev>`,
			check.IDNBDDevice, "VFIO"},
		"mediated": {sharedBacking, `<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>`,
			check.IDNBDDevice, "VFIO"},
		"card of the host": {sharedBacking, `<interface type='hostdev'><source><address type='pci' domain='0x0000' bus='0x00' slot='0x07' function='0x0'/></source></interface>`,
			check.IDNBDDevice, "VFIO"},
		"vDPA card":  {sharedBacking, `<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>`, check.IDNBDDevice, "vDPA"},
		"vDPA disk":  {sharedBacking, `<disk type='vhostvdpa' device='disk'><source dev='/dev/vhost-vdpa-0'/><target dev='vdb' bus='virtio'/></disk>`, check.IDNBDDevice, "another process"},
		"NVMe":       {sharedBacking, `<disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'><address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source><target dev='vdb' bus='virtio'/></disk>`, check.IDNBDDevice, "VFIO"},
		"ivshmem":    {sharedBacking, `<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>`, check.IDNBDDevice, "ivshmem"},
		"virtio-mem": {sharedBacking, `<memory model='virtio-mem'><target><size unit='GiB'>1</size></target></memory>`, check.IDNBDMemory, "virtio-mem"},
		"nvdimm":     {sharedBacking, `<memory model='nvdimm'><source><path>/p</path></source><target><size unit='GiB'>1</size></target></memory>`, check.IDNBDMemory, "persistent"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := libvirthost.FactsOf(domainWith(c.backing, c.devices))
			if err != nil {
				t.Fatal(err)
			}
			g.State.Run = migrate.RunRunning
			facts := check.Facts{Domain: "web", Engine: migrate.EngineNBD, HasNBD: true, Guest: check.Known(&g), There: check.Known(g)}
			var hits []check.Finding
			for _, x := range check.Conclude(facts).Findings {
				if x.Severity == check.Blocker && strings.HasPrefix(x.ID, "nbd-") {
					hits = append(hits, x)
				}
			}
			switch {
			case c.id == "":
				if len(hits) > 0 {
					t.Errorf("refused: %+v", hits)
				}
			case len(hits) != 1 || hits[0].ID != c.id || hits[0].Fix == "" || !strings.Contains(hits[0].Title+hits[0].Detail, c.says):
				t.Errorf("%+v", hits)
			}
			facts.Engine = migrate.EngineAuto
			if r := check.Conclude(facts); r.Engine != migrate.EngineNative || c.id != "" && !strings.Contains(r.EngineReason, strings.SplitN(hits[0].Title, " ", 2)[0]) {
				t.Errorf("auto takes %s (%s)", r.Engine, r.EngineReason)
			}
		})
	}
}

// labDomain is a guest that boots nothing.
const labDomain = `<domain type='qemu'><name>%s</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>%s
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/></devices></domain>`

// TestT4EngineOfAGuest: two real hosts, a guest with private RAM and one whose RAM is in shared files. The one is native's,
// with the reason, and refused to those who insist; the other is nbd's without a doubt.
func TestT4EngineOfAGuest(t *testing.T) {
	x := newBench(t)
	from := x.settle()
	for name, c := range map[string]struct {
		backing string
		auto    migrate.EngineName
		says    string
		blocked bool
	}{
		"private": {"", migrate.EngineNative, "private memory", true},
		"shared":  {sharedBacking, migrate.EngineNBD, "shared files", false},
	} {
		t.Run(name, func(t *testing.T) {
			y := x.in(t)
			y.virsh(from, "create", y.file(fmt.Sprintf(labDomain, "eng-"+name, c.backing)))
			t.Cleanup(func() { y.tidy(from, "destroy", "eng-"+name) })
			log := slog.New(slog.DiscardHandler)
			hosts, _, err := openPair(t.Context(), y.uris[from], y.uris[other(from)], log)
			if err != nil {
				t.Fatal(err)
			}
			defer hosts.close()
			for _, asked := range []migrate.EngineName{migrate.EngineAuto, migrate.EngineNBD} {
				r, err := check.Run(t.Context(), hosts.src, hosts.dst, "eng-"+name, migrate.Params{Strategy: migrate.StrategyAuto}, check.Options{Engine: asked, NBD: true})
				if err != nil {
					t.Fatal(err)
				}
				want := c.auto
				if asked == migrate.EngineNBD {
					want = asked
				} else if !strings.Contains(r.EngineReason, c.says) {
					t.Errorf("auto, because %q", r.EngineReason)
				}
				if r.Engine != want || r.Blocked() != (c.blocked && asked == migrate.EngineNBD) {
					t.Errorf("%s: %s (%s), blocked %v: %+v", asked, r.Engine, r.EngineReason, r.Blocked(), r.Findings)
				}
				if r.Engine == migrate.EngineNBD && !c.blocked && r.Strategy != migrate.StrategyHybrid {
					t.Errorf("strategy %s (%s)", r.Strategy, r.Reason)
				}
				for _, f := range r.Findings {
					if strings.HasPrefix(f.ID, "nbd-") && (!c.blocked || f.ID != check.IDNBDMemory || f.Fix == "") {
						t.Errorf("%s: %+v", asked, f)
					}
				}
			}
		})
	}
}
