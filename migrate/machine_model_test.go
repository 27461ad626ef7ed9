package migrate

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// world is two hosts and a link as they may be: what a step does to them is decided by chance, and what the coordinator
// hears of it is another matter. It knows nothing of the Machine, so that it can judge it.
type world struct {
	rng      *rand.Rand
	postcopy bool
	p2p      bool

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
	case w.early && (in.Class == ClassOK || w.chance(0.5)):
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
	switch {
	case in.Class == ClassOK:
		w.run()
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
	w.complete = w.source != RunPostcopy && w.source != RunPostcopyPaused
	if !w.complete {
		w.dest = RunPostcopy
	} else if w.source == RunPaused {
		w.source = RunMigrated
	}
}

func (w *world) paging(in *Input) {
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
		if done && w.dest == RunIncoming {
			w.run()
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

// TestMachineModel walks the machine through random worlds and random orders of events.
func TestMachineModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TEST_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = v
	}
	t.Logf("TEST_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	ends := map[string]int{}
	for i := range 15000 {
		w := &world{rng: rng, source: RunRunning, postcopy: rng.IntN(2) == 0, p2p: rng.IntN(6) == 0}
		end, err := w.migrate()
		if err != nil {
			t.Fatalf("TEST_SEED=%d walk %d: %v\n%s", seed, i, err, strings.Join(w.log, "\n"))
		}
		ends[fmt.Sprintf("%s/%s final=%v", end.Outcome, end.Owner, end.Final)]++
	}
	t.Log(ends)
	if len(ends) < 8 {
		t.Errorf("the walks reach too few ends: %v", ends)
	}
}

// migrate drives one machine, and recoveries after a crash, to an end that is final or that leaves all as it is.
func (w *world) migrate() (End, error) {
	cfg := MachineConfig{Postcopy: w.postcopy, Delegated: w.p2p, AskLimit: 3}
	m := NewMachine(cfg)
	var saved Record
	for life := 0; ; life++ {
		end, crashed, err := w.life(m, &saved)
		if err != nil {
			return end, err
		}
		if !crashed && end.Final || life == 6 {
			return end, w.judge(end)
		}
		if !crashed {
			if err := w.judge(end); err != nil {
				return end, err
			}
		}
		w.say("--- recover from %+v", saved)
		m = NewRecovery(cfg, saved, false)
	}
}

// life is one coordinator's: until the machine ends or the coordinator is killed.
func (w *world) life(m Machine, saved *Record) (end End, crashed bool, err error) {
	queue := []Input{{Kind: InputBegin}}
	for n := 0; n < 400; n++ {
		if len(queue) == 0 {
			return end, false, fmt.Errorf("nothing runs and the machine has not ended: %+v", m)
		}
		in := queue[0]
		queue = queue[1:]
		before := m.Landed()
		var acts []Action
		m, acts = m.Step(in)
		w.say("%-10s %-10s %-10s -> %-50s %s/%s  world %s/%s", in.Kind, in.Step, in.Class, showActions(acts), m.Phase(), m.Owner(), w.source, w.dest)
		if o := m.Owner(); o < OwnerSource || o > OwnerUnknown {
			return end, false, fmt.Errorf("owner not defined")
		}
		if m.Landed() != before {
			*saved = m.Record()
		}
		for _, a := range acts {
			switch a.Kind {
			case ActionEnd, ActionDetach:
				if a.Kind == ActionEnd {
					*saved = m.Record()
				}
				return a.End, a.Kind == ActionDetach, nil
			case ActionStart:
				if a.Step != StepCommit {
					*saved = m.Record()
				}
				ins, dead, err := w.step(m, a.Step, saved)
				if err != nil || dead {
					return end, dead, err
				}
				queue = append(queue, ins...)
			}
		}
	}
	return end, false, fmt.Errorf("does not end")
}

// step runs a step, with events thrown in before its end, or the coordinator killed in the middle of it.
func (w *world) step(m Machine, s Step, saved *Record) (ins []Input, dead bool, err error) {
	if w.chance(0.03) {
		w.say("killed before %s", s)
		return nil, true, nil
	}
	ran := w.ran
	if s == StepCopy && (w.p2p || w.postcopy && w.chance(0.7)) {
		if next, acts := m.Step(Input{Kind: InputCommitAsked}); len(acts) == 1 && acts[0].Kind == ActionCommit {
			m2, _ := next.Step(Input{Kind: InputCommitted})
			*saved = m2.Record()
			w.early, w.committed, w.everCommit = true, true, true
			ins = append(ins, Input{Kind: InputCommitted})
		}
	}
	if s == StepCopy && w.p2p && !w.early {
		return append(ins, Input{Kind: InputDone, Step: s, Class: ClassCancelled}), false, nil
	}
	for _, k := range []InputKind{InputCancel, InputInterrupt, InputTimeLimit, InputStopped, InputStarted, InputGiveUp} {
		if w.chance(0.04) {
			ins = append(ins, Input{Kind: k})
		}
	}
	in, err := w.do(s)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", s, err)
	}
	if s == StepCommit && in.Class == ClassOK {
		r := m.Record()
		r.Committed, r.Owner = true, OwnerDestination
		*saved = r
	}
	if in.Class == ClassNotLanded || s == StepUndo && w.source == RunRunning {
		w.committed = false
	}
	if w.ran && !ran && w.chance(0.5) {
		ins = append(ins, Input{Kind: InputLanded})
	}
	if w.chance(0.03) {
		w.say("killed in or after %s", s)
		return nil, true, nil
	}
	return append(ins, in), false, nil
}

// judge compares what the machine claims at its end with the world.
func (w *world) judge(e End) error {
	switch {
	case e.Outcome == OutcomeCompleted && !(w.ran && w.complete):
		return fmt.Errorf("claims completion, but the destination lacks the guest (%q)", w.dest)
	case e.Runs == SideSource && w.source != RunRunning && !w.p2p:
		return fmt.Errorf("claims that the source runs the guest, which is %q", w.source)
	case e.Owner == OwnerSource && w.ran && !w.p2p:
		return fmt.Errorf("says that the source owns a guest that ran at the destination")
	case e.Final && w.source != RunRunning && w.dest != RunRunning:
		return fmt.Errorf("final, but nobody runs the guest: %q, %q", w.source, w.dest)
	case e.Final && w.source == RunRunning && (w.dest != ""):
		return fmt.Errorf("final, but the destination has leftovers: %q", w.dest)
	}
	return nil
}
