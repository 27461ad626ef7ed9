package replay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

type scene struct {
	name  string
	trace *Trace
}

// scenes are guests of 128 MiB with two busy processors, that lack all of their RAM; and, after pre-copy rounds, only what
// they wrote last.
func scenes() []scene {
	w := Workload{Pages: 1 << 15, Touches: 20000, Threads: 2, Think: 20 * time.Microsecond, Seed: 1}
	all := []scene{{"sequential", w.Sequential()}, {"zipf", w.Zipf()}, {"random", w.Random()}, {"strided", w.Strided()}, {"mixed", w.Mixed()}}
	for _, s := range []scene{{"zipf, after rounds", w.Zipf()}, {"random, after rounds", w.Random()}, {"mixed, after rounds", w.Mixed()}} {
		s.trace.Missing.Reset()
		for _, h := range s.trace.Hot {
			s.trace.Missing[0].Set(h.Page)
		}
		all = append(all, s)
	}
	return all
}

// recorded are the traces that BenchmarkRecord took of a Linux guest with one processor and one kind of work each.
func recorded(t testing.TB) []scene {
	t.Helper()
	files, err := filepath.Glob("testdata/*.csv")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d traces, %v", len(files), err)
	}
	var all []scene
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		trace, err := Read(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, scene{strings.TrimSuffix(filepath.Base(name), ".csv") + ", recorded", trace})
	}
	return all
}

func links() []Link {
	return []Link{
		{RTT: 200 * time.Microsecond, Bandwidth: 125e6},
		{RTT: 100 * time.Microsecond, Bandwidth: 1250e6},
		{RTT: 10 * time.Millisecond, Bandwidth: 125e6},
	}
}

// The bar of the project: pre-paging leaves a quarter of the demand faults at most. The model knows no chance, so the
// same figures come out everywhere.
func TestPrepagingSparesFaults(t *testing.T) {
	for _, s := range append(scenes(), recorded(t)...) {
		for _, l := range links() {
			none := play(t, s.trace, "none", l)
			if none.Faults != none.Touches {
				t.Errorf("%s: %d faults and %d touches without pre-paging", s.name, none.Faults, none.Touches)
			}
			for _, policy := range []string{"bubble", "hotset"} {
				if r := play(t, s.trace, policy, l); 4*r.Faults > none.Faults || r.Stall >= none.Stall {
					t.Errorf("%s, %v: %s leaves %d faults of %d, stalls %v of %v", s.name, l.RTT, policy, r.Faults, none.Faults, r.Stall, none.Stall)
				}
			}
		}
	}
}

// No policy leaves more faults than there are without one, and all bring every page once. The guest may stand still for
// longer all the same, as an idle one does with linear: a fault waits for the bulk that is on the wire.
func TestEveryPolicyEnds(t *testing.T) {
	for _, s := range append(scenes(), recorded(t)...) {
		none := play(t, s.trace, "none", links()[0])
		for _, policy := range prepage.Names() {
			r := play(t, s.trace, policy, links()[0])
			if r.Faults > none.Faults {
				t.Errorf("%s: %s leaves %d faults, %d without", s.name, policy, r.Faults, none.Faults)
			}
			if n := s.trace.Missing.Count(); r.Pages+r.Faults-r.UnderWay != n {
				t.Errorf("%s: %s brings %d pages in bulk and %d on demand, of %d", s.name, policy, r.Pages, r.Faults-r.UnderWay, n)
			}
		}
	}
}

func play(t testing.TB, trace *Trace, policy string, l Link) Result {
	t.Helper()
	r, err := Play(trace, policy, l)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tiny is one thread that touches four pages of eight, 1 ms apart.
func tiny() *Trace {
	blocks := []ram.Block{{Name: "pc.ram", Size: 8 * 4096, PageSize: 4096}}
	t := &Trace{Blocks: blocks, Missing: ram.NewSet(blocks), Cost: 200 * time.Microsecond}
	t.Missing.Fill()
	t.Missing[0].Clear(7)
	for i, page := range []int{7, 2, 3, 0} {
		t.Faults = append(t.Faults, Fault{time.Duration(i) * time.Millisecond, 0, prepage.Ref{Page: page}})
	}
	return t
}

// The model's figures, worked out by hand: a page is 1 ms on the wire, the way is 2 ms, a fault 1 ms besides.
func TestModelByHand(t *testing.T) {
	l := Link{RTT: 2 * time.Millisecond, Bandwidth: 4096e3, Local: time.Millisecond, Request: 8192, Window: 8192, Queue: -1}
	ms := func(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }
	for _, want := range []Result{
		// Page 7 is there; 0.8 ms of thinking before each other touch; each fault is 4 ms. When the guest is through, pages 1
		// and 4 to 5 are asked for together and come at 17.4 and 19.4; page 6 is asked for then and comes at 22.4.
		{Policy: "none", Touches: 3, Faults: 3, Stall: ms(12), Longest: ms(4), P99: ms(4), P50: ms(4), Guest: ms(14.4), Total: ms(22.4), Requests: 3, Pages: 4},
		// Pages 0 and 1 are asked for at once and come at 4; page 2 is missed at 0.8 and, with its way in, sent before the
		// rest: there at 4.8. Pages 3 and 4 are asked for at 4, sent from 5 to 7, there at 8; page 3 is missed at 5.6
		// and there at 8 as well, earlier than an answer. Page 0 is there.
		{Policy: "linear", Touches: 3, Faults: 2, UnderWay: 1, Stall: ms(6.4), Longest: ms(4), P99: ms(2.4), P50: ms(2.4), Guest: ms(8.8), Total: ms(12), Requests: 3, Pages: 6},
	} {
		if got := play(t, tiny(), want.Policy, l); got != want {
			t.Errorf("\n%+v, not\n%+v", got, want)
		}
	}
}

func TestPlayRefuses(t *testing.T) {
	if _, err := Play(tiny(), "magic", links()[0]); err == nil {
		t.Error("an unknown policy is played")
	}
	if _, err := Play(tiny(), "none", Link{}); err == nil {
		t.Error("a link without bandwidth is taken")
	}
}

// The table of policies: faults, and stalls in milliseconds, as metrics of a benchmark.
//
//	go test -run '^$' -bench Policies -benchtime 1x ./postcopy/prepage/replay
func BenchmarkPolicies(b *testing.B) {
	for _, s := range append(scenes(), recorded(b)...) {
		for _, l := range links() {
			for _, policy := range prepage.Names() {
				b.Run(fmt.Sprintf("%s/rtt=%v,MBps=%d/%s", s.name, l.RTT, l.Bandwidth/1e6, policy), func(b *testing.B) {
					var r Result
					for b.Loop() {
						r = play(b, s.trace, policy, l)
					}
					b.ReportMetric(float64(r.Faults), "faults")
					b.ReportMetric(float64(r.Stall.Microseconds())/1e3, "stall-ms")
					b.ReportMetric(float64(r.P99.Microseconds()), "p99-µs")
					b.ReportMetric(float64(r.Total.Microseconds())/1e3, "total-ms")
				})
			}
		}
	}
}
