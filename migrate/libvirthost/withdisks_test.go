package libvirthost

import (
	"errors"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

const disksText = `<?xml version="1.0"?>
<domain type='kvm'><name>web</name><devices>
  <!-- <disk type='file'><target dev='vda'/></disk> -->
  <disk type='file' device='disk' snapshot='no'>
    <driver name='qemu' type='qcow2' cache='none'><metadata_cache/></driver>
    <source file='/i/a&amp;b.qcow2' index='1'><seclabel model='dac' relabel='no'/></source>
    <backingStore type='file' index='3'><format type='qcow2'/><source file='/i/base'/><backingStore/></backingStore>
    <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>
  </disk>
  <disk type='block' device='disk'><source dev='/dev/vg/b'/><target dev='vdb'/></disk>
  <disk type='file' device='cdrom'><target dev='sda'/><backingStore/></disk>
  <disk type='file'><source file='/e'><encryption format='luks'/></source><target dev='vde'/></disk>
</devices><x:commandline xmlns:x='u'><x:arg value='1'/></x:commandline></domain>`

func TestWithDisks(t *testing.T) {
	got, err := WithDisks(disksText, []migrate.DiskMap{{Target: "vdb", Path: "/n/b'<", Format: "raw"}, {Target: "vda", Path: "/dev/vg/a", Format: "raw"}, {Target: "sda", Path: "/n/c"}})
	if err != nil {
		t.Fatal(err)
	}
	want := disksText
	for _, c := range [][2]string{
		{`<disk type='file' device='disk' snapshot='no'>`, `<disk type='block' device='disk' snapshot='no'>`},
		{`<driver name='qemu' type='qcow2' cache='none'>`, `<driver name='qemu' type='raw' cache='none'>`},
		{`<source file='/i/a&amp;b.qcow2' index='1'><seclabel model='dac' relabel='no'/></source>`, `<source dev='/dev/vg/a'/>`},
		{`<backingStore type='file' index='3'><format type='qcow2'/><source file='/i/base'/><backingStore/></backingStore>`, ``},
		{`<disk type='block' device='disk'><source dev='/dev/vg/b'/>`, `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/n/b&#39;&lt;'/>`},
		{`<disk type='file' device='cdrom'><target dev='sda'/><backingStore/>`, `<disk type='file' device='cdrom'><source file='/n/c'/><target dev='sda'/>`},
	} {
		if strings.Count(want, c[0]) != 1 {
			t.Fatalf("%q is there %d times", c[0], strings.Count(want, c[0]))
		}
		want = strings.Replace(want, c[0], c[1], 1)
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	f, err := FactsOf(got)
	if err != nil || f.Disks[0].Path != "/dev/vg/a" || f.Disks[0].Kind != "block" || f.Disks[1].Path != "/n/b'<" || f.Disks[1].Format != "raw" {
		t.Errorf("%+v, %v", f.Disks, err)
	}
}

func TestWithDisksRefuses(t *testing.T) {
	if _, err := WithDisks(disksText, []migrate.DiskMap{{Target: "vdz", Path: "/x"}}); err == nil || !strings.Contains(err.Error(), "no disk vdz") {
		t.Errorf("%v", err)
	}
	if _, err := WithDisks(disksText, []migrate.DiskMap{{Target: "vde", Path: "/x"}}); !errors.Is(err, migrate.ErrNotSupported) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"", "<domain>", "<domain><devices></domain>", "x"} {
		if got, err := WithDisks(bad, nil); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}

func TestAgrees(t *testing.T) {
	for says, m := range map[string]migrate.DiskMap{
		"": {Target: "vda", Path: "/i/a&b.qcow2", Format: "qcow2"}, "no disk": {Target: "vdz", Path: "/x"},
		"as /dev/vg/b": {Target: "vdb", Path: "/x"}, "(qcow2)": {Target: "vda", Path: "/i/a&b.qcow2", Format: "raw"},
	} {
		err := agrees(disksText, migrate.Params{Disks: []migrate.DiskMap{m}})
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
	if got := known(disksText, []migrate.DiskMap{{Target: "vdz"}, {Target: "vda"}}, mapTarget); len(got) != 1 || got[0].Target != "vda" {
		t.Errorf("%+v", got)
	}
}

func FuzzWithDisks(f *testing.F) {
	f.Add(disksText, "vda", "/n/x")
	f.Add("<domain><devices><disk><target dev='a'/></disk></devices></domain>", "a", "/")
	f.Fuzz(func(t *testing.T, text, target, path string) {
		m := migrate.DiskMap{Target: target, Path: path, Format: "raw"}
		if (migrate.Params{CopyStorage: migrate.CopyAll, Disks: []migrate.DiskMap{m}}).CheckDisks() != nil {
			return
		}
		got, err := WithDisks(text, []migrate.DiskMap{m})
		if err != nil {
			return
		}
		found, err := findDisks(got)
		if err != nil {
			t.Fatalf("what comes out cannot be read: %v\n%s", err, got)
		}
		for _, d := range found {
			if d.target == target {
				return
			}
		}
		t.Fatalf("the disk is gone\n%s", got)
	})
}
