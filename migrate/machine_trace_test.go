package migrate

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files; read the diff before you commit it")

// TestMachineTraces walks testdata/machine/*.txt. A file holds scenarios; each has its inputs above ----, and below it
// what the machine said to every one of them, with phase and owner after it.
func TestMachineTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/machine/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := rewriteTraces(t, string(old))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(old) {
				t.Errorf("trace differs (run with -update and read the diff):\n%s", firstDifference(string(old), got))
			}
		})
	}
}

func firstDifference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	scenario := ""
	for i := range max(len(la), len(lb)) {
		x, y := "(end)", "(end)"
		if i < len(la) {
			x = la[i]
		}
		if i < len(lb) {
			y = lb[i]
		}
		if strings.HasPrefix(x, "scenario") {
			scenario = x
		}
		if x != y {
			return fmt.Sprintf("line %d, %s\n want: %s\n  got: %s", i+1, scenario, x, y)
		}
	}
	return "none"
}

func rewriteTraces(t *testing.T, text string) string {
	var out []string
	for _, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		out = append(out, input+"\n----\n"+runScenario(t, input))
	}
	return strings.Join(out, "\n\n") + "\n"
}

func runScenario(t *testing.T, input string) string {
	var m Machine
	var out []string
	for _, line := range strings.Split(input, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if f[0] == "scenario" {
			m = NewMachine(scenarioConfig(t, f[1:]))
			continue
		}
		if f[0] == "journal" {
			m = recoveryOf(t, m.cfg, f[1:])
			continue
		}
		var acts []Action
		m, acts = m.Step(parseInput(t, f))
		out = append(out, fmt.Sprintf("%-42s %-52s %s/%s", line, showActions(acts), m.Phase(), m.Owner()))
	}
	if !m.Over() {
		t.Errorf("the scenario does not end:\n%s", input)
	}
	return strings.Join(out, "\n")
}

func scenarioConfig(t *testing.T, words []string) MachineConfig {
	cfg := MachineConfig{AskLimit: 2}
	for _, w := range words {
		switch strings.Trim(w, "[],:") {
		case "postcopy":
			cfg.Postcopy = w[0] == '['
		case "agents":
			cfg.Agents = w[0] == '['
		case "p2p":
			cfg.Delegated = w[0] == '['
		case "suspend":
			cfg.Suspend = w[0] == '['
		case "was-paused":
			cfg.WasPaused = w[0] == '['
		default:
			if w[0] == '[' {
				t.Fatalf("unknown flag %s", w)
			}
		}
	}
	return cfg
}

func recoveryOf(t *testing.T, cfg MachineConfig, words []string) Machine {
	var r Record
	stale, choice := false, ChoiceNone
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		var err error
		switch k {
		case "phase":
			err = r.Phase.UnmarshalText([]byte(v))
		case "owner":
			err = r.Owner.UnmarshalText([]byte(v))
		case "committed":
			r.Committed = true
		case "landed":
			r.Landed = true
		case "paged":
			r.Paged = true
		case "stale":
			stale = true
		case "choose":
			choice = Choice(v)
		default:
			err = fmt.Errorf("unknown word %q", w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return NewRecovery(cfg, r, stale).Order(choice)
}

// parseInput reads "stopped", "copy ok", "copy fail link-lost" or "ask source=running,job dest=gone".
func parseInput(t *testing.T, f []string) Input {
	var k InputKind
	if k.UnmarshalText([]byte(f[0])) == nil {
		return Input{Kind: k}
	}
	in := Input{Kind: InputDone, Class: ClassOK}
	if err := in.Step.UnmarshalText([]byte(f[0])); err != nil {
		t.Fatalf("%v: neither input nor step", f)
	}
	if in.Step == StepAsk && f[1] != "fail" {
		for _, w := range f[1:] {
			k, v, _ := strings.Cut(w, "=")
			st, err := parseEnd(v)
			if k == "source" {
				in.Ends.Source, in.Ends.SourceErr = st, err
			} else {
				in.Ends.Dest, in.Ends.DestErr = st, err
			}
		}
		return in
	}
	if f[1] != "ok" {
		if err := in.Class.UnmarshalText([]byte(f[2])); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func parseEnd(v string) (*GuestState, error) {
	run, job, _ := strings.Cut(v, ",")
	switch run {
	case "gone":
		return nil, nil
	case "silent":
		return nil, ErrLinkLost
	}
	return &GuestState{Run: RunState(run), Job: job == "job"}, nil
}

func showActions(acts []Action) string {
	if len(acts) == 0 {
		return "-"
	}
	var out []string
	for _, a := range acts {
		s := a.Kind.String()
		if a.Step != 0 {
			s += " " + a.Step.String()
		}
		if a.Brief {
			s += " briefly"
		}
		if a.Attempt > 0 {
			s += fmt.Sprintf(" #%d", a.Attempt)
		}
		if a.Kind == ActionEnd {
			s += fmt.Sprintf(" %s owner=%s", a.End.Outcome, a.End.Owner)
			if a.End.Runs != "" {
				s += " runs=" + string(a.End.Runs)
			}
			if a.End.Reason != 0 {
				s += " " + a.End.Reason.String()
			}
			if !a.End.Final {
				s += " recoverable"
			}
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}
