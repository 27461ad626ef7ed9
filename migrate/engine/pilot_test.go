package engine

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

var update = flag.Bool("update", false, "rewrite the golden traces; read the difference before you commit it")

// TestPilotTraces plays recorded samples and compares every decision. A trace has the configuration on its first line,
// one sample a line (status round remaining-in-MiB [bandwidth-in-MiB/s]), one a second, up to "----", and what the pilot said below it.
func TestPilotTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/pilot/*.txt")
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
	var p *Pilot
	var now time.Duration
	for sc := bufio.NewScanner(strings.NewReader(in)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if p == nil {
			var strategy string
			var ms, timeout int
			var post bool
			if _, err := fmt.Sscanf(line, "strategy=%s max-downtime=%dms timeout=%ds postcopy=%t", &strategy, &ms, &timeout, &post); err != nil {
				t.Fatalf("configuration %q: %v", line, err)
			}
			p = NewPilot(PilotConfig{Strategy: migrate.Strategy(strategy), MaxDowntime: time.Duration(ms) * time.Millisecond,
				Timeout: time.Duration(timeout) * time.Second, TimeoutPostcopy: post})
			fmt.Fprintf(&out, "pause at first: %v\n", p.Downtime())
			continue
		}
		if line == "refused" {
			p.Refused()
			continue
		}
		var s Sample
		if n, err := fmt.Sscanf(line, "%s %d %d %d", &s.Status, &s.Round, &s.Remaining, &s.Bandwidth); n < 3 {
			t.Fatalf("sample %q: %v", line, err)
		}
		s.Remaining <<= 20
		s.Bandwidth <<= 20
		now++
		s.At = now * time.Second
		for _, m := range p.Step(s) {
			fmt.Fprintf(&out, "%-24s postcopy=%v downtime=%v: %s\n", line, m.Postcopy, m.Downtime, m.Why)
		}
	}
	return out.String()
}

// TestPilotNeverLeavesItsBounds feeds nonsense: whatever a hypervisor reports, the pause stays within what the user
// allowed, a pre-copy never goes over to post-copy, and the switch is asked for at most once.
func TestPilotNeverLeavesItsBounds(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	strategies := []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyPostcopy, migrate.StrategyHybrid}
	for range 2000 {
		cfg := PilotConfig{Strategy: strategies[r.IntN(3)], MaxDowntime: time.Duration(1+r.IntN(5000)) * time.Millisecond}
		p := NewPilot(cfg)
		switches := 0
		for range 60 {
			s := Sample{Status: []string{"", "active", "setup", "completed"}[r.IntN(4)], Round: r.Int64N(20) - 2, Remaining: r.Int64N(1<<40) - 5, Bandwidth: r.Int64N(1 << 33)}
			for _, m := range p.Step(s) {
				if m.Postcopy {
					switches++
				}
				if m.Downtime < 0 || m.Downtime > cfg.MaxDowntime {
					t.Fatalf("pause %v of at most %v", m.Downtime, cfg.MaxDowntime)
				}
			}
		}
		if switches > 1 || switches == 1 && cfg.Strategy == migrate.StrategyPrecopy {
			t.Fatalf("%s switched %d times", cfg.Strategy, switches)
		}
	}
}

func TestStall(t *testing.T) {
	s := Stall{After: 3 * time.Second}
	for _, c := range []struct {
		at   time.Duration
		sent int64
		want bool
	}{
		{0, 100, false}, {time.Second, 100, false}, {2 * time.Second, 101, false}, {4 * time.Second, 101, false},
		{5 * time.Second, 101, true}, {6 * time.Second, 102, false}, {8 * time.Second, 102, false}, {9 * time.Second, 102, true},
	} {
		if got := s.Step(c.at, c.sent); got != c.want {
			t.Errorf("at %v with %d sent: stalled = %v, want %v", c.at, c.sent, got, c.want)
		}
	}
}
