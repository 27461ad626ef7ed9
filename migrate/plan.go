package migrate

import "slices"

// This file decides, from what the journal says and what both hosts answer, what is to be done with a migration whose
// coordinator died or whose answer was lost. It is pure; the coordinator acts one plan at a time and asks again.
//
// Rules, in this order of weight:
//   - Nobody is resumed while the other side runs the guest, or may run it.
//   - Before the commit the destination cannot run it: nobody told it to.
//   - After the commit the source runs only if the destination answered that it does not run the guest, and was never
//     seen to have run it. A waiting destination is removed first, so that a late order cannot start it any more.
//   - The source is released only when the destination runs the guest and has all of its RAM. What is released may be no
//     more than a definition, if the user asked that none be left.
//   - Where our own agents fetch the RAM, a hypervisor cannot tell that some is missing: it plainly says that the guest
//     runs. Then the record tells (Record.Paged), and before it does nobody releases the source, nor offers to.
//   - What fits none of these is the operator's to decide.

// Evidence is all that a decision rests on.
type Evidence struct {
	// Owner by the journal: source before the commit, destination after it, unknown where the commit was written while
	// the guest still ran on the source (an engine commits early before it asks for post-copy, or before it leaves the
	// whole migration to the source's daemon).
	Owner Owner
	// Landed: the destination was seen to run the guest.
	Landed bool
	// Settled: both ends were watched for a while and nothing changed.
	Settled bool
	// Stale: so long ago that the guest may have run at the destination and ended there without a trace.
	Stale bool
	// Delegated: the source's daemon drives the migration (peer-to-peer) and survives its client.
	Delegated bool
	// Live: a session of ours is open, so a job on the source is our own.
	Live bool
	// Postcopy: QEMU may have left RAM behind on purpose.
	Postcopy bool
	// Fetching: our own agents fetch RAM that was left behind, and the journal does not say yet that all of it arrived.
	// Neither hypervisor knows of it. The source's QEMU is in no post-copy, so that it can run the guest again as long
	// as the destination did not.
	Fetching bool
	// Disks: disks are among it. What the guest wrote to them since it left is at the destination, the rest at the source.
	Disks bool
	// Suspend: the guest is to be left paused at the destination. WasPaused: it stood still on the source before.
	Suspend, WasPaused bool
	// Undefine: the user asked that the source keep no definition of the guest (Params.UndefineSource).
	Undefine bool
	Ends
}

// PlanKind is what to do next.
type PlanKind uint8

// The plans. All but PlanNothing, PlanLater and PlanUnknown are one step, after which both ends are asked again.
const (
	// PlanNothing: nothing is left to do. Plan.Runs says who runs the guest.
	PlanNothing PlanKind = iota + 1
	// PlanWatch: a migration is under way without us; wait.
	PlanWatch
	// PlanCancelJob: stop the job that nobody drives any more on the source.
	PlanCancelJob
	// PlanDiscard: remove the domain that waits at the destination.
	PlanDiscard
	// PlanResumeSource: run the guest on the source.
	PlanResumeSource
	// PlanResumeDest: run the guest on the destination, which has all of its state.
	PlanResumeDest
	// PlanRecover: make the link of the paused post-copy anew.
	PlanRecover
	// PlanFinish: release the source.
	PlanFinish
	// PlanLater: the owner is known, but a host has to answer before the rest can be done.
	PlanLater
	// PlanUnknown: the operator has to decide; nobody is resumed before.
	PlanUnknown
)

var planNames = [...]string{"", "nothing", "watch", "cancel-job", "discard", "resume-source", "resume-destination",
	"recover", "finish", "later", "unknown"}

func (k PlanKind) String() string { return name(planNames[:], uint8(k), "plan") }

