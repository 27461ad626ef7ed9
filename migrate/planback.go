package migrate

import "errors"

// decideDestWaits: the destination waits and has never run the guest, but may have been told to.
func decideDestWaits(e Evidence, s sourceView) Plan {
	if e.Landed {
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Choices: []Choice{ChoiceDestination},
			Why: "the destination was seen to run the guest and now says that it waits for one"}
	}
	if e.Delegated && e.Source != nil && e.Source.Job {
		return jobPlan(e, Plan{Owner: OwnerUnknown})
	}
	postcopy := s == sourceServes || s == sourceBroken
	switch {
	case postcopy && e.Fetching:
		return Plan{Kind: PlanUnknown, Owner: ownerOf(e),
			Why: "the source is in a post-copy of QEMU's, which this migration never asked for; neither side runs the guest"}
	case postcopy && e.Owner != OwnerSource:
		return waitsInPostcopy(s)
	case postcopy:
		return Plan{Kind: PlanUnknown, Owner: ownerOf(e),
			Why: "the source went over to post-copy before the commit was written; neither side runs the guest"}
	case e.Owner == OwnerSource && e.Source != nil && e.Source.Job:
		return jobPlan(e, Plan{Owner: OwnerSource})
	case e.Owner == OwnerSource && s == sourceStill && !e.WasPaused:
		return Plan{Kind: PlanResumeSource, Owner: OwnerSource,
			Why: "the commit was never written, so the destination cannot run: the source runs, then the destination is cleared"}
	case e.Owner == OwnerSource:
		return Plan{Kind: PlanDiscard, Owner: OwnerSource, Why: "the commit was never written: the destination is cleared"}
	case s == sourceStill && e.Postcopy && e.Source.Run == RunMigrated && e.Source.Job:
		return Plan{Kind: PlanWatch, Owner: OwnerUnknown, brief: true,
			Why: "the source is sending the last of the guest, or has gone over to post-copy; the destination has not taken it in yet"}
	case s == sourceStill && !e.Settled:
		return Plan{Kind: PlanWatch, Owner: OwnerUnknown, brief: true,
			Why: "the destination waits; an order to run may still be on its way to it"}
	case s == sourceStill:
		return Plan{Kind: PlanDiscard, Owner: OwnerUnknown,
			Why: "the destination waits and never ran the guest: it is cleared first, so that nothing can start it there any more"}
	case s == sourceSilent:
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Why: "the destination waits and the source does not answer"}
	}
	return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Why: "the destination waits for a guest that the source does not have any more"}
}

// waitsInPostcopy: the device state went over and the source cannot go back; the destination must not be removed.
func waitsInPostcopy(s sourceView) Plan {
	if s == sourceBroken {
		return Plan{Kind: PlanRecover, Owner: OwnerDestination, Why: "the link of the post-copy broke before the destination ran"}
	}
	return Plan{Kind: PlanResumeDest, Owner: OwnerDestination, Why: "the source went over to post-copy; the destination only has to run"}
}

// decideDestGone: the destination answers that it has no running domain of the guest.
func decideDestGone(e Evidence, s sourceView) Plan {
	switch s {
	case sourceSilent:
		return goneAndSilent(e)
	case sourceGone, sourceStopped:
		return Plan{Kind: PlanNothing, Owner: definite(e), Why: "the guest runs on neither host; nothing is left to move"}
	}
	if e.Landed {
		return Plan{Kind: PlanUnknown, Owner: OwnerDestination, Choices: []Choice{ChoiceSource, ChoiceDestination},
			Why: "the guest ran at the destination and is gone there; what the source holds is older than its disks"}
	}
	if e.Owner == OwnerSource {
		if e.Source.Job {
			return jobPlan(e, Plan{Owner: OwnerSource})
		}
		if e.WasPaused && s == sourceStill {
			return Plan{Kind: PlanNothing, Owner: OwnerSource, Runs: SideSource, Why: "the guest stands paused on the source, as it did before"}
		}
		return Plan{Kind: PlanResumeSource, Owner: OwnerSource, Why: "the commit was never written and the destination is clear: the source runs"}
	}
	if s != sourceStill {
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Choices: []Choice{ChoiceSource},
			Why: "the source went over to post-copy and the destination is gone; whether the guest ran there is not known"}
	}
	if e.Stale {
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Choices: []Choice{ChoiceSource, ChoiceDestination},
			Why: "the destination does not have the guest, but so much time has passed that it may have run there and ended"}
	}
	if e.Source.Job && (e.Delegated || !e.Live) {
		return jobPlan(e, Plan{Owner: OwnerUnknown})
	}
	if e.WasPaused && !e.Source.Job {
		return Plan{Kind: PlanNothing, Owner: OwnerSource, Runs: SideSource,
			Why: "the destination does not have the guest, which stands paused on the source, as it did before"}
	}
	return Plan{Kind: PlanResumeSource, Owner: OwnerSource,
		Why: "the destination answers that it does not have the guest, and it was never seen to run there: the source runs"}
}

func goneAndSilent(e Evidence) Plan {
	if e.Owner == OwnerSource && !e.Landed {
		return Plan{Kind: PlanLater, Owner: OwnerSource, Why: "the source owns the guest and does not answer; nothing is left at the destination"}
	}
	return Plan{Kind: PlanUnknown, Owner: definite(e), Why: "the destination does not have the guest and the source does not answer"}
}

