package check

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// copied tells whether the disk travels with the guest.
func copied(p migrate.Params, d migrate.Disk) bool { return p.Copies(d) }

// ruleDiskTargets: --migrate-disks names disks of the guest that can be copied.
func ruleDiskTargets(f Facts) []Finding {
	g := guestOf(f)
	if g == nil {
		return nil
	}
	var out []Finding
	for _, target := range f.Params.MigrateDisks {
		i := slices.IndexFunc(g.Disks, func(d migrate.Disk) bool { return d.Target == target })
		switch {
		case i < 0:
			out = append(out, one(IDDiskTarget, Blocker, migrate.SideSource, fmt.Sprintf("the guest has no disk %s", target),
				"it has "+strings.Join(targets(g.Disks), ", "), "correct --migrate-disks")...)
		case g.Disks[i].CDROM || g.Disks[i].Kind == "network":
			out = append(out, one(IDDiskTarget, Blocker, migrate.SideSource, fmt.Sprintf("disk %s cannot be copied", target),
				"it is a drive or lies on the network", "leave it out of --migrate-disks")...)
		case g.Disks[i].Shareable:
			out = append(out, one(IDDiskShareable, Warning, migrate.SideSource, fmt.Sprintf("disk %s is shared with other guests", target),
				"after the migration the copies drift apart", "leave it out of --migrate-disks, and put it on shared storage")...)
		}
	}
	return out
}

func targets(ds []migrate.Disk) []string {
	out := make([]string, 0, len(ds))
	for _, d := range ds {
		out = append(out, d.Target)
	}
	if len(out) == 0 {
		return []string{"none"}
	}
	return out
}

// ruleDisksKept: a disk that is not copied has to be the same one at the destination.
func ruleDisksKept(f Facts) []Finding {
	t := thereOf(f)
	if t == nil {
		return nil
	}
	var out []Finding
	for _, d := range t.Disks {
		if d.CDROM || d.Path == "" || d.Kind == "network" || copied(f.Params, d) {
			continue
		}
		out = append(out, ruleDiskKept(f, d)...)
	}
	return out
}

func ruleDiskKept(f Facts, d migrate.Disk) []Finding {
	img, shared := f.Images[d.Target], f.Shared[d.Target]
	absent := img.OK && !img.Value.Exists
	if d.ReadOnly {
		if !absent {
			return nil
		}
		return one(IDDiskAbsent, Blocker, migrate.SideDestination, fmt.Sprintf("the read-only disk %s does not exist there", d.Target),
			d.Path+" is not copied, since nothing can be written to it", "copy it to the same path there")
	}
	fix := "copy the disks along: --copy-storage-all"
	if f.Params.CopyStorage != migrate.CopyNone {
		fix = "add " + d.Target + " to --migrate-disks"
	}
	sev := unlessUnsafe(f.Params)
	switch {
	case shared.OK && shared.Value && !absent:
		return nil
	case absent:
		return one(IDDiskLocal, sev, migrate.SideDestination, fmt.Sprintf("disk %s is not copied and does not exist there", d.Target), d.Path, fix)
	case shared.OK && !shared.Value:
		return one(IDDiskLocal, sev, migrate.SideSource, fmt.Sprintf("disk %s lies on local storage and is not copied", d.Target), d.Path, fix)
	case f.Params.Unsafe, !shared.asked() && !img.asked():
		return nil
	}
	return untold(IDDiskLocal, migrate.SideSource, fmt.Sprintf("whether disk %s lies on storage that both hosts share", d.Target),
		strings.TrimSuffix(d.Path+": "+shared.Why, ": "), "if it does not: --copy-storage-all; if it does: --unsafe")
}

// ruleDisksCopied: there is, or can be made, an image to copy each disk to.
func ruleDisksCopied(f Facts) []Finding {
	t := thereOf(f)
	if t == nil {
		return nil
	}
	var out []Finding
	needs := map[string]int64{}
	for _, d := range t.Disks {
		if !copied(f.Params, d) {
			continue
		}
		img := f.Images[d.Target]
		switch {
		case img.Open():
			out = append(out, untold(IDDiskNoPool, migrate.SideDestination, fmt.Sprintf("whether disk %s can be copied there", d.Target),
				d.Path+": "+img.Why, virsh(f.Dest.URI, "vol-list POOL"))...)
		case !img.OK:
		case img.Value.Exists:
			out = append(out, ruleImage(f, d, img.Value)...)
		default:
			out = append(out, ruleCreate(f, d, img.Value, needs)...)
		}
	}
	return out
}