// MarshalText writes the plan's name.
func (k PlanKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText accepts exactly the names that MarshalText writes.
func (k *PlanKind) UnmarshalText(b []byte) error { return parse(planNames[:], b, (*uint8)(k), "plan") }

// Plan is what to do next with a migration, and why.
type Plan struct {
	Kind PlanKind `json:"plan"`
	// Owner is who may run the guest, by all that is known now.
	Owner Owner `json:"owner"`
	// Runs is the side that is seen to hold the living guest; empty if neither, or not known.
	Runs Side `json:"runs,omitempty"`
	// Why is one sentence for the operator.
	Why string `json:"why"`
	// Choices is what an operator who looked at both hosts can order with PlanUnknown.
	Choices []Choice `json:"choices,omitempty"`
	// brief: with PlanWatch, what is waited for should come within seconds.
	brief bool
	// still: with PlanRecover and PlanLater, the guest stands still at the destination and is to run once its RAM can be fetched.
	still bool
}

// Choice is an operator's decision where the facts allow none.
type Choice string

// The choices. ChoiceSource: the operator made sure that the destination does not run the guest and never did; the
// source resumes. ChoiceDestination: the destination has the guest; the source's leftover is released.
const (
	ChoiceNone        Choice = ""
	ChoiceSource      Choice = "source"
	ChoiceDestination Choice = "destination"
)

// Offers tells whether the plan leaves c to the operator.
func (p Plan) Offers(c Choice) bool {
	for _, o := range p.Choices {
		if o == c && c != ChoiceNone {
			return true
		}
	}
	return false
}

// Decide says what to do next. It never fails: what it cannot decide safely is PlanUnknown.
func Decide(e Evidence) Plan {
	e.Postcopy = e.Postcopy && !e.Fetching
	p := decide(e)
	if e.Fetching && seenAtSource(e).has() && seenAtDest(e).mayNeed() {
		p.Choices = slices.DeleteFunc(p.Choices, func(c Choice) bool { return c == ChoiceDestination })
	}
	return p
}

func decide(e Evidence) Plan {
	e.Suspend = e.Suspend || e.WasPaused // a guest that its owner has paused is not resumed on either side
	s, d := seenAtSource(e), seenAtDest(e)
	switch {
	case s == sourceRuns:
		return decideSourceRuns(e, d)
	case e.Fetching && e.Disks && e.Landed && (d == destGone || d == destOver):
		return decideDisksLeft()
	case d == destFetches || d == destBroken:
		return decidePostcopy(e, s, d)
	case e.fetches(d):
		return decideFetching(e, s, d)
	case d == destRuns:
		return decideDestRuns(e, s)
	case d == destPaused:
		return decideDestPaused(e, s)
	case d == destWaits:
		return decideDestWaits(e, s)
	case d == destGone:
		return decideDestGone(e, s)
	case d == destOver:
		return decideDestOver(e, s)
	}
	return decideDestSilent(e, s)
}

// decideSourceRuns: one side runs the guest, so the other must not.
func decideSourceRuns(e Evidence, d destView) Plan {
	switch d {
	case destRuns, destFetches, destBroken:
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown,
			Why: "both hosts say that they run the guest: stop one of them by hand at once, its disks are in danger"}
	case destPaused, destOver:
		if d == destPaused && !e.Landed {
			return Plan{Kind: PlanDiscard, Owner: OwnerSource, Runs: SideSource,
				Why: "the source runs the guest; what arrived at the destination and never ran there is cleared"}
		}
		return Plan{Kind: PlanUnknown, Owner: OwnerSource, Runs: SideSource,
			Why: "the source runs the guest, and the destination has a domain of it that is past waiting; it must not be resumed there: destroy it by hand"}
	}
	if e.Landed && d != destGone {
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Runs: SideSource,
			Why: "the source runs the guest although the destination was seen to run it: somebody else has been at work"}
	}
	if e.Source.Job {
		return jobPlan(e, Plan{Owner: ownerOf(e), Runs: SideSource})
	}
	switch {
	case d == destWaits:
		return Plan{Kind: PlanDiscard, Owner: OwnerSource, Runs: SideSource,
			Why: "the source runs the guest; the destination still waits for it and is cleared"}
	case d == destGone:
		return Plan{Kind: PlanNothing, Owner: OwnerSource, Runs: SideSource,
			Why: "the source runs the guest and nothing is left at the destination"}
	case e.Owner == OwnerSource:
		return Plan{Kind: PlanLater, Owner: OwnerSource, Runs: SideSource,
			Why: "the source runs the guest; the destination does not answer, so what may be left there cannot be removed yet"}
	}
	return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Runs: SideSource,
		Why: "the source runs the guest although the destination was allowed to, and the destination does not answer"}
}

// jobPlan is for a migration job that is active on a source that has not sent the guest away.
func jobPlan(e Evidence, p Plan) Plan {
	if e.Delegated {
		p.Kind, p.Why = PlanWatch, "the source's daemon is still migrating; it ends this by itself"
		return p
	}
	p.Kind, p.Why = PlanCancelJob, "a migration job that nobody drives any more is active on the source"
	return p
}

