package migrate

// ask asks both ends for the first time since something worked.
func (m Machine) ask() (Machine, []Action) {
	m.asks = 0
	return m.askAgain()
}

func (m Machine) askAgain() (Machine, []Action) {
	m.asks++
	m, acts := m.start(StepAsk, m.phase)
	acts[0].Attempt = m.asks
	return m, acts
}

func (m Machine) evidence(e Ends) Evidence {
	owner := OwnerSource
	switch {
	case m.early && !m.copied:
		owner = OwnerUnknown
	case m.committed:
		owner = OwnerDestination
	}
	return Evidence{Owner: owner, Landed: m.landed, Settled: m.watches > 0, Stale: m.stale, Delegated: m.cfg.Delegated, Live: m.live,
		Postcopy: m.cfg.Postcopy && !m.cfg.Agents, Fetching: m.fetching(), Disks: m.cfg.Disks, Suspend: m.cfg.Suspend,
		WasPaused: m.cfg.WasPaused, Undefine: m.cfg.Undefine, Ends: e}
}

// fetching tells that RAM may be missing at the destination without its hypervisor's knowing.
func (m Machine) fetching() bool { return m.cfg.Agents && m.cfg.Postcopy && !m.pagedOK }

// asked decides by what both ends answered. A StepAsk that failed altogether brought no answer from either.
func (m Machine) asked(in Input) (Machine, []Action) {
	ends := in.Ends
	if in.Class != ClassOK {
		ends = Ends{SourceErr: ErrLinkLost, DestErr: ErrLinkLost}
	}
	plan := Decide(m.evidence(ends))
	m.owner = plan.Owner
	m, acts := m.follow(plan)
	for i := range acts {
		if acts[i].Kind == ActionEnd {
			acts[i].End.Plan = &plan
		}
	}
	return m, acts
}

// follow takes the plan's one step, or ends. Every step it takes leads to asking again, which is bounded.
func (m Machine) follow(p Plan) (Machine, []Action) {
	if p.Kind == PlanNothing {
		return m.nothingLeft(p)
	}
	if p.Offers(m.order) {
		return m.obey()
	}
	if (m.asks > m.limit() || m.repairs > maxRepairs) && p.Kind != PlanWatch && (p.Kind != PlanRecover || m.fetching()) {
		return m.leftOver(p)
	}
	switch p.Kind {
	case PlanWatch:
		return m.watch(p)
	case PlanCancelJob:
		return m.start(StepCancelJob, m.phase)
	case PlanDiscard:
		return m.start(StepDiscard, m.phase)
	case PlanResumeSource:
		m.committed, m.early = false, false
		return m.sourceBack()
	case PlanResumeDest:
		return m.start(StepResumeDest, PhaseSwitching)
	case PlanRecover:
		m.recovering, m.runNext = true, p.still
		return m.recover(PhasePaging)
	case PlanFinish:
		return m.finish()
	}
	if m.recovering && p.Owner == OwnerDestination && p.Kind == PlanLater {
		m.runNext = p.still
		return m.recover(PhasePaging)
	}
	if m.asks >= m.limit() || m.interrupted || m.gaveUp {
		return m.leftOver(p)
	}
	return m.askAgain()
}

// obey carries out the operator's choice.
func (m Machine) obey() (Machine, []Action) {
	c := m.order
	m.order = ChoiceNone
	if c == ChoiceSource {
		m.committed, m.early, m.landed, m.owner = false, false, false, OwnerSource
		return m.start(StepResumeSource, m.phase)
	}
	m.committed, m.landed, m.owner, m.obeyed = true, true, OwnerDestination, true
	return m.start(StepRelease, PhaseFinishing)
}

// sourceBack runs the guest on the source: by the Session's own undo where that was not tried, which also closes the
// job that the Session holds on it, else by the host's repair.
func (m Machine) sourceBack() (Machine, []Action) {
	if m.live && !m.undone {
		m.undone = true
		return m.start(StepUndo, m.phase)
	}
	return m.start(StepResumeSource, m.phase)
}

// maxWatches bounds the waits for what should come soon; each is a few seconds.
const maxWatches = 20

func (m Machine) watch(p Plan) (Machine, []Action) {
	if m.interrupted {
		return m.detach()
	}
	m.watches++
	if p.brief && m.watches > maxWatches {
		return m.leftOver(p)
	}
	m, acts := m.start(StepWatch, m.phase)
	acts[0].Brief = p.brief
	return m, acts
}

// finish goes on where an answer was lost: with the Session's own steps if they were not tried, else with the hosts' repair.
func (m Machine) finish() (Machine, []Action) {
	m.landed = true
	switch {
	case m.fetching(): // no decision leads here; and if one did, the source would be needed
		return m.recover(PhasePaging)
	case m.live && m.copied && !m.pagedOK && !m.finishTried && m.phase < PhasePaging:
		return m.page()
	case m.live && m.copied && !m.finishTried:
		return m.start(StepFinish, PhaseFinishing)
	}
	return m.start(StepRelease, PhaseFinishing)
}

func (m Machine) nothingLeft(p Plan) (Machine, []Action) {
	switch p.Runs {
	case SideDestination:
		m.phase = PhaseFinishing
		return m.end(OutcomeCompleted, OwnerDestination, SideDestination, true)
	case SideSource:
		return m.end(m.wayBack(), OwnerSource, SideSource, true)
	}
	return m.end(OutcomeFailed, p.Owner, "", true)
}

// leftOver ends with something left to do, which the journal keeps for a later recover.
func (m Machine) leftOver(p Plan) (Machine, []Action) {
	switch {
	case p.Owner == OwnerUnknown:
		return m.end(OutcomeUnknown, OwnerUnknown, "", false)
	case p.Owner == OwnerDestination && p.Kind != PlanUnknown && p.Runs == "", p.Kind == PlanRecover,
		p.Kind == PlanLater && (m.recovering || m.fetching()):
		return m.end(OutcomePaused, OwnerDestination, "", false)
	case p.Owner == OwnerDestination:
		return m.end(OutcomeFailed, OwnerDestination, p.Runs, false)
	}
	return m.end(m.wayBack(), OwnerSource, p.Runs, false)
}

// maxRepairs bounds the steps that put something right: on two hosts there are not that many things to put right.
const maxRepairs = 12

func (m Machine) limit() int {
	if m.cfg.AskLimit > 0 {
		return m.cfg.AskLimit
	}
	return 6
}
