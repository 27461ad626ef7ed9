package migrate

// Machine is the phase machine of one migration: what happened goes in, what is to be done comes out. It is a value, does no
// I/O, and knows no clock; the same inputs always give the same actions. Coordinator carries the actions out.
//
// The caller's duties: feed InputBegin first and once. Carry out actions in order. Run one step at a time, and feed its
// InputDone exactly once, also when it was cancelled or abandoned. Write Record to the journal before each step starts
// (StepCommit is that write itself). After ActionEnd or ActionDetach feed nothing more; it would be ignored.
type Machine struct {
	cfg     MachineConfig
	phase   Phase
	owner   Owner
	running Step
	attempt int // tries of StepRecover in a row
	asks    int // tries of StepAsk since something last worked

	committed   bool // durable in the journal, and not taken back
	early       bool // committed inside StepCopy
	landed      bool // the destination was seen to run the guest
	stopped     bool // the guest stands still on the source
	copied      bool // StepCopy ended well
	live        bool // a Session is open
	undone      bool // StepUndo was tried
	finishTried bool
	recovering  bool // the link of a post-copy is broken
	pagedOK     bool
	interrupted bool
	gaveUp      bool
	reason      Reason // why it goes back; zero while it goes forward
	stale       bool
	recovery    bool // it goes on from the journal
	runNext     bool // the guest stands still at the destination and runs once its RAM can be fetched
	order       Choice
	obeyed      bool // the source is released by the operator's order
	repairs     int  // steps that put something right
	watches     int
	over        bool
}

// MachineConfig is what does not change during a migration.
type MachineConfig struct {
	// Postcopy: RAM may be left to be fetched after the commit.
	Postcopy bool
	// Agents: our own agents fetch that RAM, and the hypervisors know nothing of it.
	Agents bool
	// Disks: they fetch disks, too.
	Disks bool
	// Delegated, Suspend, WasPaused and Undefine are those of Evidence.
	Delegated, Suspend, WasPaused, Undefine bool
	// AskLimit is how often both ends are asked in a row before the answer is taken for lost. 0 means 6.
	AskLimit int
}

// NewMachine is the machine of a migration that is about to start.
func NewMachine(cfg MachineConfig) Machine {
	return Machine{cfg: cfg, phase: PhaseChecking, owner: OwnerSource}
}

// NewRecovery is the machine of a migration that a coordinator left behind, as the journal has it. Stale is that of
// Evidence.
func NewRecovery(cfg MachineConfig, r Record, stale bool) Machine {
	m := Machine{cfg: cfg, phase: r.Phase, owner: r.Owner, committed: r.Committed, landed: r.Landed, early: r.Owner == OwnerUnknown && r.Committed,
		stale: stale, reason: r.Reason, recovery: true, pagedOK: r.Paged}
	if m.phase == 0 || m.phase == PhaseEnded {
		m.phase = PhaseChecking
	}
	return m
}

// Order gives the machine an operator's choice, which it follows once and only where a plan leaves it to the operator.
func (m Machine) Order(c Choice) Machine {
	m.order = c
	return m
}

// Phase is the phase that the migration is in; after a failure the one it failed in.
func (m Machine) Phase() Phase {
	if m.over && m.phase == PhaseFinishing {
		return PhaseEnded
	}
	return m.phase
}

// Owner is who may run the guest.
func (m Machine) Owner() Owner { return m.owner }

// Running is the step under way; zero if none.
func (m Machine) Running() Step { return m.running }

// Committed tells that the commit is durable and was not taken back by a destination that certainly did not run.
func (m Machine) Committed() bool { return m.committed }

// Landed tells that the destination was seen to run the guest.
func (m Machine) Landed() bool { return m.landed }

// Over tells that the machine has ended.
func (m Machine) Over() bool { return m.over }

// Record is what the journal has to hold before the step under way may start.
func (m Machine) Record() Record {
	return Record{Phase: m.phase, Owner: m.owner, Step: m.running, Committed: m.committed, Landed: m.landed, Reason: m.reason,
		Paged: m.cfg.Postcopy && m.pagedOK}
}

