package migrate

import (
	"strings"
	"testing"
)

func TestCheckDisks(t *testing.T) {
	vda := DiskMap{Target: "vda", Path: "/i/a"}
	for says, p := range map[string]Params{
		"":                {CopyStorage: CopyAll, Disks: []DiskMap{vda, {Target: "vdb", Path: "/i/b", Format: "raw"}}},
		"only a disk":     {Disks: []DiskMap{vda}},
		"start at":        {CopyStorage: CopyAll, Disks: []DiskMap{{Target: "vda", Path: "a"}}},
		"shorter form":    {CopyStorage: CopyAll, Disks: []DiskMap{{Target: "vda", Path: "/i/../a"}}},
		"not qcow2":       {CopyStorage: CopyInc, Disks: []DiskMap{{Target: "vda", Path: "/a", Format: "vmdk"}}},
		"--migrate-disks": {CopyStorage: CopyAll, MigrateDisks: []string{"vdb"}, Disks: []DiskMap{vda}},
		"twice":           {CopyStorage: CopyAll, Disks: []DiskMap{vda, {Target: "vda", Path: "/i/b"}}},
		"cannot both":     {CopyStorage: CopyAll, Disks: []DiskMap{vda, {Target: "vdb", Path: "/i/a"}}},
	} {
		err := p.CheckDisks()
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
}

func TestMapDisk(t *testing.T) {
	p := Params{CopyStorage: CopyAll, Disks: []DiskMap{{Target: "vda", Path: "/i/a", Format: "raw"}, {Target: "vdb", Path: "/dev/vg/b"}}}
	for target, want := range map[string]Disk{
		"vda": {Target: "vda", Path: "/i/a", Kind: "file", Format: "raw", Capacity: 7, Used: 3},
		"vdb": {Target: "vdb", Path: "/dev/vg/b", Kind: "block", Format: "qcow2", Capacity: 7, Used: 3},
		"vdc": {Target: "vdc", Path: "/old", Kind: "file", Format: "qcow2", Capacity: 7, Used: 3},
	} {
		if got := p.MapDisk(Disk{Target: target, Path: "/old", Kind: "file", Format: "qcow2", Capacity: 7, Used: 3}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if (DiskMap{Path: "/dev/shm/a"}).Device() {
		t.Error("/dev/shm has no devices")
	}
}
