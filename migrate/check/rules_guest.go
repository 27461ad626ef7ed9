package check

import (
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// ruleDomain: the domain exists and runs at the source.
func ruleDomain(f Facts) []Finding {
	list := virsh(f.Source.URI, "list --all")
	switch {
	case f.Guest.Open():
		return untold(IDNoDomain, migrate.SideSource, "whether the source has the domain "+f.Domain, f.Guest.Why, list)
	case !f.Guest.OK:
		return nil
	case f.Guest.Value == nil:
		return one(IDNoDomain, Blocker, migrate.SideSource, fmt.Sprintf("there is no domain %q", f.Domain), "", list)
	}
	state := f.Guest.Value.State
	said := string(state.Run)
	if state.Reason != "" {
		said += " (" + state.Reason + ")"
	}
	switch state.Run {
	case migrate.RunRunning:
		return nil
	case migrate.RunPaused:
		return one(IDPaused, Warning, migrate.SideSource, "the guest is paused, and will be at the destination", said,
			virsh(f.Source.URI, "resume %s", shellWord(f.Domain)))
	case migrate.RunPostcopyPaused, migrate.RunPostcopy, migrate.RunMigrated:
		if f.Params.Resume {
			return nil
		}
		return one(IDNotRunning, Blocker, migrate.SideSource, "an earlier migration of the guest is not finished",
			"its state is "+said, "vmmigrate recover "+shellWord(f.Domain))
	}
	return one(IDNotRunning, Blocker, migrate.SideSource, "the guest does not run at the source", "its state is "+said,
		virsh(f.Source.URI, "start %s", shellWord(f.Domain)))
}

// ruleJobs: no migration and no block job is under way.
func ruleJobs(f Facts) []Finding {
	g := guestOf(f)
	if g == nil {
		return nil
	}
	var out []Finding
	if g.State.Job && !f.Params.Resume {
		out = one(IDMigrationRunning, Blocker, migrate.SideSource, "a job already runs on the guest",
			"another migration, a save, a dump or a backup", "vmmigrate status "+shellWord(f.Domain))
	}
	if jobs := f.BlockJobs; jobs.Open() {
		out = append(out, untold(IDBlockJob, migrate.SideSource, "whether block jobs run on the guest", jobs.Why, "")...)
	} else if len(jobs.Value) > 0 {
		out = append(out, one(IDBlockJob, Blocker, migrate.SideSource, "a block job runs on the guest",
			strings.Join(jobs.Value, ", "), "wait for it, or end it: "+
				virsh(f.Source.URI, "blockjob %s DISK --abort", shellWord(f.Domain)))...)
	}
	return out
}

// largestRing is the most entries that QEMU takes for KVM's dirty ring.
const largestRing = 65536

// ruleWritesLost: where QEMU's own tracking of what a guest writes was seen to miss some of it, so that the guest arrived damaged.
// Agents track in another way.
func ruleWritesLost(f Facts) []Finding {
	g := guestOf(f)
	if g == nil || byNBD(f) {
		return nil
	}
	var out []Finding
	if n := dirtyRing(g.XML); n > 0 && n < largestRing && g.Accel != "tcg" {
		out = one(IDDirtyRing, Warning, migrate.SideSource, "the guest's KVM dirty ring is small, and QEMU may miss writes when it is full",
			fmt.Sprintf("%d entries; with 4096, QEMU 10.0 under nested KVM lost writes in one of five migrations, and in none with %d", n, largestRing),
			fmt.Sprintf("give it <dirty-ring state='on' size='%d'/> or none, and restart it; or use --engine nbd", largestRing))
	}
	if g.Accel == "tcg" && g.VCPUs > 1 {
		out = append(out, one(IDTCGCPUs, Warning, migrate.SideSource, "QEMU's own migration may miss writes of an emulated guest with several processors",
			fmt.Sprintf("it has %d, under TCG; QEMU 10.0 damaged such guests in tests", g.VCPUs), "suspend it meanwhile, or use --engine nbd")...)
	}
	return out
}

// ruleSnapshots: libvirt keeps snapshots at the source and refuses to leave them behind.
func ruleSnapshots(f Facts) []Finding {
	switch {
	case f.Snapshots.Open():
		return untold(IDSnapshots, migrate.SideSource, "whether the domain has snapshots", f.Snapshots.Why,
			virsh(f.Source.URI, "snapshot-list %s", shellWord(f.Domain)))
	case f.Snapshots.Value > 0:
		return one(IDSnapshots, Blocker, migrate.SideSource, "the domain has snapshots, which libvirt does not migrate",
			fmt.Sprintf("%d of them", f.Snapshots.Value),
			virsh(f.Source.URI, "snapshot-delete %s --current --metadata", shellWord(f.Domain)))
	}
	return nil
}

// ruleHypervisorBlocks: QEMU knows reasons of its own.
func ruleHypervisorBlocks(f Facts) []Finding {
	if len(f.Blockers.Value) == 0 {
		return nil
	}
	return one(IDHypervisorBlocks, Blocker, migrate.SideSource, "QEMU says that the guest cannot be migrated",
		strings.Join(f.Blockers.Value, "; "), "remove the device or job that is named, then check again")
}

// ruleNamesake: the destination may know the name only as this very domain, and it must not be active there.
func ruleNamesake(f Facts) []Finding {
	g := guestOf(f)
	if g == nil || f.Params.Resume {
		return nil
	}
	name := destinationName(f)
	if f.Namesake.Open() {
		return untold(IDNameTaken, migrate.SideDestination, fmt.Sprintf("whether the name %s is free there", name), f.Namesake.Why, "")
	}
	other := f.Namesake.Value
	if other == nil {
		return nil
	}
	if other.UUID != g.UUID || g.UUID == "" {
		return one(IDNameTaken, Blocker, migrate.SideDestination, fmt.Sprintf("another domain is named %s there", name),
			fmt.Sprintf("its UUID is %s and it is %s; the guest's UUID is %s", orUnknown(other.UUID), other.State.Run, orUnknown(g.UUID)),
			fmt.Sprintf("migrate under another name (--dname NEW), or rename the other: %s",
				virsh(f.Dest.URI, "domrename %s NEW", shellWord(name))))
	}
	return sameDomain(f, other)
}

// sameDomain is about the guest's own definition at the destination.
func sameDomain(f Facts, other *migrate.DomainFacts) []Finding {
	if other.State.Run == migrate.RunStopped || other.State.Run == migrate.RunCrashed {
		return one(IDDefinedThere, Info, migrate.SideDestination, "the domain is defined there already, and not running",
			"its definition gives way to the guest's", "")
	}
	return one(IDRunningThere, Blocker, migrate.SideDestination, "the domain is already active there",
		fmt.Sprintf("%s is %s at the destination: two guests may be running", other.Name, other.State.Run),
		"find out which one is right, then: "+virsh(f.Dest.URI, "destroy %s", shellWord(other.Name)))
}

// ruleTwin: the guest's UUID must not belong to a domain of another name there.
func ruleTwin(f Facts) []Finding {
	g := guestOf(f)
	if g == nil || f.Params.Resume {
		return nil
	}
	if f.Twin.Open() {
		return untold(IDUUIDTaken, migrate.SideDestination, "whether the guest's UUID is free there", f.Twin.Why, "")
	}
	other := f.Twin.Value
	if other == nil || other.Name == destinationName(f) {
		return nil // of the same name it is ruleNamesake's
	}
	return one(IDUUIDTaken, Blocker, migrate.SideDestination, "a domain of another name has the guest's UUID there",
		fmt.Sprintf("%s has %s and is %s", other.Name, other.UUID, other.State.Run),
		"remove it if it is a leftover: "+virsh(f.Dest.URI, "undefine %s", shellWord(other.Name)))
}

// ruleDestinationXML: the XML for the destination can be read.
func ruleDestinationXML(f Facts) []Finding {
	if !f.There.Open() {
		return nil
	}
	return one(IDXMLInvalid, Blocker, migrate.SideCoordinator, "the XML for the destination cannot be read", f.There.Why,
		"start from the output of: "+virsh(f.Source.URI, "dumpxml --migratable %s", shellWord(f.Domain)))
}

// destinationName is what the domain will be called there.
func destinationName(f Facts) string {
	if f.Params.DestinationName != "" {
		return f.Params.DestinationName
	}
	if g := guestOf(f); g != nil && g.Name != "" {
		return g.Name
	}
	return f.Domain
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
