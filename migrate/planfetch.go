package migrate

// fetches tells that the destination has the guest's state by this migration's doing, and that our agents fetch the rest.
func (e Evidence) fetches(d destView) bool {
	return e.Fetching && (d == destRuns || d == destPaused) && (e.Owner != OwnerSource || e.Landed)
}

// decideFetching: the destination has the guest, and its RAM may be incomplete though its hypervisor does not know it. It
// needs the source's process until the record says otherwise.
func decideFetching(e Evidence, s sourceView, d destView) Plan {
	p := Plan{Owner: OwnerDestination, Runs: SideDestination, still: d == destPaused && !e.Landed && !e.Suspend}
	if p.still {
		p.Runs = ""
	}
	switch s {
	case sourceSilent:
		p.Kind, p.Why = PlanLater, "the destination owns the guest; the source, which has the rest of its RAM, does not answer"
	case sourceGone, sourceStopped:
		p.Kind, p.Choices = PlanUnknown, []Choice{ChoiceDestination}
		p.Why = "the destination owns the guest, but the source, which may have had the rest of its RAM, is gone"
	case sourceServes, sourceBroken:
		p.Kind, p.Why = PlanUnknown, "the source is in a post-copy of QEMU's, which this migration never asked for; it still has the rest of the guest's RAM"
	default:
		p.Kind = PlanRecover
		p.Why = "the destination has the guest and may lack RAM, which the source keeps: it is fetched before anything is released"
	}
	return p
}

// decideDisksLeft: the guest ran at the destination and ended, with its disks in two places. Nothing is released. At the source it
// would not find what it wrote last; at the destination it is whole only on its overlays, which is what a definition there has.
func decideDisksLeft() Plan {
	return Plan{Kind: PlanUnknown, Owner: OwnerDestination, Choices: []Choice{ChoiceDestination},
		Why: "the guest ended at the destination before its disks had all come there: never start it at the source. If it is defined at the destination, " +
			"it can be started there while the agents serve its disks, and vmmigrate recover goes on then. Otherwise put what it wrote there, the overlays " +
			"(.vmmigrate-* beside its images), above the source's images with qemu-img (rebase -u, then convert), and let the source go then"}
}

// has tells that the source may hold RAM of the guest.
func (s sourceView) has() bool { return s != sourceGone && s != sourceStopped }

// mayNeed tells that the destination may have the guest and lack RAM of it.
func (d destView) mayNeed() bool { return d != destGone && d != destOver }
