package workload

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"
)

func mustPlan(t *testing.T, text string, pages, blocks uint64) *Plan {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(s, pages, []uint64{blocks}, 42)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// drive runs the plan from..to in steps and returns the writes it dealt out.
func drive(p *Plan, from, to, step time.Duration) (ops []Op) {
	for now := from; now <= to; now += step {
		p.Advance(now)
		for {
			op, ok := p.Next()
			if !ok {
				break
			}
			ops = append(ops, op)
		}
	}
	return ops
}

func TestPlanKeepsTheRate(t *testing.T) {
	tests := []struct {
		text          string
		pages, blocks int
	}{
		{"idle", 0, 0},
		{"uniform:rate=1000", 10000, 0},
		{"sequential:rate=3", 30, 0},
		{"hotset:rate=20000", 200000, 0},
		{"blockio:rate=50", 0, 500},
		{"mixed:rate=100,writes=7", 1000, 70},
		{"cycle:phases=1000@1s/0@1s/10@500ms", 4 * 1005, 0},
	}
	for _, tt := range tests {
		for _, step := range []time.Duration{time.Millisecond, 7 * time.Millisecond, 40 * time.Millisecond} {
			var pages, blocks int
			for _, op := range drive(mustPlan(t, tt.text, 1000, 1000), 0, 10*time.Second, step) {
				if op.Target == Page {
					pages++
				} else {
					blocks++
				}
			}
			if off(pages, tt.pages) || off(blocks, tt.blocks) {
				t.Errorf("%s at steps of %v: %d pages, %d blocks, want %d and %d",
					tt.text, step, pages, blocks, tt.pages, tt.blocks)
			}
		}
	}
}

func off(got, want int) bool { return math.Abs(float64(got-want)) > 2+0.01*float64(want) }

func TestPlanOwesOneBurstAfterAJump(t *testing.T) {
	p := mustPlan(t, "uniform:rate=1000", 1000, 0)
	p.Advance(0)
	if n := p.Advance(time.Hour); n < 50 || n > 51 {
		t.Errorf("an hour's jump owes %d writes, want one burst of 50", n)
	}
	if n := p.Advance(time.Minute); n > 51 {
		t.Errorf("a clock that went back owes %d writes", n)
	}
	if n := p.Advance(-time.Minute); n > 51 {
		t.Errorf("a negative clock owes %d writes", n)
	}
}

func TestPlanForgetsABacklogWhenThePhaseIsQuiet(t *testing.T) {
	p := mustPlan(t, "cycle:phases=1000@1s/0@1s", 1000, 0)
	p.Advance(990 * time.Millisecond)
	if n := p.Advance(1000 * time.Millisecond); n != 10 {
		t.Fatalf("%d writes owed for 10 ms at 1000 a second", n)
	}
	if n := p.Advance(1200 * time.Millisecond); n > 1 {
		t.Errorf("%d writes owed in a quiet phase", n)
	}
}

func TestPlanShapes(t *testing.T) {
	hot := 0
	ops := drive(mustPlan(t, "hotset:rate=10000,hot=0.2,bias=0.8", 1000, 0), 0, time.Second, time.Millisecond)
	for _, op := range ops {
		if op.Index >= 1000 {
			t.Fatalf("page %d of 1000", op.Index)
		}
		if op.Index < 200 {
			hot++
		}
	}
	if part := float64(hot) / float64(len(ops)); part < 0.77 || part > 0.83 {
		t.Errorf("%.2f of the writes are in the hot set, want 0.8", part)
	}
	for i, op := range drive(mustPlan(t, "sequential:rate=1000", 30, 0), 0, time.Second, time.Millisecond) {
		if op.Index != uint64(i%30) {
			t.Fatalf("write %d goes to page %d", i, op.Index)
		}
	}
	for _, op := range drive(mustPlan(t, "cycle:hot=0.1", 1000, 0), 0, time.Second, time.Millisecond) {
		if op.Index >= 100 {
			t.Fatalf("cycle with hot=0.1 wrote page %d of 1000", op.Index)
		}
	}
}

func TestPlanIsTheSameForTheSameSeed(t *testing.T) {
	a := drive(mustPlan(t, "mixed", 1000, 1000), 0, time.Second, time.Millisecond)
	b := drive(mustPlan(t, "mixed", 1000, 1000), 0, time.Second, time.Millisecond)
	if !slices.Equal(a, b) || len(a) == 0 {
		t.Error("two plans of one seed differ")
	}
}

func TestPlanUsesWhatIsThere(t *testing.T) {
	for _, op := range drive(mustPlan(t, "blockio:size=1GiB", 10, 3), 0, time.Second, time.Millisecond) {
		if op.Index >= 3 {
			t.Fatalf("block %d of 3", op.Index)
		}
	}
	for _, text := range []string{"blockio", "mixed", "uniform"} {
		s, _ := Parse(text)
		if _, err := NewPlan(s, 0, nil, 1); !errors.Is(err, ErrSpec) {
			t.Errorf("%s with nothing to write to: %v, want ErrSpec", text, err)
		}
	}
	if _, err := NewPlan(Spec{}, 1, []uint64{1}, 1); !errors.Is(err, ErrSpec) {
		t.Errorf("NewPlan of an empty spec: %v, want ErrSpec", err)
	}
}

func TestMemoryOfADiskWorkloadIsSmall(t *testing.T) {
	for text, want := range map[string]int64{"blockio:size=1GiB": 16 << 20, "uniform:size=8MiB": 8 << 20, "idle": 128 << 20} {
		if s, _ := Parse(text); s.Memory() != want {
			t.Errorf("%s: %d bytes of memory, want %d", text, s.Memory(), want)
		}
	}
}

func TestPagesAndBlocksTakeTurns(t *testing.T) {
	p := mustPlan(t, "mixed:rate=max,writes=max", 1000, 1000)
	p.Advance(0)
	p.Advance(time.Second)
	count := map[Target]int{}
	for range 1000 {
		op, _ := p.Next()
		count[op.Target]++
	}
	if count[Page] != 500 || count[Block] != 500 {
		t.Errorf("of 1000 writes that are due, %v", count)
	}
}
