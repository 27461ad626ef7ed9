package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// ruleHosts: both hosts answered.
func ruleHosts(f Facts) []Finding {
	var out []Finding
	if a := f.Source.Facts; a.Open() {
		out = append(out, untold(IDHostUnknown, migrate.SideSource, "what the source host is", a.Why, "")...)
	}
	if a := f.Dest.Facts; a.Open() {
		out = append(out, untold(IDHostUnknown, migrate.SideDestination, "what the destination host is", a.Why, "")...)
	}
	return out
}

// bothHosts gives the facts of both hosts, if both are known.
func bothHosts(f Facts) (src, dst migrate.HostFacts, ok bool) {
	return f.Source.Facts.Value, f.Dest.Facts.Value, f.Source.Facts.OK && f.Dest.Facts.OK
}

// ruleSameHost: a guest cannot be migrated to where it is.
func ruleSameHost(f Facts) []Finding {
	src, dst, ok := bothHosts(f)
	if !ok || src.HostUUID == "" || src.HostUUID != dst.HostUUID {
		return nil
	}
	return one(IDSameHost, Blocker, migrate.SideDestination, "source and destination are the same host",
		"both have the host UUID "+src.HostUUID,
		"name another host; if they are two, give each its own host_uuid in /etc/libvirt/libvirtd.conf and restart libvirtd")
}

// ruleDrivers: both ends speak the same language, on the same kind of processor.
func ruleDrivers(f Facts) []Finding {
	src, dst, ok := bothHosts(f)
	if !ok {
		return nil
	}
	var out []Finding
	if src.Driver != "" && dst.Driver != "" && src.Driver != dst.Driver {
		out = one(IDDriversDiffer, Blocker, migrate.SideDestination, "one end is libvirt and the other is not",
			fmt.Sprintf("source: %s; destination: %s", src.Driver, dst.Driver), "name two libvirt hosts, or two QEMUs")
	}
	if src.Arch != "" && dst.Arch != "" && src.Arch != dst.Arch && thereAccel(f) != "tcg" {
		out = append(out, one(IDArchDiffers, Blocker, migrate.SideDestination, "the hosts' processors are of different kinds",
			fmt.Sprintf("source: %s; destination: %s", src.Arch, dst.Arch), "choose a destination that is "+src.Arch)...)
	}
	return out
}

// thereAccel is kvm or tcg, or "" if it is not known.
func thereAccel(f Facts) string {
	if t := thereOf(f); t != nil {
		return t.Accel
	}
	return ""
}

// ruleVersions: going back to an older QEMU or libvirt is where migrations are least tested.
func ruleVersions(f Facts) []Finding {
	src, dst, ok := bothHosts(f)
	if !ok {
		return nil
	}
	older := func(id, what string, a, b migrate.Version) []Finding {
		if a.Zero() || b.Zero() || !b.Less(a) {
			return nil
		}
		return one(id, Warning, migrate.SideDestination, fmt.Sprintf("the destination's %s is older", what),
			fmt.Sprintf("source: %s; destination: %s", version(a), version(b)),
			fmt.Sprintf("upgrade %s at the destination, or move the guest to a host that is as new", what))
	}
	return append(older(IDOlderQEMU, "QEMU", src.QEMUVer, dst.QEMUVer), older(IDOlderLibvirt, "libvirt", src.LibVer, dst.LibVer)...)
}

func version(v migrate.Version) string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// maxSkew is the difference of the clocks from which on a guest's clock or the times of a report mislead.
const maxSkew = time.Second

// ruleClock: the hosts agree on the time.
func ruleClock(f Facts) []Finding {
	src, dst, ok := bothHosts(f)
	if !ok {
		return nil
	}
	fix := "let both hosts follow the same time server: timedatectl set-ntp true"
	if src.Clock.IsZero() || dst.Clock.IsZero() {
		return untold(IDClockSkew, migrate.SideDestination, "whether the hosts' clocks agree", "a host did not tell its time", fix)
	}
	skew := dst.Clock.Sub(dst.Asked) - src.Clock.Sub(src.Asked)
	doubt := src.Uncertainty + dst.Uncertainty
	said := fmt.Sprintf("the destination is %s against the source (±%s)", signed(skew), doubt.Round(time.Millisecond))
	switch {
	case skew.Abs()-doubt > maxSkew:
		return one(IDClockSkew, Warning, migrate.SideDestination, "the hosts' clocks differ", said, fix)
	case skew.Abs()+doubt > maxSkew:
		return untold(IDClockSkew, migrate.SideDestination, "whether the hosts' clocks agree", said, fix)
	}
	return nil
}

func signed(d time.Duration) string {
	if d < 0 {
		return d.Abs().Round(time.Millisecond).String() + " behind"
	}
	return d.Round(time.Millisecond).String() + " ahead"
}

