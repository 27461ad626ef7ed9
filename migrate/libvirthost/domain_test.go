package libvirthost

import (
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	"github.com/vmmigrate/vmmigrate/migrate"
)

const recordedXML = `<domain type='kvm' id='1'>
<name>web</name><uuid>7f000000-0000-4000-8000-000000000001</uuid>
<memory unit='GiB'>2</memory><vcpu placement='static'>3</vcpu>
<memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages><source type='memfd'/><access mode='shared'/></memoryBacking>
<os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/web.qcow2'/><target dev='vda' bus='virtio'/><shareable/></disk>
<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/img'><host name='ceph' port='6789'/></source><target dev='vdb'/></disk>
<disk type='block' device='disk'><source dev='/dev/vg/lv'/><target dev='vdc'/></disk>
<disk type='volume' device='disk'><source pool='default' volume='x'/><target dev='vdd'/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface>
<interface type='network'><source network='default'/></interface>
<interface type='direct'><source dev='eth0' mode='bridge'/></interface>
<interface type='user'/>
<interface type='vhostuser'><source type='unix' path='/v' mode='client'/><alias name='net4'/></interface>
<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></source><alias name='hostdev0'/></hostdev>
<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/s'/><target dir='share'/><alias name='fs0'/></filesystem>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
<memory model='virtio-mem'><target><size unit='GiB'>1</size></target></memory>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<memballoon model='virtio'><alias name='balloon0'/></memballoon>
</devices></domain>`

func TestFactsOf(t *testing.T) {
	f, err := FactsOf(recordedXML)
	if err != nil {
		t.Fatal(err)
	}
	if f.CPU == "" {
		t.Error("no CPU")
	}
	f.CPU = ""
	want := migrate.DomainFacts{
		Name: "web", UUID: "7f000000-0000-4000-8000-000000000001", Memory: 2 << 30, VCPUs: 3,
		Backing: migrate.BackingHugetlb, Shared: true, PageSize: 2 << 20, Machine: "pc-q35-10.0",
		Emulator: "/usr/bin/qemu-system-x86_64", Accel: "kvm",
		Disks: []migrate.Disk{
			{Target: "vda", Path: "/i/web.qcow2", Kind: "file", Format: "qcow2", Shareable: true},
			{Target: "vdb", Path: "rbd://ceph:6789/pool/img", Kind: "network", Format: "raw"},
			{Target: "vdc", Path: "/dev/vg/lv", Kind: "block"},
			{Target: "vdd", Path: "default/x", Kind: "volume"},
			{Target: "sda", Kind: "file", CDROM: true, ReadOnly: true},
		},
		NICs: []migrate.NIC{
			{MAC: "52:54:00:00:00:01", Model: "virtio", Kind: "bridge", Source: "br0"},
			{Kind: "network", Source: "default"}, {Kind: "direct", Source: "eth0"}, {Kind: "user"}, {Kind: "vhostuser"},
		},
		Devices: []migrate.Device{
			{Kind: "pci", Alias: "hostdev0", Detail: "PCI device of the host"},
			{Kind: "mdev", Detail: "vfio-pci"},
			{Kind: "vhost-user", Alias: "net4", Detail: "network card"},
			{Kind: "virtiofs", Alias: "fs0", Detail: "share"},
			{Kind: "tpm", Detail: "emulator"},
			{Kind: "virtio-mem"},
			{Kind: "channel", Detail: "org.qemu.guest_agent.0"},
			{Kind: "balloon", Alias: "balloon0", Detail: "virtio"},
		},
	}
	if d := cmp.Diff(want, f); d != "" {
		t.Error(d)
	}
	f, err = FactsOf(`<domain type='qemu'><name>x</name><memory>1024</memory><memoryBacking><source type='file'/></memoryBacking></domain>`)
	if err != nil || f.Accel != "tcg" || f.Backing != migrate.BackingFile || f.Memory != 1<<20 || f.Shared {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := FactsOf("no XML"); err == nil {
		t.Error("nonsense was accepted")
	}
}

func TestBytesOf(t *testing.T) {
	for unit, want := range map[string]int64{"": 1 << 10, "KiB": 1 << 10, "k": 1 << 10, "b": 1, "bytes": 1, "KB": 1000, "MB": 1e6, "MiB": 1 << 20, "G": 1 << 30, "GB": 1e9, "TiB": 1 << 40} {
		if got := bytesOf(1, unit); got != want {
			t.Errorf("1 %s is %d, want %d", unit, got, want)
		}
	}
}

const recordedCaps = `<capabilities><host><uuid>u</uuid><cpu><arch>x86_64</arch></cpu></host>
<guest><os_type>hvm</os_type><arch name='i686'><wordsize>32</wordsize><emulator>/q32</emulator><machine canonical='c32'>m32</machine><domain type='qemu'/></arch></guest>
<guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize><emulator>/q</emulator>
<machine canonical='pc-q35-10.0'>q35</machine><machine>pc-i440fx-2.8</machine><domain type='qemu'/>
<domain type='kvm'><emulator>/qkvm</emulator><machine>kvm-only</machine></domain></arch></guest></capabilities>`

func TestMachines(t *testing.T) {
	var caps libvirtxml.Caps
	if err := caps.Unmarshal(recordedCaps); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		emulator, arch, virt string
		want                 []string
	}{
		{"", "", "", []string{"q35", "pc-q35-10.0", "pc-i440fx-2.8", "kvm-only"}},
		{"/q", "x86_64", "qemu", []string{"q35", "pc-q35-10.0", "pc-i440fx-2.8"}},
		{"/qkvm", "x86_64", "kvm", []string{"kvm-only"}},
		{"/q32", "i686", "", []string{"m32", "c32"}},
		{"/none", "", "", nil},
		{"", "riscv64", "", nil},
	} {
		if d := cmp.Diff(c.want, machines(&caps, c.emulator, c.arch, c.virt)); d != "" {
			t.Errorf("%+v: %s", c, d)
		}
	}
}

func TestUUID(t *testing.T) {
	const s = "7f000000-0000-4000-8000-00000000000a"
	id, ok := parseUUID(s)
	if !ok || formatUUID(id) != s {
		t.Errorf("%s, %v", formatUUID(id), ok)
	}
	for _, bad := range []string{"", "guest", s + "0", "zz000000-0000-4000-8000-00000000000a"} {
		if _, ok := parseUUID(bad); ok {
			t.Errorf("%q is a UUID", bad)
		}
	}
}

func TestFreeOf(t *testing.T) {
	s := []libvirt.NodeGetMemoryStats{{Field: "total", Value: 100}, {Field: "free", Value: 1}, {Field: "cached", Value: 2}, {Field: "buffers", Value: 3}}
	if got := freeOf(s); got != 6<<10 {
		t.Error(got)
	}
	if got := freeOf(append(s, libvirt.NodeGetMemoryStats{Field: "available", Value: 5})); got != 5<<10 {
		t.Error(got)
	}
}
