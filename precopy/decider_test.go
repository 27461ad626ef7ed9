package precopy

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

var update = flag.Bool("update", false, "rewrite the golden traces; read the difference before you commit it")

// TestDeciderTraces plays figures of rounds and compares every decision. A trace has the configuration on its first
// line, then for each round its number, what was left, the calm part of that, what was sent, how long that and the
// harvest took, and "failed" if the harvest did; and below "----" what the decider said.
func TestDeciderTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			in, want, _ := strings.Cut(string(raw), "----\n")
			got := play(t, in)
			if *update {
				if err := os.WriteFile(f, []byte(in+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("decisions differ (-want +got):\n%s", d)
			}
		})
	}
}

func play(t *testing.T, in string) string {
	t.Helper()
	var out strings.Builder
	var d *Decider
	var elapsed time.Duration
	for sc := bufio.NewScanner(strings.NewReader(in)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "" || line[0] == '#':
		case d == nil:
			var err error
			if d, err = NewDecider(parseConfig(t, line)); err != nil {
				t.Fatal(err)
			}
		default:
			o := parseObservation(t, line)
			elapsed += o.Took + o.Harvest
			o.Elapsed = elapsed
			v := d.Step(o)
			fmt.Fprintf(&out, "round %d: %s (pause %v): %s\n", o.Round, v.Verdict, brief(v.Pause), v.Why)
		}
	}
	return out.String()
}

func parseConfig(t *testing.T, line string) (c DeciderConfig) {
	t.Helper()
	for _, field := range strings.Fields(line) {
		key, value, _ := strings.Cut(field, "=")
		var err error
		switch key {
		case "strategy":
			c.Strategy = migrate.Strategy(value)
		case "max-downtime":
			c.MaxDowntime, err = time.ParseDuration(value)
		case "switch-cost":
			c.SwitchCost, err = time.ParseDuration(value)
		case "timeout":
			c.Timeout, err = time.ParseDuration(value)
		case "rounds":
			c.MaxRounds, err = strconv.Atoi(value)
		default:
			err = fmt.Errorf("no such key")
		}
		if err != nil {
			t.Fatalf("%s: %v", field, err)
		}
	}
	return c
}

func parseObservation(t *testing.T, line string) (o Observation) {
	t.Helper()
	f := strings.Fields(line)
	if len(f) < 6 {
		t.Fatalf("round %q", line)
	}
	o.Round, _ = strconv.Atoi(f[0])
	for i, to := range []*int64{&o.Left, &o.Calm, &o.Sent} {
		*to = parseSize(t, f[1+i])
	}
	for i, to := range []*time.Duration{&o.Took, &o.Harvest} {
		d, err := time.ParseDuration(f[4+i])
		if err != nil {
			t.Fatal(err)
		}
		*to = d
	}
	if len(f) > 6 {
		o.Failed = "so it was told"
	}
	return o
}

func parseSize(t *testing.T, s string) int64 {
	t.Helper()
	shift := 0
	for unit, by := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			s, shift = n, by
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << shift
}

// TestDeciderEnds feeds nonsense: whatever the figures, each strategy comes to an end within its rounds, pre-copy never
// accepts a pause above the limit that it can know of, and never leaves pages; hybrid never says that there is no progress.
func TestDeciderEnds(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	strategies := []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyHybrid, migrate.StrategyPostcopy}
	for range 3000 {
		cfg := DeciderConfig{Strategy: strategies[rng.IntN(3)], MaxDowntime: time.Duration(1+rng.IntN(1000)) * time.Millisecond, MaxRounds: 1 + rng.IntN(40)}
		d, err := NewDecider(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ended := false
		for round := 0; round <= cfg.MaxRounds+2 && !ended; round++ {
			o := Observation{Round: round, Left: rng.Int64N(1<<40) >> rng.IntN(40), Sent: rng.Int64N(1 << 40), Took: time.Duration(rng.Int64N(1 << 35)), Harvest: time.Duration(rng.Int64N(1 << 30))}
			o.Calm = rng.Int64N(o.Left + 1)
			if rng.IntN(10) == 0 {
				o.Failed = "nonsense"
			}
			v := d.Step(o)
			ended = v.Verdict == VerdictSwitch || v.Verdict == VerdictNoProgress
			checkDecision(t, cfg, o, v)
		}
		if !ended {
			t.Fatalf("%+v did not end", cfg)
		}
	}
}

func checkDecision(t *testing.T, cfg DeciderConfig, o Observation, v Decision) {
	t.Helper()
	switch {
	case v.Why == "" || v.Verdict == 0 || v.Pause < 0:
		t.Fatalf("%+v gives %+v", o, v)
	case cfg.Strategy == migrate.StrategyPrecopy && v.Verdict == VerdictGoOnLeaving:
		t.Fatalf("pre-copy leaves pages: %+v", v)
	case cfg.Strategy == migrate.StrategyPrecopy && v.Verdict == VerdictSwitch && (o.Failed != "" || o.Left > 0 && v.Pause > cfg.MaxDowntime):
		t.Fatalf("pre-copy switches at %+v: %+v", o, v)
	case cfg.Strategy != migrate.StrategyPrecopy && v.Verdict == VerdictNoProgress:
		t.Fatalf("%s gives up: %+v", cfg.Strategy, v)
	}
}

func TestDeciderRefusesAnUnknownStrategy(t *testing.T) {
	for _, s := range []migrate.Strategy{"", migrate.StrategyAuto, "bogus"} {
		if _, err := NewDecider(DeciderConfig{Strategy: s}); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}
