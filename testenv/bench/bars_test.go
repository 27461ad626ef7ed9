package bench

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func ptr(v float64) *float64 { return &v }

// rowOf is a row with a run for each downtime; set fills in the rest of each.
func rowOf(r Row, downtimes []float64, set func(*Run)) RowResult {
	row := RowResult{Row: r}
	for _, d := range downtimes {
		run := Run{OK: true, Figures: Figures{DowntimeMS: ptr(d)}}
		if set != nil {
			set(&run)
		}
		row.Runs = append(row.Runs, run)
	}
	return row
}

func reportOf(cells ...Cell) Report {
	r := Report{Scenarios: []Result{{Scenario: Scenario{Name: "s"}, Cells: cells}}}
	r.finish()
	return r
}

// barOf is the only bar of that ID in the report.
func barOf(t *testing.T, r Report, id string) Bar {
	t.Helper()
	var found []Bar
	for _, b := range r.Bars {
		if b.ID == id {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d bars %s: %+v", len(found), id, found)
	}
	return found[0]
}

func wantBar(t *testing.T, r Report, id string, value float64, verdict string) {
	t.Helper()
	b := barOf(t, r, id)
	if b.Value == nil || math.Abs(*b.Value-value) > 1e-9 || b.Verdict() != verdict {
		got := "nothing"
		if b.Value != nil {
			got = fmt.Sprint(*b.Value)
		}
		t.Errorf("%s: %s, %s (%s), want %v, %s", id, got, b.Verdict(), b.Detail, value, verdict)
	}
}

var (
	slow    = Row{Name: "pre", Engine: "native", Strategy: "precopy"}
	quick   = Row{Name: "multifd", Engine: "native", Strategy: "precopy", Parallel: 4}
	mixed   = Row{Name: "hybrid", Engine: "nbd", Strategy: "hybrid"}
	fetched = Row{Name: "post", Engine: "nbd", Strategy: "postcopy"}
)

func TestABarIsHeldAgainstTheBestOfTheOthers(t *testing.T) {
	other := mixed
	other.Name, other.Prepage = "hybrid 2", "linear"
	r := reportOf(Cell{Workload: "uniform:rate=20000", Link: "unlimited", Rows: []RowResult{
		rowOf(slow, []float64{100, 300, 200}, nil), rowOf(quick, []float64{20, 10, 12}, nil),
		rowOf(mixed, []float64{1, 2, 3}, nil), rowOf(other, []float64{6, 5, 7}, nil),
	}})
	wantBar(t, r, "downtime", 0.5, "met") // 6 ms of the worse hybrid row, 12 ms of multifd
	wantBar(t, r, "downtime-p99", 6.98, "met")
}

func TestAFailedRunCountsInNoMedian(t *testing.T) {
	lost := rowOf(mixed, []float64{40}, nil)
	lost.Runs = append(lost.Runs, Run{Figures: Figures{DowntimeMS: ptr(0.1)}, Failure: "lost"})
	r := reportOf(Cell{Workload: "uniform:rate=20000", Link: "1gbit", Rows: []RowResult{rowOf(slow, []float64{50}, nil), lost}})
	wantBar(t, r, "downtime", 0.8, "missed")
	s := r.Scenarios[0].Cells[0].Rows[1].Summary
	if s.Runs != 2 || s.OK != 1 {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(r.Text(), "hybrid, repetition 0: lost") {
		t.Errorf("the failure is not told:\n%s", r.Text())
	}
}

func TestBarsOfAnIdleGuest(t *testing.T) {
	run := func(total, nonzero, link float64) func(*Run) {
		return func(r *Run) {
			r.TotalMS, r.Nonzero, r.MustBytes, r.LinkBytes = ptr(total), ptr(nonzero), ptr(nonzero), ptr(link)
		}
	}
	open := Cell{Workload: "hotset:rate=100", Link: "unlimited", Rows: []RowResult{
		rowOf(quick, []float64{9}, run(400, 1e8, 1e8)), rowOf(slow, []float64{9}, run(200, 1e8, 1e8)), rowOf(fetched, []float64{9}, run(300, 1e8, 1.01e8)),
	}}
	r := reportOf(open)
	wantBar(t, r, "total-idle", 0.75, "met") // against multifd, not against the faster row
	wantBar(t, r, "bytes", 1.01, "met")
	open.Link = "800mbit"
	r = reportOf(open)
	wantBar(t, r, "total-shaped", 0.3, "met") // 1e8 bytes take one second
	if b := barOf(t, r, "total-idle"); b.Verdict() != "not measured" || b.Detail == "" {
		t.Errorf("%+v", b)
	}
}

func TestAGuestThatOutrunsTheLink(t *testing.T) {
	idle := Cell{Workload: "hotset:rate=100", Link: "100mbit", Rows: []RowResult{rowOf(mixed, []float64{10}, nil)}}
	busy := Cell{Workload: "hotset:rate=4000", Link: "100mbit", Rows: []RowResult{rowOf(mixed, []float64{14}, nil)}}
	wantBar(t, reportOf(idle, busy), "any-rate", 1.4, "missed")
	busy.Workload = "hotset:rate=3000" // 98 Mbit/s: that it carries
	if b := barOf(t, reportOf(idle, busy), "any-rate"); b.Value != nil {
		t.Errorf("%+v", b)
	}
}

func TestBarsOfDemandFaults(t *testing.T) {
	with := func(prepage string, faults, us float64) RowResult {
		r := fetched
		r.Name, r.Prepage = prepage, prepage
		return rowOf(r, []float64{5}, func(run *Run) { run.Faults, run.FaultP50US = ptr(faults), ptr(us) })
	}
	r := reportOf(Cell{Workload: "uniform", Link: "1gbit", RTTUS: ptr(100), Rows: []RowResult{
		with("none", 1000, 125), with("linear", 100, 110), with("bubble", 300, 128), with("hotset", 200, 120),
	}})
	wantBar(t, r, "prepage", 0.2, "met") // linear is not what the bar is about
	wantBar(t, r, "fault", 28, "met")
}

func TestBarsOfGoBenchmarks(t *testing.T) {
	list, err := ParseMicro(strings.NewReader(`goos: linux
pkg: example.com/fault
BenchmarkFaultPath/pager/threads=1-2              	 100	  1000 ns/op	 90000 faults/s
BenchmarkFaultPath/pager/threads=1-2              	 100	  1000 ns/op	110000 faults/s
BenchmarkFaultPath/userfaultfd-go/threads=1-2    	 100	  9000 ns/op	 40000 faults/s
BenchmarkNBDCopy/read-2          	  10	  1000 ns/op	  2000 nbdkit-MB/s	  3000 ours-MB/s	  4000 qemu-nbd-MB/s
BenchmarkHarvest/uffd-wp/memfd/0%-2  	  10	  1000 ns/op	  0.4 ms/harvest
BenchmarkHarvest/uffd-wp/memfd/100%-2  	  10	  1000 ns/op	  4 ms/harvest
BenchmarkHarvest/hash/memfd/100%-2  	  10	  1000 ns/op	  400 ms/harvest
BenchmarkSlowdown/memfd/100-pages-2  	  1	  1000 ns/op	  1.5 %slower
BenchmarkDemandUnderBulk/open-2  1  5 ns/op  140 p50-us  100 rtt-us
BenchmarkBroken-2  x 1 ns/op
PASS
`))
	if err != nil || len(list) != 9 || list[0].Package != "example.com/fault" || list[0].Name != "BenchmarkFaultPath/pager/threads=1" {
		t.Fatalf("%+v, %v", list, err)
	}
	r := reportOf()
	r.AddMicro(list)
	wantBar(t, r, "faults-per-s", 2.5, "met")
	wantBar(t, r, "fault-micro", 40, "missed")
	wantBar(t, r, "nbd-read", 0.75, "missed")
	wantBar(t, r, "harvest", 4, "met") // hash is for where there is nothing better
	wantBar(t, r, "slowdown", 1.5, "missed")
	if b := barOf(t, r, "nbd-write"); b.Verdict() != "not measured" {
		t.Errorf("%+v", b)
	}
}

func TestEveryBarIsTold(t *testing.T) {
	r := reportOf()
	if len(r.Bars) != len(rules()) {
		t.Errorf("%d bars of %d", len(r.Bars), len(rules()))
	}
	for _, b := range r.Bars {
		if b.Verdict() != "not measured" || b.Detail == "" || b.Target == 0 {
			t.Errorf("%+v", b)
		}
	}
}

func TestSpread(t *testing.T) {
	if s := spread(nil); s != (Spread{}) {
		t.Errorf("of nothing: %+v", s)
	}
	if s := spread([]float64{7}); s.Median != 7 || s.P99 != 7 || s.Min != 7 || s.N != 1 {
		t.Errorf("of one: %+v", s)
	}
	s := spread([]float64{5, 1, 4, math.NaN(), 2, 3, math.Inf(1)})
	if s != (Spread{N: 5, Min: 1, P25: 2, Median: 3, P75: 4, P99: 4.96, Max: 5}) {
		t.Errorf("of five: %+v", s)
	}
	if s := spread([]float64{1, 2}); s.Median != 1.5 {
		t.Errorf("of two: %+v", s)
	}
}

func TestSpeedBeforeDuringAndAfter(t *testing.T) {
	at := time.Unix(1000, 0)
	var samples []sample
	pages := uint64(0)
	// 100 pages a second, none in the second second, 50 a second after it.
	for i := range 40 {
		if i != 0 {
			switch {
			case i <= 10:
				pages += 10
			case i > 20:
				pages += 5
			}
		}
		samples = append(samples, sample{at.Add(time.Duration(i) * 100 * time.Millisecond), pages})
	}
	s := speedOf(samples, at.Add(1050*time.Millisecond), at.Add(1950*time.Millisecond))
	if *s.Before != 100 || *s.During != 0 || math.Abs(*s.After-50) > 1 || len(s.Course) != 39 {
		t.Errorf("before %v, during %v, after %v, %d points", *s.Before, *s.During, *s.After, len(s.Course))
	}
	if s := speedOf(samples[:1], at, at); s.Before != nil || s.During != nil || s.After != nil || s.Course != nil {
		t.Errorf("of one sample: %+v", s)
	}
	long := make([]sample, 5000)
	for i := range long {
		long[i] = sample{at.Add(time.Duration(i) * time.Millisecond), uint64(i)}
	}
	if n := len(course(long, at)); n > maxCourse || n < maxCourse/2 {
		t.Errorf("%d points of 5000", n)
	}
}

func TestReadTold(t *testing.T) {
	report := `{"schema":"vmmigrate.report/v1","strategy":"hybrid","outcome":"completed","total_ms":900,"downtime_ms":5,
		"ram":{"nonzero_bytes":1000,"sent_bytes":1300,"rounds":[{"bytes":1000},{"bytes":200},{"bytes":50}],"faults":7,"fault_us":{"p50":90,"p99":400,"max":800}}}`
	got, err := readTold([]byte(report))
	if err != nil {
		t.Fatal(err)
	}
	f := got.figures()
	if *f.TotalMS != 900 || *f.DowntimeMS != 5 || *f.MustBytes != 1250 || *f.SentBytes != 1300 || *f.Faults != 7 || *f.FaultP99US != 400 || f.Prepaged != nil {
		t.Errorf("%+v", f)
	}
	// A page that went before the switch and is fetched again counts once in post-copy.
	got, _ = readTold([]byte(strings.Replace(report, `"hybrid"`, `"postcopy"`, 1)))
	if f := got.figures(); *f.MustBytes != 1000 {
		t.Errorf("%+v", f)
	}
	for _, bad := range []string{"", "{", `{"schema":"vmmigrate.report/v9"}`} {
		if _, err := readTold([]byte(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}
