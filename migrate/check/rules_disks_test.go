package check

import (
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func image(v migrate.VolumeFacts) func(*Facts) {
	return func(f *Facts) { f.Images["vda"] = Known(v) }
}

// kept makes the disks stay where they are.
func kept(change func(*Facts)) func(*Facts) {
	return func(f *Facts) {
		f.Params.CopyStorage = migrate.CopyNone
		f.Images["vda"] = Known(migrate.VolumeFacts{Exists: true})
		f.Shared["vda"] = Known(true)
		change(f)
	}
}

func TestRulesDisksKept(t *testing.T) {
	gone := Known(migrate.VolumeFacts{})
	readOnly := func(f *Facts) { both(f, func(d *migrate.DomainFacts) { d.Disks[0].ReadOnly = true }) }
	runCases(t, []ruleCase{
		{"shared", kept(func(*Facts) {}), "", "", "", "", nil},
		{"shared but absent there", kept(func(f *Facts) { f.Images["vda"] = gone }), IDDiskLocal, Blocker, dst, "does not exist there", nil},
		{"local", kept(func(f *Facts) { f.Shared["vda"] = Known(false) }), IDDiskLocal, Blocker, src, "local storage", nil},
		{"local and absent", kept(func(f *Facts) { f.Shared["vda"], f.Images["vda"] = Known(false), gone }), IDDiskLocal, Blocker, dst, "/img/web", nil},
		{"local, unsafe", kept(func(f *Facts) { f.Shared["vda"] = Known(false); f.Params.Unsafe = true }), IDDiskLocal, Warning, src, "", nil},
		{"unknown", kept(func(f *Facts) { f.Shared["vda"] = CouldNotTell[bool]("fuse") }), IDDiskLocal, Unknown, src, "fuse", nil},
		{"unknown, unsafe", kept(func(f *Facts) { f.Shared["vda"] = CouldNotTell[bool]("fuse"); f.Params.Unsafe = true }), "", "", "", "", nil},
		{"not asked", kept(func(f *Facts) { f.Images, f.Shared = nil, nil }), "", "", "", "", nil},
		{"on the network", kept(func(f *Facts) {
			f.Shared["vda"] = Known(false)
			both(f, func(d *migrate.DomainFacts) { d.Disks[0].Kind = "network" })
		}), "", "", "", "", nil},
		{"left out of those copied", func(f *Facts) {
			f.Params.MigrateDisks = []string{"vdb"}
			f.Shared["vda"] = Known(false)
			both(f, func(d *migrate.DomainFacts) { d.Disks = append(d.Disks, migrate.Disk{Target: "vdb", Kind: "network"}) })
		}, IDDiskLocal, Blocker, dst, "vda", []string{IDDiskTarget}},
		{"shareable, which is never copied unasked", func(f *Facts) {
			f.Shared["vda"] = Known(false)
			both(f, func(d *migrate.DomainFacts) { d.Disks[0].Shareable = true })
		}, IDDiskLocal, Blocker, dst, "vda", nil},
		{"read-only, there", func(f *Facts) { readOnly(f); f.Images["vda"] = Known(migrate.VolumeFacts{Exists: true}) }, "", "", "", "", nil},
		{"read-only, absent", func(f *Facts) { readOnly(f); f.Images["vda"] = gone }, IDDiskAbsent, Blocker, dst, "/img/web", nil},
	})
}

func TestRulesDisksCopied(t *testing.T) {
	pool := func(free *int64) migrate.VolumeFacts {
		return migrate.VolumeFacts{PoolName: "img", PoolActive: true, FreeBytes: free}
	}
	there := func(capacity int64, format string) migrate.VolumeFacts {
		return migrate.VolumeFacts{Exists: true, Capacity: capacity, Format: format}
	}
	two := func(free int64) func(*Facts) {
		return func(f *Facts) {
			both(f, func(d *migrate.DomainFacts) {
				d.Disks = append(d.Disks, migrate.Disk{Target: "vdb", Path: "/img/data", Kind: "file", Capacity: 5 << 30})
			})
			f.Images["vda"], f.Images["vdb"] = Known(pool(&free)), Known(pool(&free))
		}
	}
	runCases(t, []ruleCase{
		{"no pool", image(migrate.VolumeFacts{}), IDDiskNoPool, Blocker, dst, "/img/web.qcow2", nil},
		{"pool not started", image(migrate.VolumeFacts{PoolName: "img"}), IDDiskNoPool, Blocker, dst, "not started", nil},
		{"no room", image(pool(ptr(int64(10<<30 - 1)))), IDDiskNoRoom, Blocker, dst, "needs 10 GiB, has 10.0 GiB", nil},
		{"just enough room", image(pool(ptr(int64(10 << 30)))), "", "", "", "", nil},
		{"room for one of two", two(14 << 30), IDDiskNoRoom, Blocker, dst, "needs 15 GiB, has 14 GiB", nil},
		{"room for both", two(15 << 30), "", "", "", "", nil},
		{"no room, thin and unsafe", func(f *Facts) { image(pool(ptr(int64(3 << 30))))(f); f.Params.Unsafe = true }, IDDiskNoRoom, Warning, dst, "", nil},
		{"room unknown", image(pool(nil)), IDDiskNoRoom, Unknown, dst, "10 GiB", nil},
		{"need unknown", func(f *Facts) { both(f, func(d *migrate.DomainFacts) { d.Disks[0].Capacity = 0 }) }, IDDiskNoRoom, Unknown, dst, "", nil},
		{"unknown", func(f *Facts) { f.Images["vda"] = CouldNotTell[migrate.VolumeFacts]("hm") }, IDDiskNoPool, Unknown, dst, "hm", nil},
		{"exists and fits", image(there(10<<30, "qcow2")), IDDiskOverwrite, Warning, dst, "/img/web.qcow2", nil},
		{"exists, smaller", image(there(9<<30, "qcow2")), IDDiskSize, Blocker, dst, "too small", nil},
		{"exists, larger", image(there(11<<30, "qcow2")), IDDiskSize, Blocker, dst, "too large", nil},
		{"no pool, but an agent", image(byAgent(20 << 30)), "", "", "", "", nil},
		{"agent, no room", image(byAgent(1 << 30)), IDDiskNoRoom, Blocker, dst, "2254857830 bytes", nil},
		{"agent, raw without discard", func(f *Facts) {
			image(byAgent(10 << 30))(f)
			both(f, func(d *migrate.DomainFacts) { d.Disks[0].Format = "raw" })
		}, IDDiskNoRoom, Blocker, dst, "needs 10.5 GiB", nil},
		{"agent, raw with discard", func(f *Facts) {
			image(byAgent(20 << 30))(f)
			both(f, func(d *migrate.DomainFacts) { d.Disks[0].Format, d.Disks[0].Discard = "raw", true })
		}, "", "", "", "", nil},
		{"agent, room for what it holds", image(byAgent(4 << 30)), IDDiskNoRoom, Warning, dst, "outgrow", nil},
		{"agent, no device", func(f *Facts) {
			image(byAgent(20 << 30))(f)
			both(f, func(d *migrate.DomainFacts) { d.Disks[0].Kind = "block" })
		}, IDDiskNoPool, Blocker, dst, "block device", nil},
		{"agent, image in use", image(migrate.VolumeFacts{Agent: true, Exists: true, InUse: true}), IDDiskInUse, Blocker, dst, "open", nil},
		{"exists, other format", image(there(10<<30, "raw")), IDDiskFormat, Blocker, dst, "is raw", nil},
		{"exists, size unknown", image(there(0, "")), IDDiskOverwrite, Warning, dst, "", nil},
		{"unknown target", func(f *Facts) { f.Params.MigrateDisks = []string{"vda", "vdz"} }, IDDiskTarget, Blocker, src, "vdz", nil},
		{"target is a drive", func(f *Facts) { f.Params.MigrateDisks = []string{"vda", "sda"} }, IDDiskTarget, Blocker, src, "sda", nil},
		{"target is shareable", func(f *Facts) {
			f.Params.MigrateDisks = []string{"vda"}
			both(f, func(d *migrate.DomainFacts) { d.Disks[0].Shareable = true })
		}, IDDiskShareable, Warning, src, "vda", nil},
		{"in use", func(f *Facts) { f.InUse["vda"] = Known("db") }, IDDiskInUse, Blocker, dst, "db", nil},
		{"use unknown", func(f *Facts) { f.InUse["vda"] = CouldNotTell[string]("hm") }, IDDiskInUse, Unknown, dst, "hm", nil},
	})
}

// byAgent is what an agent tells of an image that it could make.
func byAgent(free int64) migrate.VolumeFacts {
	return migrate.VolumeFacts{Agent: true, FreeBytes: &free, Filesystem: 7}
}

func TestRulesDiskMaps(t *testing.T) {
	to := func(m ...migrate.DiskMap) func(*Facts) {
		return func(f *Facts) {
			f.Params.Disks = m
			image(byAgent(20 << 30))(f)
			for i, d := range f.There.Value.Disks {
				f.There.Value.Disks[i] = f.Params.MapDisk(d)
			}
		}
	}
	vda := migrate.DiskMap{Target: "vda", Path: "/n/web.qcow2"}
	and := func(change func(*Facts)) func(*Facts) { return func(f *Facts) { to(vda)(f); change(f) } }
	runCases(t, []ruleCase{
		{"made elsewhere", to(vda), IDDiskMade, Info, dst, "/n/web.qcow2, qcow2, 10 GiB", nil},
		{"bad path", to(migrate.DiskMap{Target: "vda", Path: "n"}), IDDiskMap, Blocker, "coordinator", "start at the root", []string{IDDiskMade}},
		{"no such disk", to(vda, migrate.DiskMap{Target: "vdz", Path: "/z"}), IDDiskTarget, Blocker, src, "vdz", []string{IDDiskMade}},
		{"not copied", to(migrate.DiskMap{Target: "sda", Path: "/n/cd"}), IDDiskMap, Blocker, src, "stays where it is", nil},
		{"not by --xml", and(func(f *Facts) {
			f.Params.DestinationXML = "<domain/>"
			f.There.Value.Disks[0].Path = "/elsewhere"
		}), IDDiskMap, Blocker, "coordinator", "/elsewhere", []string{IDDiskMade}},
	})
}
