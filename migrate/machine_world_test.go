package migrate

import (
	"fmt"
	"math/rand/v2"
)

// world is two hosts and a link as they may be: what a step does to them is decided by chance, and what the coordinator
// hears of it is another matter. It knows nothing of the Machine, so that it can judge it.
type world struct {
	rng      *rand.Rand
	postcopy bool
	p2p      bool
	agents   bool // RAM is fetched by agents, which the hypervisors know nothing of
	served   bool // agents serve the destination's faults

	source, dest RunState // "" = no such domain
	job          bool     // a job is active on the source
	late         bool     // an order to run is still on its way to the destination
	ran          bool     // the destination has run the guest
	complete     bool     // the destination has all RAM
	early        bool     // StepCopy committed
	committed    bool     // the journal holds a commit
	everCommit   bool
	certain      bool // the destination answered for certain, since its last change, that it does not run
	log          []string
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func (w *world) say(format string, a ...any) { w.log = append(w.log, fmt.Sprintf(format, a...)) }

// fails: a step answers well, or is refused, or its answer is lost.
func (w *world) class() Class {
	if w.chance(0.6) {
		return ClassOK
	}
	return []Class{ClassOther, ClassLinkLost, ClassCancelled}[w.rng.IntN(3)]
}

// do carries out a step on the world and returns what the coordinator hears, or an error when an invariant breaks.
func (w *world) do(s Step) (Input, error) {
	in := Input{Kind: InputDone, Step: s, Class: w.class()}
	switch s {
	case StepPrepare:
		if in.Class == ClassOK || w.chance(0.5) {
			w.dest = RunIncoming
		}
	case StepCopy:
		w.copy(&in)
	case StepCommit:
		if in.Class == ClassOK {
			w.committed, w.everCommit = true, true
		}
	case StepResume:
		return in, w.resume(&in)
	case StepPage, StepRecover:
		w.paging(&in)
	case StepFinish, StepRelease:
		return in, w.release(&in)
	case StepUndo:
		return in, w.undo(&in)
	case StepAsk:
		w.ask(&in)
	case StepCancelJob, StepDiscard, StepResumeSource, StepResumeDest, StepWatch:
		return in, w.repair(s, &in)
	}
	return in, w.check()
}

func (w *world) copy(in *Input) {
	w.job = true
	switch {
	case w.early && w.p2p:
		w.job = false
		if in.Class == ClassOK {
			w.source, w.dest, w.ran, w.complete = RunMigrated, RunRunning, true, true
		} else if w.chance(0.5) { // the daemon goes on
			w.job = true
		} else {
			w.dest = ""
		}
	case w.agents && w.early && (in.Class == ClassOK || w.chance(0.5)):
		w.source, w.job, w.served = RunMigrated, w.chance(0.5), true
		if in.Class != ClassOK && w.chance(0.3) {
			w.run() // by an order that went out early
		}
	case w.early && !w.agents && (in.Class == ClassOK || w.chance(0.5)):
		w.source, w.job = RunPostcopy, true
	case in.Class == ClassOK:
		w.source = RunPaused
	default:
		w.job = w.chance(0.3)
		if w.chance(0.3) {
			w.source = RunPaused
		}
	}
}

// resume: the order may be carried out, or later, or never, and each answer may be lost.
func (w *world) resume(in *Input) error {
	if !w.committed {
		return fmt.Errorf("the destination was told to run before the commit was written")
	}
	if w.ran {
		return nil
	}
	w.served = w.agents
	switch {
	case in.Class == ClassOK:
		w.run()
	case w.agents && w.chance(0.3): // all is there but the order to run
		w.source, w.dest = RunMigrated, RunPaused
	case w.chance(0.3):
		w.run() // and the answer was lost
		if !w.complete && w.chance(0.5) {
			w.source, w.dest, in.Class = RunPostcopyPaused, RunPostcopyPaused, ClassPaused
		}
	case w.chance(0.5):
		w.late = true
	case w.chance(0.5) && !w.early:
		w.dest, w.certain, in.Class = "", true, ClassNotLanded
	default:
		w.dest = ""
	}
	return w.check()
}

func (w *world) run() {
	w.dest, w.ran, w.late = RunRunning, true, false
	if w.agents && w.postcopy { // the hypervisors see a plain migration
		w.complete, w.source = false, RunMigrated
		return
	}
	w.complete = w.source != RunPostcopy && w.source != RunPostcopyPaused
	if !w.complete {
		w.dest = RunPostcopy
	} else if w.source == RunPaused {
		w.source = RunMigrated
	}
}

func (w *world) paging(in *Input) {
	if w.agents && w.postcopy {
		w.agentsPage(in)
		return
	}
	if w.dest != RunPostcopy && w.dest != RunPostcopyPaused {
		if !w.complete {
			in.Class = ClassOther
		}
		return
	}
	if in.Class != ClassOK && w.chance(0.5) {
		in.Class = ClassPaused
	}
	if in.Class == ClassOK {
		w.source, w.dest, w.complete, w.job = RunMigrated, RunRunning, true, false
	} else {
		w.source, w.dest = RunPostcopyPaused, RunPostcopyPaused
	}
}

// agentsPage: a recovery attaches agents to a destination that has the guest; what pages is theirs.
func (w *world) agentsPage(in *Input) {
	has := w.dest == RunRunning || w.dest == RunPaused
	switch {
	case w.complete:
	case !has || w.source == "":
		in.Class = ClassOther
	case in.Step == StepRecover:
		w.served = in.Class == ClassOK
	case !w.served:
		in.Class = ClassPaused
	case in.Class == ClassOK:
		w.complete = true
	case w.chance(0.5):
		w.served, in.Class = false, ClassPaused
	}
}

func (w *world) release(in *Input) error {
	if in.Class != ClassOK && w.chance(0.5) {
		return nil
	}
	if w.source == RunRunning {
		return fmt.Errorf("the source was released while it ran the guest")
	}
	if w.source != "" && !(w.ran && w.complete) {
		return fmt.Errorf("the source was released while the destination lacks the guest (%q, ran %v, complete %v)", w.dest, w.ran, w.complete)
	}
	w.source, w.job = "", false
	return w.check()
}

func (w *world) undo(in *Input) error {
	if w.committed && !w.certain {
		return fmt.Errorf("undone after the commit although the destination did not answer for certain")
	}
	if in.Class == ClassOK || w.chance(0.4) {
		w.dest, w.late = "", false
		return w.runSource()
	}
	return w.check()
}

func (w *world) runSource() error {
	if w.ran {
		return fmt.Errorf("the source was resumed although the destination ran the guest")
	}
	if w.late {
		return fmt.Errorf("the source was resumed while an order to run was on its way to the destination")
	}
	if w.everCommit && !w.certain {
		return fmt.Errorf("the source was resumed after the commit although the destination did not answer for certain")
	}
	w.source, w.job = RunRunning, false
	return w.check()
}

// ask lets the world move on a little, then answers truly, unless an end is silent.
func (w *world) ask(in *Input) {
	if w.late && w.chance(0.5) && w.dest == RunIncoming {
		w.run()
	}
	if w.job && w.source == RunRunning && w.chance(0.5) {
		w.job = false
		if w.p2p && w.early && w.chance(0.5) {
			w.source, w.dest, w.ran, w.complete = RunMigrated, RunRunning, true, true
		} else {
			w.dest = ""
		}
	}
	in.Class = ClassOK
	in.Ends = Ends{Source: w.state(w.source, w.job), Dest: w.state(w.dest, false)}
	if w.chance(0.3) {
		in.Ends.Source, in.Ends.SourceErr = nil, ErrLinkLost
	}
	if w.chance(0.3) {
		in.Ends.Dest, in.Ends.DestErr = nil, ErrLinkLost
	} else if w.dest == "" {
		w.certain = true
	}
	if w.chance(0.1) {
		*in = Input{Kind: InputDone, Step: StepAsk, Class: ClassOther}
	}
}

func (w *world) state(r RunState, job bool) *GuestState {
	if r == "" {
		return nil
	}
	return &GuestState{Run: r, Job: job}
}

func (w *world) repair(s Step, in *Input) error {
	done := in.Class == ClassOK
	switch s {
	case StepDiscard:
		if w.dest != RunIncoming && w.dest != "" {
			in.Class = ClassOther // refused: it runs or ran
			return nil
		}
		if done {
			w.dest, w.late = "", false
		}
	case StepResumeSource:
		if done {
			return w.runSource()
		}
	case StepResumeDest:
		if w.agents && w.postcopy && !w.complete && !w.served {
			return fmt.Errorf("the guest was run where nobody serves its faults")
		}
		if complete := w.complete; done && (w.dest == RunIncoming || w.dest == RunPaused) {
			w.run()
			w.complete = w.complete || complete
		}
	case StepCancelJob:
		if done {
			w.job = false
			if w.source != RunRunning {
				return w.runSource()
			}
		}
	}
	return w.check()
}

func (w *world) check() error {
	d := w.dest == RunRunning || w.dest == RunPostcopy || w.dest == RunPostcopyPaused
	if w.source == RunRunning && d {
		return fmt.Errorf("both sides run the guest")
	}
	return nil
}
