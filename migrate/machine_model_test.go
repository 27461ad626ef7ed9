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
		w := &world{rng: rng, source: RunRunning, postcopy: rng.IntN(2) == 0, p2p: rng.IntN(6) == 0, agents: rng.IntN(2) == 0}
		w.agents = w.agents && !w.p2p
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
	cfg := MachineConfig{Postcopy: w.postcopy, Agents: w.agents, Delegated: w.p2p, AskLimit: 3}
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
		w.served = w.served && w.chance(0.5) // agents may have died with their coordinator
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