// ruleMachine: the destination's QEMU knows the guest's machine type.
func ruleMachine(f Facts) []Finding {
	t := thereOf(f)
	if t == nil || t.Machine == "" {
		return nil
	}
	if f.Machines.Open() {
		return untold(IDMachineMissing, migrate.SideDestination, "whether machine type "+t.Machine+" exists there", f.Machines.Why,
			virsh(f.Dest.URI, "domcapabilities --machine %s", t.Machine))
	}
	if f.Machines.OK && len(f.Machines.Value) == 0 {
		return one(IDEmulatorMissing, Blocker, migrate.SideDestination, "the guest's emulator is not there",
			orUnknown(t.Emulator), "install it there, or name another with --xml FILE")
	}
	if !f.Machines.OK || slices.Contains(f.Machines.Value, t.Machine) {
		return nil
	}
	return one(IDMachineMissing, Blocker, migrate.SideDestination,
		fmt.Sprintf("the destination's QEMU does not know machine type %s", t.Machine), nearest(t.Machine, f.Machines.Value),
		"install a QEMU there that is at least as new as the source's")
}

// nearest tells which versions of the same machine there are.
func nearest(machine string, have []string) string {
	family := machine
	if i := strings.LastIndexByte(machine, '-'); i > 0 {
		family = machine[:i]
	}
	var same []string
	for _, m := range have {
		if m == family || strings.HasPrefix(m, family+"-") {
			same = append(same, m)
		}
	}
	slices.SortFunc(same, compareVersions)
	const enough = 6
	switch {
	case len(same) == 0:
		return "it knows no " + family
	case len(same) > enough:
		same = append([]string{"…"}, same[len(same)-enough:]...)
	}
	return "it knows " + strings.Join(same, ", ")
}

// compareVersions orders names such as pc-q35-9.2 and pc-q35-10.0 as a person would.
func compareVersions(a, b string) int {
	number := func(s string) (n, rest string) {
		i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
		if i < 0 {
			i = len(s)
		}
		return strings.TrimLeft(s[:i], "0"), s[i:]
	}
	for a != "" && b != "" {
		na, ra := number(a)
		nb, rb := number(b)
		switch {
		case len(na) != len(nb):
			return len(na) - len(nb)
		case na != nb:
			return strings.Compare(na, nb)
		case ra == "" || rb == "":
			return len(ra) - len(rb)
		case ra[0] != rb[0]:
			return int(ra[0]) - int(rb[0])
		}
		a, b = ra[1:], rb[1:]
	}
	return len(a) - len(b)
}

// ruleCPU: the destination offers the guest's CPU.
func ruleCPU(f Facts) []Finding {
	if thereOf(f) == nil {
		return nil
	}
	fix := "give the guest a CPU that both hosts have; virsh hypervisor-cpu-baseline over both hosts' capabilities names one"
	switch {
	case f.CPU.Open():
		return untold(IDCPUMissing, migrate.SideDestination, "whether the guest's CPU is offered there", f.CPU.Why, fix)
	case f.CPU.OK && !f.CPU.Value.Compatible:
		return one(IDCPUMissing, Blocker, migrate.SideDestination, "the guest's CPU is not offered there", f.CPU.Value.Why, fix)
	}
	return nil
}

// ruleMemory: the destination has room for the guest's RAM.
func ruleMemory(f Facts) []Finding {
	t := thereOf(f)
	if t == nil || !f.Dest.Facts.OK || t.Memory == 0 || t.Backing == migrate.BackingHugetlb {
		return nil
	}
	free := f.Dest.Facts.Value.FreeBytes
	if free == nil {
		return untold(IDMemoryShort, migrate.SideDestination, "whether there is enough free memory",
			"the guest needs "+size(t.Memory), "look there: free -m")
	}
	if *free >= t.Memory {
		return nil
	}
	return one(IDMemoryShort, Blocker, migrate.SideDestination, "too little free memory",
		fmt.Sprintf("the guest needs %s, there are %s free", size(t.Memory), size(*free)),
		"move or stop another guest there, or choose another host: "+virsh(f.Dest.URI, "list"))
}

// ruleHugePages: the destination has free huge pages of the guest's size.
func ruleHugePages(f Facts) []Finding {
	t := thereOf(f)
	if t == nil || t.Backing != migrate.BackingHugetlb {
		return nil
	}
	need := "the guest needs " + size(t.Memory) + " in huge pages"
	fix := "reserve them there, for instance: echo N > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	if t.PageSize <= 0 {
		return untold(IDHugePagesShort, migrate.SideDestination, "whether there are enough huge pages", need+" of unknown size", fix)
	}
	n := (t.Memory + t.PageSize - 1) / t.PageSize
	need = fmt.Sprintf("the guest needs %d of %s", n, size(t.PageSize))
	fix = fmt.Sprintf("there: echo %d > /sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages (more if others use some)", n, t.PageSize/1024)
	switch {
	case f.HugePages.Open():
		return untold(IDHugePagesShort, migrate.SideDestination, "whether there are enough huge pages", need+"; "+f.HugePages.Why, fix)
	case f.HugePages.OK && f.HugePages.Value < n:
		return one(IDHugePagesShort, Blocker, migrate.SideDestination, "too few free huge pages",
			fmt.Sprintf("%s, %d are free", need, f.HugePages.Value), fix)
	}
	return nil
}