// ruleImage: an image that is there already fits, and is about to be overwritten.
func ruleImage(f Facts, d migrate.Disk, v migrate.VolumeFacts) []Finding {
	dst := migrate.SideDestination
	grow := fmt.Sprintf("there: qemu-img create -f %s %s %d", orUnknown(d.Format), shellWord(d.Path), d.Capacity)
	if v.Format != "" && d.Format != "" && v.Format != d.Format {
		return one(IDDiskFormat, Blocker, dst, fmt.Sprintf("the image for disk %s there is of another format", d.Target),
			fmt.Sprintf("%s is %s, the guest's is %s", d.Path, v.Format, d.Format), grow)
	}
	if v.InUse {
		return one(IDDiskInUse, Blocker, dst, fmt.Sprintf("somebody there has the image of disk %s open", d.Target), d.Path,
			"end what uses it, or give the disk another path there with --disk; what both hosts share is not copied: --migrate-disks")
	}
	if v.Capacity > 0 && d.Capacity > 0 && v.Capacity != d.Capacity {
		how := "small"
		if v.Capacity > d.Capacity {
			how = "large"
		}
		return one(IDDiskSize, Blocker, dst, fmt.Sprintf("the image for disk %s there is too %s", d.Target, how),
			fmt.Sprintf("%s has %s (%d bytes), the guest's has %s (%d bytes), and QEMU copies only onto the same size",
				d.Path, size(v.Capacity), v.Capacity, size(d.Capacity), d.Capacity), grow)
	}
	return one(IDDiskOverwrite, Warning, dst, fmt.Sprintf("the image for disk %s exists there and will be overwritten", d.Target), d.Path, "")
}

// ruleCreate: a pool can create the image. needs adds up what several disks want of one pool.
func ruleCreate(f Facts, d migrate.Disk, v migrate.VolumeFacts, needs map[string]int64) []Finding {
	dst := migrate.SideDestination
	if v.Agent {
		return ruleMake(f, d, v, needs)
	}
	title := fmt.Sprintf("there is no image for disk %s, and no storage pool that could create it", d.Target)
	if v.PoolName == "" {
		dir := path.Dir(d.Path)
		return one(IDDiskNoPool, Blocker, dst, title, d.Path,
			virsh(f.Dest.URI, "pool-create-as %s dir --target %s", poolName(dir), shellWord(dir)))
	}
	if !v.PoolActive {
		return one(IDDiskNoPool, Blocker, dst, title, fmt.Sprintf("pool %s would hold %s but is not started", v.PoolName, d.Path),
			virsh(f.Dest.URI, "pool-start %s", shellWord(v.PoolName)))
	}
	needs[v.PoolName] += d.Capacity
	free := fmt.Sprintf("free some space in pool %s there, or start one on a larger file system", v.PoolName)
	switch need := needs[v.PoolName]; {
	case v.FreeBytes == nil:
		return untold(IDDiskNoRoom, dst, fmt.Sprintf("whether pool %s has room for disk %s", v.PoolName, d.Target), "it needs "+size(need), free)
	case d.Capacity == 0:
		return untold(IDDiskNoRoom, dst, fmt.Sprintf("how much room disk %s needs", d.Target), d.Path, "")
	case *v.FreeBytes < need:
		return one(IDDiskNoRoom, roomSeverity(f, d, v), dst, fmt.Sprintf("too little free space for disk %s", d.Target),
			fmt.Sprintf("pool %s needs %s, has %s", v.PoolName, size(need), size(*v.FreeBytes)), free)
	}
	return nil
}

// ruleMake: the agent can make the image. It is sparse, so that what the disk holds decides.
func ruleMake(f Facts, d migrate.Disk, v migrate.VolumeFacts, needs map[string]int64) []Finding {
	if d.Kind == "block" {
		return one(IDDiskNoPool, Blocker, migrate.SideDestination, fmt.Sprintf("there is no block device for disk %s", d.Target), d.Path,
			"make the device there, or give the disk another path with --disk")
	}
	data := d.Used
	if data <= 0 {
		data = d.Capacity
	}
	key := fmt.Sprintf("file system %d", v.Filesystem)
	needs[key] += storage.Need(d.Fills(data))
	if v.FreeBytes != nil && *v.FreeBytes < needs[key] {
		return one(IDDiskNoRoom, Blocker, migrate.SideDestination, fmt.Sprintf("too little free space for disk %s", d.Target),
			fmt.Sprintf("the file system of %s needs %s (%d bytes), has %s (%d bytes)", d.Path, size(needs[key]), needs[key], size(*v.FreeBytes), *v.FreeBytes),
			"free some space there, or give the disk another path with --disk")
	}
	if v.FreeBytes != nil && *v.FreeBytes < d.Capacity {
		return one(IDDiskNoRoom, Warning, migrate.SideDestination, fmt.Sprintf("disk %s can outgrow its file system there", d.Target),
			fmt.Sprintf("what it holds now fits; the guest may write %s, and %s are free for %s", size(d.Capacity), size(*v.FreeBytes), d.Path),
			"free some space there, or give the disk another path with --disk")
	}
	if !mapped(f.Params, d) {
		return nil
	}
	return one(IDDiskMade, Info, migrate.SideDestination, fmt.Sprintf("an image for disk %s will be made", d.Target),
		fmt.Sprintf("%s, %s, %s, sparse", d.Path, orUnknown(d.Format), size(d.Capacity)), "")
}

