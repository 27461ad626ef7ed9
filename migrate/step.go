package migrate

import (
	"context"
	"errors"
)

// Step is one thing that the coordinator does; it does one at a time.
type Step uint8

// The steps. The first nine are an engine's Session, the rest repairs what was left half-done.
const (
	// StepCheck looks at both hosts and opens the Session.
	StepCheck Step = iota + 1
	StepPrepare
	StepCopy
	// StepCommit writes the commit to the journal; only then may the destination run.
	StepCommit
	StepResume
	StepPage
	StepRecover
	StepFinish
	StepUndo
	// StepAsk asks both hosts about the guest.
	StepAsk
	// StepCancelJob stops a job that a dead coordinator left on the source.
	StepCancelJob
	// StepDiscard removes the destination's domain that waits and never ran.
	StepDiscard
	// StepResumeSource and StepResumeDest run a guest that stands still there.
	StepResumeSource
	StepResumeDest
	// StepRelease removes the source's leftover after the destination took over.
	StepRelease
	// StepWatch waits while QEMU or a daemon works on alone.
	StepWatch
)

var stepNames = [...]string{"", "check", "prepare", "copy", "commit", "resume", "page", "recover", "finish", "undo", "ask",
	"cancel-job", "discard", "resume-source", "resume-destination", "release", "watch"}

func (s Step) String() string { return name(stepNames[:], uint8(s), "step") }

// MarshalText writes the name that the journal uses.
func (s Step) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts exactly the names that MarshalText writes.
func (s *Step) UnmarshalText(b []byte) error { return parse(stepNames[:], b, (*uint8)(s), "step") }

// Class is what the Machine has to know of a step's error.
type Class uint8

// The classes. What is none of the others is ClassOther: it may or may not have happened.
const (
	ClassOK Class = iota + 1
	ClassOther
	ClassBlocked
	ClassCancelled
	ClassPaused
	ClassNotLanded
	ClassLinkLost
	ClassNotSupported
)

var classNames = [...]string{"", "ok", "other", "blocked", "cancelled", "paused", "not-landed", "link-lost", "not-supported"}

func (c Class) String() string { return name(classNames[:], uint8(c), "class") }

// UnmarshalText accepts exactly the names that String gives.
func (c *Class) UnmarshalText(b []byte) error { return parse(classNames[:], b, (*uint8)(c), "class") }

// ClassOf sorts an error. ErrNotLanded is believed only when nothing in the error says that an answer was lost.
func ClassOf(err error) Class {
	switch {
	case err == nil:
		return ClassOK
	case errors.Is(err, ErrLinkLost):
		return ClassLinkLost
	case errors.Is(err, ErrOwnerUnknown):
		return ClassOther
	case errors.Is(err, ErrNotLanded):
		return ClassNotLanded
	case errors.Is(err, ErrPaused):
		return ClassPaused
	case errors.Is(err, ErrBlocked):
		return ClassBlocked
	case errors.Is(err, ErrNotSupported):
		return ClassNotSupported
	case errors.Is(err, ErrCancelled), errors.Is(err, context.Canceled):
		return ClassCancelled
	}
	return ClassOther
}

// InputKind is what happened.
type InputKind uint8

// The inputs of the Machine.
const (
	// InputBegin starts it; it comes once, first.
	InputBegin InputKind = iota + 1
	// InputDone: the running Step ended, with its Class; StepAsk brings Ends.
	InputDone
	// InputStopped: the guest stands still on the source; InputStarted: it runs there again.
	InputStopped
	InputStarted
	// InputLanded: the destination was seen to run the guest.
	InputLanded
	// InputCommitAsked: the engine wants to commit inside StepCopy. InputCommitted: that commit is durable.
	InputCommitAsked
	InputCommitted
	// InputCancel: someone asked to cancel; it has no effect after the commit.
	InputCancel
	// InputInterrupt: the caller wants to leave. Before the commit it cancels, after it it stops waiting where that is safe.
	InputInterrupt
	// InputTimeLimit: the time for all before the commit is up.
	InputTimeLimit
	// InputGiveUp: the time for recovery is up.
	InputGiveUp
)

var inputNames = [...]string{"", "begin", "done", "stopped", "started", "landed", "commit-asked",
	"committed", "cancel", "interrupt", "time-limit", "give-up"}

func (k InputKind) String() string { return name(inputNames[:], uint8(k), "input") }

// UnmarshalText accepts exactly the names that String gives.
func (k *InputKind) UnmarshalText(b []byte) error {
	return parse(inputNames[:], b, (*uint8)(k), "input")
}

// Input is one thing that happened, as the Machine sees it.
type Input struct {
	Kind InputKind
	// Step and Class belong to InputDone; Ends to InputDone of StepAsk that is ClassOK.
	Step  Step
	Class Class
	Ends  Ends
}

// ActionKind is what is to be done.
type ActionKind uint8

// The actions. ActionStart starts a Step; ActionCancel asks the running Step to end early and undone; ActionAbandon ends
// its context, so that it only stops waiting. ActionEnd and ActionDetach are the last.
const (
	ActionStart ActionKind = iota + 1
	ActionCancel
	ActionAbandon
	// ActionCommit: write the early commit that the engine asked for; ActionRefuseCommit: do not, the migration goes back.
	ActionCommit
	ActionRefuseCommit
	// ActionRefuse: a request to cancel came after the commit.
	ActionRefuse
	// ActionDetach: the caller leaves, the migration goes on.
	ActionDetach
	ActionEnd
)

var actionNames = [...]string{"", "start", "cancel", "abandon", "commit", "refuse-commit", "refuse-cancel", "detach", "end"}

func (k ActionKind) String() string { return name(actionNames[:], uint8(k), "action") }

// Action is one thing for the coordinator to do.
type Action struct {
	Kind ActionKind
	// Step to start, cancel or abandon; Attempt counts tries of StepRecover and StepAsk from 1, for the back-off.
	Step    Step
	Attempt int
	// Brief: with StepWatch, what is waited for should come within seconds.
	Brief bool
	// End is set with ActionEnd and ActionDetach.
	End End
}

// End is how a migration ended or was left.
type End struct {
	// Outcome is zero when the coordinator detached: the migration goes on.
	Outcome Outcome
	Owner   Owner
	// Runs is the side that is known to run the guest now (or to hold it paused as it was asked to be); empty: not known, or nobody.
	Runs Side
	// Reason is why the migration did not complete; zero if it did.
	Reason Reason
	// Final: nothing is left to recover.
	Final bool
	// Plan is what was decided last after both ends were asked; nil if they were not.
	Plan *Plan
}

// Reason is why a migration goes back.
type Reason uint8

// The reasons.
const (
	ReasonFailed Reason = iota + 1
	ReasonCancelled
	ReasonTimeLimit
)

var reasonNames = [...]string{"", "failed", "cancelled", "time-limit"}

func (r Reason) String() string { return name(reasonNames[:], uint8(r), "reason") }

// MarshalText writes the name that the journal uses.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText accepts exactly the names that MarshalText writes.
func (r *Reason) UnmarshalText(b []byte) error {
	return parse(reasonNames[:], b, (*uint8)(r), "reason")
}