// Step takes one input and returns the machine after it, with what is to be done.
func (m Machine) Step(in Input) (Machine, []Action) {
	if m.over {
		return m, nil
	}
	switch in.Kind {
	case InputBegin:
		return m.begin()
	case InputDone:
		if in.Step == 0 || in.Step != m.running {
			return m, nil
		}
		m.running = 0
		return m.done(in)
	case InputStopped, InputStarted:
		return m.guestMoved(in.Kind == InputStopped), nil
	case InputLanded:
		return m.landedSeen(), nil
	case InputCommitAsked, InputCommitted:
		return m.commitEarly(in.Kind)
	case InputCancel:
		return m.cancel(ReasonCancelled)
	case InputTimeLimit:
		return m.cancelByTime()
	case InputInterrupt:
		return m.interrupt()
	case InputGiveUp:
		return m.giveUp()
	}
	return m, nil
}

func (m Machine) begin() (Machine, []Action) {
	if m.running != 0 {
		return m, nil
	}
	if m.recovery {
		return m.ask()
	}
	return m.start(StepCheck, PhaseChecking)
}

func (m Machine) start(s Step, p Phase) (Machine, []Action) {
	m.running, m.phase = s, p
	return m, []Action{{Kind: ActionStart, Step: s}}
}

// guestMoved follows the guest's stand-still on the source. It may be short-lived: a full disk or an operator can stop a
// guest in the middle of the copy.
func (m Machine) guestMoved(stopped bool) Machine {
	m.stopped = stopped
	if m.running == StepCopy && m.phase == PhaseCopying && stopped {
		m.phase = PhaseSwitching
	} else if m.running == StepCopy && m.phase == PhaseSwitching && !stopped {
		m.phase = PhaseCopying
	}
	return m
}

// landedSeen: from now on the source is never resumed.
func (m Machine) landedSeen() Machine {
	m.landed, m.owner = true, OwnerDestination
	return m
}

// commitEarly handles a commit that the engine asks for inside StepCopy.
func (m Machine) commitEarly(k InputKind) (Machine, []Action) {
	if m.running != StepCopy {
		return m, []Action{{Kind: ActionRefuseCommit}}
	}
	if k == InputCommitAsked {
		if m.reason != 0 || m.interrupted {
			return m, []Action{{Kind: ActionRefuseCommit}}
		}
		return m, []Action{{Kind: ActionCommit}}
	}
	m.committed, m.early = true, true
	if !m.landed {
		m.owner = OwnerUnknown
	}
	return m, nil
}

// cancel goes back if that is still possible. Inside a StepCopy that committed early it is tried: the hypervisor refuses
// it once it is too late, and both ends are asked afterwards in any case.
func (m Machine) cancel(why Reason) (Machine, []Action) {
	switch m.running {
	case StepCheck, StepPrepare, StepCopy:
		if m.reason != 0 {
			return m, nil
		}
		m.reason = why
		kind := ActionCancel
		if m.running == StepCheck {
			kind = ActionAbandon
		}
		return m, []Action{{Kind: kind, Step: m.running}}
	}
	if why == ReasonCancelled && (m.committed || m.running == StepCommit) {
		return m, []Action{{Kind: ActionRefuse}}
	}
	return m, nil
}

// cancelByTime: a limit holds for all before the commit, and for a delegated migration as long as it can be cancelled.
func (m Machine) cancelByTime() (Machine, []Action) {
	if m.committed && !m.cfg.Delegated {
		return m, nil
	}
	return m.cancel(ReasonTimeLimit)
}

func (m Machine) interrupt() (Machine, []Action) {
	if m.interrupted {
		return m, nil
	}
	switch m.running {
	case StepCheck, StepPrepare, StepCopy:
		m.interrupted = true
		return m.cancel(ReasonCancelled)
	}
	m.interrupted = true
	return m, m.leave()
}

func (m Machine) giveUp() (Machine, []Action) {
	if !m.recovering {
		return m, nil
	}
	m.gaveUp = true
	switch m.running {
	case StepRecover, StepAsk:
		return m, []Action{{Kind: ActionAbandon, Step: m.running}}
	}
	return m, nil
}

// leave stops waiting where nothing is harmed by it: while RAM is fetched, a link is made anew, or somebody is asked.
func (m Machine) leave() []Action {
	if !m.mayLeave() {
		return nil
	}
	return []Action{{Kind: ActionAbandon, Step: m.running}}
}

func (m Machine) mayLeave() bool {
	switch m.running {
	case StepPage:
		return m.cfg.Postcopy
	case StepRecover, StepAsk, StepWatch:
		return true
	}
	return false
}
