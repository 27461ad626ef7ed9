package migrate

// done takes the end of a step.
func (m Machine) done(in Input) (Machine, []Action) {
	ok := in.Class == ClassOK
	switch in.Step {
	case StepCheck:
		return m.checked(ok)
	case StepPrepare:
		return m.prepared(ok)
	case StepCopy:
		return m.copyDone(ok)
	case StepCommit:
		return m.commitDone(ok)
	case StepResume:
		return m.resumeDone(in.Class)
	case StepPage:
		return m.pageDone(in.Class)
	case StepRecover:
		return m.recoverDone(in.Class)
	case StepFinish, StepRelease:
		return m.released(ok)
	case StepUndo:
		return m.undoDone(ok)
	case StepAsk:
		return m.asked(in)
	}
	return m.repaired(in.Step, ok)
}

func (m Machine) checked(ok bool) (Machine, []Action) {
	if !ok || m.reason != 0 {
		return m.end(m.wayBack(), OwnerSource, SideSource, true)
	}
	m.live = true
	return m.start(StepPrepare, PhasePreparing)
}

func (m Machine) prepared(ok bool) (Machine, []Action) {
	if !ok || m.reason != 0 {
		return m.back()
	}
	return m.start(StepCopy, PhaseCopying)
}

func (m Machine) copyDone(ok bool) (Machine, []Action) {
	if !ok {
		return m.back()
	}
	m.copied, m.phase = true, PhaseSwitching
	if m.early || m.landed {
		var acts []Action
		if m.reason == ReasonCancelled {
			acts = []Action{{Kind: ActionRefuse}} // it came too late
		}
		m.reason = 0
		m, more := m.afterCommit()
		return m, append(acts, more...)
	}
	if m.reason != 0 {
		return m.back()
	}
	return m.start(StepCommit, PhaseSwitching)
}

func (m Machine) commitDone(ok bool) (Machine, []Action) {
	if !ok {
		return m.back()
	}
	return m.afterCommit()
}

func (m Machine) afterCommit() (Machine, []Action) {
	m.committed, m.owner = true, OwnerDestination
	return m.start(StepResume, PhaseSwitching)
}

// back takes a migration back that has not reached the commit. One that committed early, or whose destination was seen to
// run, cannot be taken back before both ends have answered.
func (m Machine) back() (Machine, []Action) {
	if m.reason == 0 {
		m.reason = ReasonFailed
	}
	if m.committed || m.landed {
		if !m.landed {
			m.owner = OwnerUnknown
		}
		return m.ask()
	}
	m.undone = true
	return m.start(StepUndo, m.phase)
}

func (m Machine) resumeDone(c Class) (Machine, []Action) {
	switch {
	case c == ClassOK:
		m.landed, m.owner = true, OwnerDestination
		return m.page()
	case c == ClassNotLanded && !m.landed && !m.early:
		m.committed, m.owner = false, OwnerSource
		return m.back()
	case c == ClassPaused:
		m.recovering = true
		return m.recover(PhasePaging)
	}
	if !m.landed {
		m.owner = OwnerUnknown
	}
	m.reason = ReasonFailed
	return m.ask()
}

func (m Machine) page() (Machine, []Action) {
	m.recovering, m.attempt, m.asks = false, 0, 0
	m, acts := m.start(StepPage, PhasePaging)
	if m.interrupted {
		acts = append(acts, m.leave()...)
	}
	return m, acts
}

func (m Machine) pageDone(c Class) (Machine, []Action) {
	switch {
	case c == ClassOK:
		m.pagedOK = true
		return m.start(StepFinish, PhaseFinishing)
	case c == ClassPaused, c == ClassLinkLost && m.cfg.Postcopy:
		m.recovering = true
		return m.recover(PhasePaging)
	case c == ClassCancelled && m.interrupted && m.cfg.Postcopy: // else it failed by itself, and may not go on
		return m.detach()
	}
	if m.fetching() {
		m.repairs++ // a recovery follows, later each time, and not for ever
		m.attempt = m.repairs - 1
	}
	return m.ask()
}

// recover tries to make the link anew, unless nobody wants to wait for it any more.
func (m Machine) recover(p Phase) (Machine, []Action) {
	if m.interrupted || m.gaveUp {
		m.phase = p
		return m.endPaused()
	}
	m.attempt++
	m, acts := m.start(StepRecover, p)
	acts[0].Attempt = m.attempt
	return m, acts
}

func (m Machine) recoverDone(c Class) (Machine, []Action) {
	switch c {
	case ClassOK:
		m.live, m.owner = true, OwnerDestination
		if m.runNext {
			m.runNext = false
			return m.start(StepResumeDest, PhasePaging)
		}
		m.landed = true
		return m.page()
	case ClassPaused, ClassLinkLost, ClassCancelled:
		return m.recover(PhasePaging)
	}
	if m.interrupted || m.gaveUp || c == ClassNotSupported { // trying again would not make it supported
		return m.endPaused()
	}
	return m.ask()
}

func (m Machine) endPaused() (Machine, []Action) {
	return m.end(OutcomePaused, OwnerDestination, "", false)
}

func (m Machine) released(ok bool) (Machine, []Action) {
	m.finishTried = true
	switch {
	case ok && m.obeyed:
		return m.end(OutcomeCompleted, OwnerDestination, "", true)
	case ok:
		return m.end(OutcomeCompleted, OwnerDestination, SideDestination, true)
	}
	return m.askAgain()
}

func (m Machine) undoDone(ok bool) (Machine, []Action) {
	if ok && !m.landed {
		return m.end(m.wayBack(), OwnerSource, SideSource, true)
	}
	return m.askAgain()
}

// repaired takes the end of a step after which both ends are asked again.
func (m Machine) repaired(s Step, ok bool) (Machine, []Action) {
	if s == StepWatch && m.interrupted {
		return m.detach()
	}
	if s != StepWatch {
		m.repairs++
	}
	if s == StepResumeDest && ok {
		m.landed, m.owner = true, OwnerDestination
	}
	if ok {
		return m.ask()
	}
	return m.askAgain()
}

func (m Machine) wayBack() Outcome {
	if m.reason == ReasonCancelled || m.reason == ReasonTimeLimit {
		return OutcomeCancelled
	}
	return OutcomeFailed
}

func (m Machine) detach() (Machine, []Action) {
	m.over = true
	return m, []Action{{Kind: ActionDetach, End: End{Owner: m.owner, Runs: SideDestination}}}
}

func (m Machine) end(o Outcome, w Owner, runs Side, final bool) (Machine, []Action) {
	m.over, m.owner = true, w
	e := End{Outcome: o, Owner: w, Runs: runs, Final: final}
	if o != OutcomeCompleted {
		e.Reason = m.reason
		if e.Reason == 0 {
			e.Reason = ReasonFailed
		}
	}
	return m, []Action{{Kind: ActionEnd, End: e}}
}