// mapped tells that the user gave the disk a place.
func mapped(p migrate.Params, d migrate.Disk) bool {
	return slices.ContainsFunc(p.Disks, func(m migrate.DiskMap) bool { return m.Target == d.Target })
}

// ruleDiskMaps: --disk makes sense for this guest.
func ruleDiskMaps(f Facts) []Finding {
	p, g := f.Params, guestOf(f)
	if len(p.Disks) == 0 || g == nil {
		return nil
	}
	if err := p.CheckDisks(); err != nil {
		return usage(IDDiskMap, Blocker, "--disk makes no sense", err.Error(), "correct --disk")
	}
	if bareQEMU(f.Dest) {
		return one(IDDiskMap, Blocker, migrate.SideDestination, "--disk is for hosts with libvirt",
			"a bare QEMU has the disks that it was started with", "start the destination's QEMU with the image's path, and leave out --disk")
	}
	var out []Finding
	for _, m := range p.Disks {
		i := slices.IndexFunc(g.Disks, func(d migrate.Disk) bool { return d.Target == m.Target })
		switch {
		case i < 0:
			out = append(out, one(IDDiskTarget, Blocker, migrate.SideSource, fmt.Sprintf("the guest has no disk %s", m.Target),
				"it has "+strings.Join(targets(g.Disks), ", "), "correct --disk")...)
		case !copied(p, g.Disks[i]):
			out = append(out, one(IDDiskMap, Blocker, migrate.SideSource, fmt.Sprintf("disk %s is not copied, and stays where it is", m.Target),
				"", "name it in --migrate-disks, or leave it out of --disk")...)
		case p.DestinationXML != "":
			out = append(out, ruleMapXML(f, m)...)
		}
	}
	return out
}

// ruleMapXML: the user's own XML says the same.
func ruleMapXML(f Facts, m migrate.DiskMap) []Finding {
	t := thereOf(f)
	if t == nil {
		return nil // another rule says what is wrong with the XML
	}
	for _, d := range t.Disks {
		if d.Target == m.Target && (d.Path != m.Path || m.Format != "" && d.Format != m.Format) {
			return usage(IDDiskMap, Blocker, fmt.Sprintf("--xml and --disk put disk %s in different places", m.Target),
				fmt.Sprintf("%s (%s) and %s (%s)", d.Path, orUnknown(d.Format), m.Path, orUnknown(m.Format)), "leave one of them out")
		}
	}
	return nil
}

// roomSeverity: a thin image grows only as it is written, so what it holds decides whether it can be copied at all.
func roomSeverity(f Facts, d migrate.Disk, v migrate.VolumeFacts) Severity {
	if d.Format == "qcow2" && d.Used > 0 && d.Used <= *v.FreeBytes && f.Params.Unsafe {
		return Warning
	}
	return Blocker
}

// poolName is a name for a pool on dir.
func poolName(dir string) string {
	if base := path.Base(dir); base != "/" && base != "." {
		return shellWord(base)
	}
	return "images"
}

// ruleDisksInUse: no other domain at the destination writes to the image.
func ruleDisksInUse(f Facts) []Finding {
	t := thereOf(f)
	if t == nil {
		return nil
	}
	var out []Finding
	for _, d := range t.Disks {
		use := f.InUse[d.Target]
		switch {
		case d.CDROM || d.ReadOnly || d.Shareable:
		case use.Open():
			out = append(out, untold(IDDiskInUse, migrate.SideDestination,
				fmt.Sprintf("whether another domain there uses the image of disk %s", d.Target), use.Why, "")...)
		case use.OK && use.Value != "":
			out = append(out, one(IDDiskInUse, Blocker, migrate.SideDestination,
				fmt.Sprintf("domain %s there uses the image of disk %s", use.Value, d.Target), d.Path,
				"give the guest another path there with --xml FILE")...)
		}
	}
	return out
}