// decideDestOver: the guest ran at the destination and ended there, or went on to a third host.
func decideDestOver(e Evidence, s sourceView) Plan {
	if s == sourceGone || s == sourceStopped {
		return Plan{Kind: PlanNothing, Owner: OwnerDestination, Why: "the guest ran at the destination and ended there (" + e.Dest.Reason + "); the source is released"}
	}
	return Plan{Kind: PlanUnknown, Owner: OwnerDestination, Choices: []Choice{ChoiceDestination},
		Why: "the guest ran at the destination and does not run there now (" + string(e.Dest.Run) + "); what the source holds is older than its disks"}
}

// decideDestSilent: the destination does not answer, and the source does not run the guest.
func decideDestSilent(e Evidence, s sourceView) Plan {
	switch {
	case e.Landed:
		return Plan{Kind: PlanLater, Owner: OwnerDestination, Why: "the destination owns the guest and does not answer"}
	case e.Delegated && e.Source != nil && e.Source.Job:
		return jobPlan(e, Plan{Owner: OwnerUnknown})
	case e.Owner != OwnerSource && errors.Is(e.DestErr, ErrMute):
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown,
			Why: "the destination's QEMU lives and does not answer: it may yet run the guest, so nobody else is to. If it stays so, end that process and recover again: the source has the guest then"}
	case e.Owner != OwnerSource:
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Choices: silentChoices(s),
			Why: "the destination may run the guest and does not answer; nobody is resumed"}
	case s == sourceSilent:
		return Plan{Kind: PlanLater, Owner: OwnerSource, Why: "the source owns the guest; neither host answers"}
	case s == sourceGone || s == sourceStopped:
		return Plan{Kind: PlanLater, Owner: OwnerSource, Why: "the guest ended on the source; the destination does not answer, so what may be left there cannot be removed yet"}
	case e.Source.Job:
		return jobPlan(e, Plan{Owner: OwnerSource})
	case e.WasPaused && s == sourceStill:
		return Plan{Kind: PlanLater, Owner: OwnerSource, Runs: SideSource,
			Why: "the guest stands paused on the source, as it did before; the destination does not answer"}
	}
	return Plan{Kind: PlanResumeSource, Owner: OwnerSource, Why: "the commit was never written, so the destination cannot run: the source runs"}
}

func silentChoices(s sourceView) []Choice {
	switch s {
	case sourceStill, sourceServes, sourceBroken:
		return []Choice{ChoiceSource, ChoiceDestination}
	}
	return nil
}

// ownerOf is the owner where the ends add nothing to what the journal says.
func ownerOf(e Evidence) Owner {
	switch {
	case e.Landed:
		return OwnerDestination
	case e.Owner == OwnerSource:
		return OwnerSource
	}
	return OwnerUnknown
}

// definite is the owner where the guest is nowhere to be seen: who had it last.
func definite(e Evidence) Owner {
	if e.Landed {
		return OwnerDestination
	}
	if e.Owner == 0 {
		return OwnerUnknown
	}
	return e.Owner
}

// sourceView and destView are what an end's answer comes down to.
type sourceView uint8

const (
	sourceSilent  sourceView = iota + 1 // could not be asked
	sourceGone                          // has no such domain
	sourceStopped                       // has its definition; the process is gone
	sourceStill                         // has it, standing still
	sourceServes                        // has it, standing still, its RAM being fetched
	sourceBroken                        // the same with a broken link
	sourceRuns
)

type destView uint8

const (
	destSilent  destView = iota + 1
	destGone             // has no such domain, or only its definition
	destWaits            // waits for it and never ran it
	destPaused           // has it, standing still
	destFetches          // runs it, fetching RAM
	destBroken           // the same with a broken link
	destRuns
	destOver // ran it; it crashed there or went on to another host
)

func seenAtSource(e Evidence) sourceView {
	if e.SourceErr != nil && !errors.Is(e.SourceErr, ErrNoDomain) {
		return sourceSilent
	}
	if e.Source == nil {
		return sourceGone
	}
	switch e.Source.Run {
	case RunRunning:
		return sourceRuns
	case RunPaused:
		return sourceStill
	case RunMigrated:
		if e.Source.Job && e.Postcopy && !e.Live && !e.Delegated {
			return sourceServes // a job that outlives its client and has stopped the guest for good
		}
		return sourceStill
	case RunPostcopy:
		return sourceServes
	case RunPostcopyPaused:
		return sourceBroken
	case RunStopped, RunCrashed:
		return sourceStopped
	}
	return sourceSilent // a state that nobody here knows is no answer
}

func seenAtDest(e Evidence) destView {
	if e.DestErr != nil && !errors.Is(e.DestErr, ErrNoDomain) {
		return destSilent
	}
	if e.Dest == nil {
		return destGone
	}
	switch e.Dest.Run {
	case RunStopped:
		return destGone
	case RunIncoming:
		return destWaits
	case RunPaused:
		return destPaused
	case RunPostcopy:
		return destFetches
	case RunPostcopyPaused:
		return destBroken
	case RunRunning:
		return destRuns
	case RunCrashed, RunMigrated:
		return destOver
	}
	return destSilent
}
