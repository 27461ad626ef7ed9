package check

import (
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// NBDFacts are what the nbd engine needs beyond what every migration does. They are gathered only where that engine is to be
// had and was not ruled out by the user.
type NBDFacts struct {
	// SourceKernel and DestKernel are the kernels' releases.
	SourceKernel, DestKernel Answer[string]
	// SourceRAM is the type of the file system that holds the guest's RAM at the source; the destination's is
	// Facts.RAMFilesystem.
	SourceRAM Answer[string]
	// Waiting is what a bare QEMU at the destination was started with; not asked of libvirt, which starts one itself.
	Waiting Answer[*migrate.DomainFacts]
	// WaitingRAM is the type of the file system that holds its RAM.
	WaitingRAM Answer[string]
	// SourceAgent and DestAgent tell whether an agent can be had on the hosts.
	SourceAgent, DestAgent Answer[AgentFacts]
	// Confined tells that AppArmor keeps the destination's QEMU from making the sockets that its agent needs.
	Confined Answer[bool]
}

// AgentFacts is where an agent of a host belongs.
type AgentFacts struct {
	Place migrate.Place
	// Able tells that the agent was asked, or that nothing is known to keep it from its work; else Why says what does.
	Able bool
	Why  string
	// Fix is what to do about it, one line.
	Fix string
}

// ChooseEngine says which engine moves this guest, and why. Auto is nbd if nothing speaks against that, else native; an
// engine that the user named is kept, and Evaluate tells what stands in its way.
func ChooseEngine(f Facts) (migrate.EngineName, string) {
	switch f.Engine {
	case migrate.EngineNative, migrate.EngineNBD:
		return f.Engine, "as asked"
	}
	if !f.HasNBD {
		return migrate.EngineNative, "the only engine of this version"
	}
	obs := againstNBD(f)
	if len(obs) == 0 {
		return migrate.EngineNBD, "all of the guest's RAM is in shared files, so that the pause depends neither on its size nor on what it writes"
	}
	why := obs[0].title
	if n := len(obs) - 1; n > 0 {
		why += fmt.Sprintf(" (and %d more against nbd)", n)
	}
	return migrate.EngineNative, why
}

// byNBD tells that the nbd engine moves the guest.
func byNBD(f Facts) bool {
	e, _ := ChooseEngine(f)
	return e == migrate.EngineNBD
}

// lazy tells that RAM may be left to be fetched after the switch; the nbd engine's auto is hybrid.
func lazy(p migrate.Params) bool { return p.Strategy != migrate.StrategyPrecopy || p.TimeoutPostcopy }

// againstNBD lists what keeps the nbd engine from moving the guest, or might. The gravest come first.
func againstNBD(f Facts) []obstacle {
	var out []obstacle
	for _, ask := range []func(Facts) []obstacle{nbdMemory, nbdDevices, nbdOptions, nbdWaiting, nbdVersions, nbdFaults, nbdFilesystems,
		nbdTracker, nbdAgents, nbdConfined} {
		out = append(out, ask(f)...)
	}
	return out
}

const (
	useNative = "use --engine native"
	shareRAM  = "give it <memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>, restart it; or " + useNative
	shareQEMU = "start it with -object memory-backend-file,id=ram,share=on,… -machine memory-backend=ram; or " + useNative
)

// nbdMemory: somebody else can move RAM only if it is in files that are mapped shared, all of it.
func nbdMemory(f Facts) []obstacle {
	g := guestOf(f)
	if g == nil || g.RAMFiles {
		return nil
	}
	o := obstacle{id: IDNBDMemory, side: migrate.SideSource, certain: true, fix: shareRAM, title: "the guest's RAM is private memory of its QEMU",
		why: "agents move RAM that is in shared files"}
	switch {
	case g.Backing == migrate.BackingMemfd:
		o.title, o.why = "the guest's RAM is a memfd", "QEMU would send it itself; agents move RAM that is in shared files"
	case g.Shared:
		o.title = "not all of the guest's RAM is in shared files"
	case g.Backing == migrate.BackingFile || g.Backing == migrate.BackingHugetlb:
		o.title = "the guest's RAM is in files, but not shared"
	}
	if bareQEMU(f.Source) {
		o.fix = shareQEMU
	}
	return []obstacle{o}
}

// nbdDevices: no tracker sees what other processes and devices write into RAM, and nobody can page RAM in under a device.
func nbdDevices(f Facts) []obstacle {
	g := guestOf(f)
	if g == nil {
		return nil
	}
	var out []obstacle
	add := func(id, title, detail, fix string) {
		out = append(out, obstacle{id, title, detail, fix, migrate.SideSource, true})
	}
	seen := map[string]bool{}
	for _, d := range g.Devices {
		title, why, id := foreignWriter(d.Kind)
		if title == "" {
			continue
		}
		seen[d.Kind] = true
		add(id, title, describe(d)+": "+why, "detach it, or "+useNative)
	}
	for _, n := range g.NICs {
		kind := map[string]string{"vhostuser": "vhost-user", "vdpa": "vdpa", "hostdev": "hostdev"}[n.Kind]
		if title, why, id := foreignWriter(kind); title != "" && !seen[kind] {
			add(id, title, "network card "+n.MAC+": "+why, "detach it, or "+useNative)
		}
	}
	for _, d := range g.Disks {
		if d.Kind == "nvme" {
			title, why, id := foreignWriter("hostdev")
			add(id, title, "disk "+d.Target+": "+why, "detach it, or "+useNative)
		}
	}
	return out
}

// foreignWriter tells what is wrong with a kind of device; nothing if title is empty.
func foreignWriter(kind string) (title, why, id string) {
	const unseen = "nobody could tell what it writes into the guest's RAM"
	switch kind {
	case "vhost-user":
		return "another process serves a device and writes the guest's RAM (vhost-user)", unseen, IDNBDDevice
	case "virtiofs":
		return "virtiofsd shares a directory and writes the guest's RAM", unseen, IDNBDDevice
	case "hostdev", "pci", "mdev":
		return "a device of the host writes the guest's RAM (VFIO)", unseen, IDNBDDevice
	case "vdpa":
		return "a vDPA device writes the guest's RAM", unseen, IDNBDDevice
	case "shmem":
		return "the guest shares memory with other processes, which write it (ivshmem)", unseen, IDNBDDevice
	case "virtio-mem":
		return "the guest's RAM grows and shrinks by virtio-mem", "what is unplugged would be taken for missing", IDNBDMemory
	case "nvdimm", "virtio-pmem":
		return "a file of the host is part of the guest's RAM (persistent memory)", "it has to be moved like a disk", IDNBDMemory
	}
	return "", "", ""
}

// ignored names the options that mean nothing to the nbd engine and do no harm.
func ignored(p migrate.Params) []string {
	var out []string
	for _, o := range []struct {
		flag string
		set  bool
	}{
		{"--auto-converge", p.AutoConverge}, {"--parallel", p.Parallel > 0}, {"--postcopy-preempt", p.Preempt},
	} {
		if o.set {
			out = append(out, o.flag)
		}
	}
	return out
}

// nbdOptions: what is asked of QEMU's own way of moving RAM.
func nbdOptions(f Facts) []obstacle {
	p := f.Params
	var out []obstacle
	add := func(what, why, fix string) {
		out = append(out, obstacle{IDNBDOption, what, why, fix, migrate.SideCoordinator, true})
	}
	if f.Engine != migrate.EngineNBD {
		for _, flag := range ignored(p) {
			add(flag+" is about QEMU's own way of moving RAM", "", "leave it out, or "+useNative)
		}
	}
	if p.PeerToPeer {
		add("--p2p leaves the migration to the daemons", "agents are driven from here", "leave out --p2p, or "+useNative)
	}
	if p.DirtyLimit {
		add("--dirty-limit is QEMU's own way of moving RAM", "", "leave it out, or "+useNative)
	}
	if len(p.Compression) > 0 {
		add("--comp-methods "+strings.Join(p.Compression, ",")+" is about QEMU's own way of moving RAM", "", "leave it out, or "+useNative)
	}
	if p.TLS && p.CopyStorage == migrate.CopyInc {
		add("--tls with --copy-storage-inc needs QEMU's own connections", "the agents encrypt what they move, and the disks would go in the clear",
			"use --copy-storage-all, with which agents copy the disks then, or leave out --tls, or "+useNative)
	}
	if p.TLS && p.PlainData {
		add("--tls and --plain-data contradict each other", "", "leave one out")
	}
	return out
}

// nbdWaiting: a bare QEMU at the destination was started by its owner.
func nbdWaiting(f Facts) []obstacle {
	w := f.NBD.Waiting
	o := obstacle{id: IDNBDMemory, side: migrate.SideDestination, fix: shareQEMU}
	switch {
	case w.Open():
		o.title, o.why = "what the waiting QEMU's RAM is made of is not known", w.Why
	case !w.OK || w.Value == nil || w.Value.RAMFiles:
		return nil
	default:
		o.title, o.why, o.certain = "the waiting QEMU's RAM is not in shared files", "agents write into the file", true
	}
	return []obstacle{o}
}

// nbdVersions: the agents stop QEMU's stream when the destination says that it is ready for the switch, which QEMU does
// since 8.1.
func nbdVersions(f Facts) []obstacle {
	src, dst, ok := bothHosts(f)
	since := migrate.Version{Major: 8, Minor: 1}
	o := obstacle{id: IDNBDVersion, side: migrate.SideDestination, fix: useNative}
	switch {
	case !ok || src.QEMUVer.Zero() || dst.QEMUVer.Zero():
		o.title, o.why = "a QEMU may be older than 8.1", "its version is not known"
	case src.QEMUVer.Less(since) || dst.QEMUVer.Less(since):
		o.title, o.certain = "the nbd engine needs QEMU 8.1 on both hosts", true
		o.why = fmt.Sprintf("source: %s; destination: %s", version(src.QEMUVer), version(dst.QEMUVer))
	case f.Params.DisksByAgents() && src.QEMUVer.Less(migrate.Version{Major: 8, Minor: 2}): // its mirror learns late to have writes wait
		o.title, o.why, o.side, o.certain = "disks that agents copy need QEMU 8.2 at the source", "source: "+version(src.QEMUVer), migrate.SideSource, true
	default:
		return nil
	}
	return []obstacle{o}
}

// nbdFaults: what is left behind is fetched when the guest asks for it.
func nbdFaults(f Facts) []obstacle {
	if !lazy(f.Params) {
		return nil
	}
	out := againstUserfault(f)
	for i := range out {
		out[i].id = IDNBDUserfault
		out[i].fix += "; or --strategy precopy"
	}
	return out
}

// nbdFilesystems: a file's holes tell what is missing, and only memory file systems take page faults.
func nbdFilesystems(f Facts) []obstacle {
	g := guestOf(f)
	if g == nil || !g.RAMFiles || g.Backing == migrate.BackingHugetlb {
		return nil
	}
	var out []obstacle
	there, fix := f.RAMFilesystem, `there: set memory_backing_dir = "/dev/shm" in /etc/libvirt/qemu.conf; or `+useNative
	if bareQEMU(f.Dest) {
		there, fix = f.NBD.WaitingRAM, "start QEMU with its RAM below /dev/shm; or "+useNative
		if w := f.NBD.Waiting; !w.OK || w.Value == nil || !w.Value.RAMFiles {
			there = Known("tmpfs") // nbdWaiting says what is wrong
		}
	}
	for _, e := range []struct {
		side migrate.Side
		fs   Answer[string]
	}{{migrate.SideDestination, there}, {migrate.SideSource, f.NBD.SourceRAM}} {
		o := obstacle{id: IDNBDBacking, side: e.side, fix: fix}
		switch {
		case e.fs.OK && (e.fs.Value == "tmpfs" || e.fs.Value == "hugetlbfs"):
			continue
		case e.fs.OK:
			o.title, o.why = "the files with the guest's RAM are not on tmpfs or hugetlbfs", "they are on "+e.fs.Value
			o.certain = e.side == migrate.SideDestination
		default:
			o.title, o.why = "the files with the guest's RAM may not be on tmpfs", orUnknown(e.fs.Why)
		}
		out = append(out, o)
	}
	return out
}

// nbdTracker: the kernel has to tell what was written without slowing the guest. Other trackers work everywhere.
func nbdTracker(f Facts) []obstacle {
	if t := f.Params.Tracker; t != "" && t != "uffd-wp" {
		return nil
	}
	o := obstacle{id: IDNBDKernel, side: migrate.SideSource, fix: "upgrade the source's kernel, or choose --tracker soft-dirty or hash, or " + useNative}
	k := f.NBD.SourceKernel
	v, ok := kernelVersion(k.Value)
	switch {
	case !k.OK || !ok:
		o.title, o.why = "the source's kernel may be older than 6.7", orUnknown(k.Why+k.Value)
	case v.Less(migrate.Version{Major: 6, Minor: 7}):
		o.title, o.why = "the source's kernel is older than 6.7", k.Value+" cannot tell cheaply what the guest writes"
		o.certain = f.Params.Tracker == "uffd-wp"
	default:
		return nil
	}
	return []obstacle{o}
}

// kernelVersion reads a kernel's release, such as 6.12.48-cloud-amd64.
func kernelVersion(release string) (migrate.Version, bool) {
	var v migrate.Version
	n, _ := fmt.Sscanf(strings.TrimSpace(release), "%d.%d.%d", &v.Major, &v.Minor, &v.Micro)
	return v, n >= 2
}

func nbdAgents(f Facts) []obstacle {
	var out []obstacle
	for _, e := range []struct {
		side  migrate.Side
		agent Answer[AgentFacts]
	}{{migrate.SideSource, f.NBD.SourceAgent}, {migrate.SideDestination, f.NBD.DestAgent}} {
		o := obstacle{id: IDNBDAgent, side: e.side, fix: "install vmmigrate there and start its agent, or " + useNative}
		switch {
		case e.agent.OK && e.agent.Value.Able:
			continue
		case e.agent.OK:
			o.title, o.why, o.certain = "no agent can be had on the "+string(e.side), e.agent.Value.Why, true
			if e.agent.Value.Fix != "" {
				o.fix = e.agent.Value.Fix
			}
		default:
			o.title, o.why = "whether an agent can be had on the "+string(e.side)+" is not known", orUnknown(e.agent.Why)
		}
		out = append(out, o)
	}
	return out
}

// nbdConfined: under AppArmor a QEMU may make sockets in its own folder only, which does not exist before it does.
func nbdConfined(f Facts) []obstacle {
	c := f.NBD.Confined
	if c.OK && !c.Value || !c.asked() {
		return nil
	}
	return []obstacle{{id: IDNBDConfined, side: migrate.SideDestination, title: "AppArmor may keep QEMU from making the agent's sockets",
		why: orUnknown(c.Why), fix: "there: echo '/var/lib/libvirt/qemu/vmmigrate-* rw,' >>" + appArmorLocal + "; or " + useNative}}
}

// ruleNBD: what stands in the way of the nbd engine blocks those who asked for it; and what it takes no notice of.
func ruleNBD(f Facts) []Finding {
	if !byNBD(f) || guestOf(f) == nil {
		return nil
	}
	var out []Finding
	for _, o := range againstNBD(f) {
		sev := Unknown
		if o.certain {
			sev = Blocker
		}
		out = append(out, one(o.id, sev, o.side, o.title, o.why, o.fix)...)
	}
	if flags := ignored(f.Params); len(flags) > 0 {
		out = append(out, one(IDNBDOption, Info, migrate.SideCoordinator, "the nbd engine takes no notice of "+strings.Join(flags, ", "),
			"it is about QEMU's own way of moving RAM", "leave it out, or "+useNative)...)
	}
	return append(out, reporting(f)...)
}

// reporting: a guest that gives free pages back all the time makes the tracker's and the pager's work larger.
func reporting(f Facts) []Finding {
	g := guestOf(f)
	for _, d := range g.Devices {
		on := d.Kind == "memballoon" && strings.Contains(d.Detail, "free-page-reporting")
		if !on && (d.Kind != "balloon" || !reportsFreePages(g.XML)) {
			continue
		}
		return one(IDNBDBalloon, Warning, migrate.SideSource, "the guest gives free pages back while it is moved (free page reporting)",
			describe(d)+"; they are seen, but each is moved as a hole again; and if an agent dies while the guest is paged in, such pages hold "+
				"what they held before, which only a guest with init_on_free=1 minds",
			"switch freePageReporting off if the migration is slow or the guest runs with init_on_free=1; or use --strategy precopy")
	}
	return nil
}