// decidePostcopy: the destination runs the guest, or did until its link broke, and needs the source for the rest of its RAM.
func decidePostcopy(e Evidence, s sourceView, d destView) Plan {
	p := Plan{Owner: OwnerDestination, Runs: SideDestination}
	switch {
	case s == sourceSilent:
		p.Kind, p.Why = PlanLater, "the destination owns the guest; the source, which has the rest of its RAM, does not answer"
	case s == sourceGone || s == sourceStopped:
		p.Kind, p.Why = PlanUnknown, "the destination owns the guest, but the source, which had the rest of its RAM, is gone"
	case d == destBroken:
		p.Kind, p.Why = PlanRecover, "the link of the post-copy is broken; the destination waits for the rest of the RAM"
	default: // libvirt calls a source broken whose client died, though it goes on serving: the destination knows better
		p.Kind, p.Why = PlanWatch, "the destination runs the guest and is fetching the rest of its RAM"
	}
	return p
}

// decideDestRuns: the destination runs the guest with all of its RAM.
func decideDestRuns(e Evidence, s sourceView) Plan {
	p := Plan{Owner: OwnerDestination, Runs: SideDestination}
	if e.mustUndefine() {
		p.Kind, p.Why = PlanFinish, "the destination runs the guest; the source still has its definition, which was to go"
		return p
	}
	if s == sourceGone || s == sourceStopped {
		p.Kind, p.Why = PlanNothing, "the destination runs the guest and the source is released"
		return p
	}
	if e.Owner == OwnerSource && !e.Landed {
		return Plan{Kind: PlanUnknown, Owner: OwnerUnknown, Runs: SideDestination, Choices: []Choice{ChoiceDestination},
			Why: "the destination runs a guest of this name although this migration never let it"}
	}
	switch s {
	case sourceSilent:
		p.Kind, p.Why = PlanLater, "the destination runs the guest; the source does not answer and is not released yet"
	case sourceServes:
		p.Kind, p.Why, p.brief = PlanWatch, "the destination runs the guest; the source is still sending", true
	default:
		p.Kind, p.Why = PlanFinish, "the destination runs the guest; the source can be released"
		if e.Delegated && e.Source.Job {
			p.Kind, p.Why, p.brief = PlanWatch, "the destination runs the guest; the source's daemon is about to release it", true
		}
	}
	return p
}

// mustUndefine tells that a definition which is all that the source has left is to be removed. Where this migration never
// let the destination run, the guest there may be another of its name, and the definition the only one.
func (e Evidence) mustUndefine() bool {
	return e.Undefine && e.Source != nil && e.Source.Run == RunStopped && (e.Owner != OwnerSource || e.Landed)
}

// decideDestPaused: the destination has all of the guest's state, and it stands still there.
func decideDestPaused(e Evidence, s sourceView) Plan {
	p := Plan{Owner: OwnerDestination, Choices: []Choice{ChoiceDestination}}
	switch {
	case !e.Landed && !e.Suspend && (e.Owner == OwnerSource || e.Delegated), !e.Landed && e.Owner == OwnerSource:
		p.Kind, p.Owner = PlanUnknown, ownerOf(e)
		p.Why = "the guest stands still at the destination although this migration never let it run there"
		return p
	case s == sourceBroken:
		p.Kind, p.Why, p.Choices = PlanRecover, "the link of the post-copy is broken", nil
		return p
	case !e.Landed && !e.Suspend && s == sourceSilent:
		p.Kind, p.Owner = PlanUnknown, OwnerUnknown
		p.Why = "the guest stands still at the destination, and the source does not answer"
		return p
	case !e.Landed && !e.Suspend:
		p.Kind, p.Why, p.Choices = PlanResumeDest, "the destination has all of the guest and only has to run it", nil
		return p
	}
	p.Runs, p.Choices = SideDestination, nil
	if e.mustUndefine() {
		p.Kind, p.Why = PlanFinish, "the guest stands paused at the destination; the source still has its definition, which was to go"
		return p
	}
	switch s {
	case sourceGone, sourceStopped:
		p.Kind, p.Why = PlanNothing, "the guest stands paused at the destination and the source is released"
	case sourceSilent:
		p.Kind, p.Why = PlanLater, "the guest stands paused at the destination; the source does not answer and is not released yet"
	case sourceServes:
		p.Kind, p.Why, p.brief = PlanWatch, "the source is still sending", true
	default:
		p.Kind, p.Why = PlanFinish, "the guest stands paused at the destination; the source can be released"
	}
	return p
}
