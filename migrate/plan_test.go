package migrate

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

var planSources = []string{"silent", "gone", "stopped", "crashed", "paused", "paused,job", "migrated", "migrated,job", "postcopy", "postcopy-paused", "running", "running,job"}

var planDests = []string{"silent", "gone", "stopped", "incoming", "paused", "postcopy", "postcopy-paused", "running", "crashed", "migrated"}

// planStandings are what the journal can say.
var planStandings = []standing{
	{"before the commit", OwnerSource, false, false},
	{"early commit", OwnerUnknown, false, false},
	{"after the commit", OwnerDestination, false, false},
	{"after the destination was seen to run", OwnerDestination, true, false},
	{"before the commit, agents are to fetch RAM", OwnerSource, false, true},
	{"early commit, agents are to fetch RAM", OwnerUnknown, false, true},
	{"after the commit, agents fetch RAM", OwnerDestination, false, true},
	{"after the destination was seen to run, agents fetch RAM", OwnerDestination, true, true},
}

type standing struct {
	name             string
	owner            Owner
	landed, fetching bool
}

func (s standing) evidence(source, dest string) Evidence {
	e := evidenceOf(s.owner, s.landed, source, dest)
	e.Fetching = s.fetching
	return e
}

func evidenceOf(owner Owner, landed bool, source, dest string) Evidence {
	e := Evidence{Owner: owner, Landed: landed}
	e.Source, e.SourceErr = parseEnd(source)
	e.Dest, e.DestErr = parseEnd(dest)
	return e
}

// TestPlanTable writes out the decision for every combination, for a person to read.
func TestPlanTable(t *testing.T) {
	var b strings.Builder
	for _, st := range planStandings {
		fmt.Fprintf(&b, "# %s\n%-16s %-16s %-20s %-12s %-12s %s\n", st.name, "source", "destination", "plan", "owner", "runs", "the operator may choose")
		for _, s := range planSources {
			for _, d := range planDests {
				p := Decide(st.evidence(s, d))
				var choices []string
				for _, c := range p.Choices {
					choices = append(choices, string(c))
				}
				line := fmt.Sprintf("%-16s %-16s %-20s %-12s %-12s %s", s, d, p.Kind, p.Owner, p.Runs, strings.Join(choices, " "))
				b.WriteString(strings.TrimRight(line, " ") + "\n")
			}
		}
		b.WriteString("\n")
	}
	const file = "testdata/plans.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the table differs (run with -update and read the diff):\n%s", firstDifference(string(want), b.String()))
	}
}

// TestPlanRules holds every decision against the rules at the head of plan.go, in all combinations.
func TestPlanRules(t *testing.T) {
	n := 0
	for _, st := range planStandings {
		for _, s := range planSources {
			for _, d := range planDests {
				for flags := range 1 << 8 {
					e := st.evidence(s, d)
					e.Stale, e.Delegated, e.Live, e.Suspend, e.WasPaused = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0, flags&16 != 0
					e.Postcopy = flags&32 != 0
					e.Settled, e.Undefine = flags&64 != 0, flags&128 != 0
					p := Decide(e)
					n++
					if err := breaksRule(e, p, s, d); err != nil {
						t.Errorf("%s, source %s, destination %s, %08b: %s (%s): %v", st.name, s, d, flags, p.Kind, p.Why, err)
					}
				}
			}
		}
	}
	t.Logf("%d combinations", n)
}

func breaksRule(e Evidence, p Plan, source, dest string) error {
	s, _, job := strings.Cut(source, ",")
	destHas := dest == "running" || dest == "postcopy" || dest == "postcopy-paused" || dest == "paused" || dest == "crashed" || dest == "migrated"
	destRuns := dest == "running" || dest == "postcopy" || dest == "postcopy-paused"
	still := s == "paused" || s == "migrated" || s == "postcopy" || s == "postcopy-paused"
	check := func(ok bool, text string) error {
		if ok {
			return nil
		}
		return errors.New(text)
	}
	errs := []error{
		check(p.Owner >= OwnerSource && p.Owner <= OwnerUnknown, "no owner"),
		check(p.Why != "" && p.Kind.String() != "", "no reason"),
		check(!(s == "running" && destRuns) || p.Kind == PlanUnknown && len(p.Choices) == 0, "both run, and something is done or offered"),
		check(len(p.Choices) == 0 || p.Kind == PlanUnknown, "choices beside a decision"),
		check(p.Runs != SideDestination || destHas, "runs at the destination?"),
		check(p.Runs != SideSource || s == "running" || e.WasPaused && s == "paused" || e.WasPaused && s == "migrated", "runs at the source?"),
	}
	certain := e.Owner == OwnerSource && !e.Landed || (dest == "gone" || dest == "stopped") && !e.Landed && !e.Stale
	if e.Fetching {
		errs = append(errs, breaksFetching(e, p, s, dest))
	}
	switch p.Kind {
	case PlanResumeSource:
		errs = append(errs, check(still && !destHas, "not the moment"), check(certain, "the destination may run"),
			check(dest != "incoming" || e.Owner == OwnerSource, "an order may still be on its way"))
	case PlanCancelJob: // this makes the source run, too
		errs = append(errs, check(job && !e.Delegated && !destHas, "not the moment"), check(certain || s == "running", "the destination may run"),
			check(s == "running" || dest != "incoming" || e.Owner == OwnerSource, "an order may still be on its way"))
	case PlanDiscard:
		errs = append(errs, check(e.Owner == OwnerSource || s == "running" || e.Settled, "an order may still arrive"), check((dest == "incoming" || dest == "paused" && s == "running") && !e.Landed, "not waiting"),
			check(e.Owner == OwnerSource || s == "running" || s == "paused" || s == "migrated", "it may be the only one"))
	case PlanResumeDest:
		errs = append(errs, check(e.Owner != OwnerSource, "before the commit"),
			check(dest == "paused" && s != "running" && s != "silent" || dest == "incoming" && (strings.HasPrefix(s, "postcopy") || source == "migrated,job" && e.Postcopy), "not the moment"))
	case PlanFinish:
		errs = append(errs, check(dest == "running" || dest == "paused" && (e.Landed || e.Suspend || e.WasPaused), "the destination does not have it"),
			check(s == "paused" || s == "migrated" || s == "postcopy-paused" && dest == "running" ||
				e.Undefine && source == "stopped" && (e.Owner != OwnerSource || e.Landed), "the source may be needed"),
			check(source != "migrated,job" || !e.Postcopy || e.Live || e.Delegated, "the source may be needed"))
	case PlanRecover:
		errs = append(errs, check(s == "postcopy-paused" || dest == "postcopy-paused" || e.Fetching, "nothing is broken"), check(still || s == "silent", "no source"))
	case PlanNothing:
		errs = append(errs, check(!(e.Undefine && source == "stopped" && p.Runs == SideDestination && e.Owner != OwnerSource),
			"the definition was to go"),
			check(dest != "incoming" && dest != "silent" && s != "silent" && dest != "postcopy", "there is something to do"))
	case PlanUnknown:
		for _, c := range p.Choices {
			errs = append(errs, check(c != ChoiceSource || still && !destHas, "the choice of the source is no choice"))
		}
	}
	return errors.Join(errs...)
}

// breaksFetching holds a decision against what is true while our agents fetch the RAM: nothing but the source has all of it.
func breaksFetching(e Evidence, p Plan, s, dest string) error {
	kept := s != "gone" && s != "stopped" && s != "crashed"
	arrived := (dest == "running" || dest == "paused") && (e.Owner != OwnerSource || e.Landed)
	switch {
	case p.Kind == PlanFinish:
		return errors.New("the source would be released while RAM may be missing")
	case p.Kind == PlanResumeDest:
		return errors.New("the guest would run where nobody serves its faults")
	case kept && p.Offers(ChoiceDestination) && dest != "gone" && dest != "stopped" && dest != "crashed" && dest != "migrated":
		return errors.New("the source's RAM is the operator's to throw away")
	case p.Kind == PlanNothing && (dest == "running" || dest == "paused") && arrived:
		return errors.New("there is RAM to fetch")
	case arrived && (s == "paused" || s == "migrated") && p.Kind != PlanRecover:
		return errors.New("the RAM could be fetched, and is not")
	case p.still && (e.Suspend || e.WasPaused || dest != "paused"):
		return errors.New("the guest is not to run")
	}
	return nil
}

// TestPlanUndefine: a source that has nothing but the definition still has to be released if the definition was to go, as
// long as the destination has the guest, and by this migration's doing.
func TestPlanUndefine(t *testing.T) {
	for _, c := range []struct {
		source, dest string
		owner        Owner
		landed       bool
		want         PlanKind
	}{
		{"stopped", "running", OwnerDestination, false, PlanFinish},
		{"stopped", "running", OwnerDestination, true, PlanFinish},
		{"stopped", "running", OwnerUnknown, false, PlanFinish},
		{"stopped", "running", OwnerSource, true, PlanFinish},
		{"stopped", "running", OwnerSource, false, PlanNothing}, // another guest of the name
		{"stopped", "paused", OwnerDestination, true, PlanFinish},
		{"stopped", "gone", OwnerDestination, true, PlanNothing},
		{"stopped", "crashed", OwnerDestination, true, PlanNothing},
		{"stopped", "incoming", OwnerSource, false, PlanDiscard},
		{"stopped", "postcopy", OwnerDestination, true, PlanUnknown},
		{"crashed", "running", OwnerDestination, true, PlanNothing},
		{"gone", "running", OwnerDestination, true, PlanNothing},
		{"running", "running", OwnerDestination, true, PlanUnknown},
		{"running", "gone", OwnerDestination, false, PlanNothing},
	} {
		e := evidenceOf(c.owner, c.landed, c.source, c.dest)
		e.Undefine = true
		if p := Decide(e); p.Kind != c.want {
			t.Errorf("source %s, destination %s, %s, landed %v: %s (%s), want %s", c.source, c.dest, c.owner, c.landed, p.Kind, p.Why, c.want)
		}
		e.Undefine = false
		if p := Decide(e); c.want == PlanFinish && p.Kind != PlanNothing {
			t.Errorf("source %s, destination %s, not to be undefined: %s (%s)", c.source, c.dest, p.Kind, p.Why)
		}
	}
}

// TestPlanLeavesPausedAlone: a guest that stood still before the migration is resumed on neither side by a repair.
func TestPlanLeavesPausedAlone(t *testing.T) {
	for _, st := range planStandings {
		for _, s := range planSources {
			for _, d := range planDests {
				e := st.evidence(s, d)
				e.WasPaused, e.Settled = true, true
				p := Decide(e)
				if p.Kind == PlanResumeSource && s == "paused" || p.Kind == PlanResumeDest && d == "paused" {
					t.Errorf("%s, %s and %s: %s", st.name, s, d, p.Kind)
				}
			}
		}
	}
}
