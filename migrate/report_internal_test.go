package migrate

import (
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)

func at(ms float64) time.Time { return t0.Add(time.Duration(ms * float64(time.Millisecond))) }

func event(k EventKind, seen, stamp float64) GuestEvent {
	e := GuestEvent{Kind: k, Seen: at(seen)}
	if stamp != 0 {
		e.At = at(stamp)
	}
	return e
}

func clock(offset, err time.Duration) hostClock {
	return hostClock{offset: offset, err: err, known: true}
}

func TestDowntime(t *testing.T) {
	const ahead = 7 * time.Hour
	for _, c := range []struct {
		name         string
		stop, resume GuestEvent
		source, dest hostClock
		ready, done  float64 // the commit
		total        float64
		by           string
		parts        map[string]float64
	}{
		{"hosts' clocks", event(EventStop, 105, 100), event(EventResume, 160, 143), clock(0, 0), clock(0, 0), 130, 131.5, 43, "hosts",
			map[string]float64{"last_copy": 30, "commit": 1.5, "resume": 11.5}},
		{"the same, both seven hours ahead", event(EventStop, 105, 100+7*3600e3), event(EventResume, 160, 143+7*3600e3), clock(ahead, 0), clock(ahead, 0), 130, 131.5, 43, "hosts",
			map[string]float64{"last_copy": 30, "commit": 1.5, "resume": 11.5}},
		{"clocks that differ", event(EventStop, 105, 100), event(EventResume, 160, 143), clock(0, 0), clock(10*time.Millisecond, 0), 130, 131.5, 55, "arrival",
			map[string]float64{"last_copy": 25, "commit": 1.5, "resume": 28.5}},
		{"clocks that could not be told", event(EventStop, 105, 100), event(EventResume, 160, 143), hostClock{}, clock(0, 0), 130, 131.5, 55, "arrival",
			map[string]float64{"last_copy": 25, "commit": 1.5, "resume": 28.5}},
		{"clocks told too vaguely", event(EventStop, 105, 100), event(EventResume, 160, 143), clock(0, 30*time.Millisecond), clock(0, 0), 130, 131.5, 55, "arrival",
			map[string]float64{"last_copy": 25, "commit": 1.5, "resume": 28.5}},
		{"an event without a stamp", event(EventStop, 105, 0), event(EventResume, 160, 143), clock(0, 0), clock(0, 0), 130, 131.5, 55, "arrival",
			map[string]float64{"last_copy": 25, "commit": 1.5, "resume": 28.5}},
		{"resumed before the coordinator heard of it", event(EventStop, 105, 100), event(EventResume, 160, 120), clock(0, 0), clock(0, 0), 130, 131.5, 20, "hosts",
			map[string]float64{"last_copy": 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRecorder(t0)
			r.sourceClock, r.destClock = c.source, c.dest
			r.guest(SideSource, c.stop)
			r.ready(at(c.ready))
			r.committed(at(c.done))
			r.guest(SideDestination, c.resume)
			var out Report
			r.downtime(&out)
			if out.DowntimeMS == nil || math.Abs(*out.DowntimeMS-c.total) > 1e-6 || out.DowntimeClock != c.by {
				t.Fatalf("%v by %q, want %v by %q", out.DowntimeMS, out.DowntimeClock, c.total, c.by)
			}
			sum := 0.0
			for k, v := range out.DowntimeParts {
				sum += v
				if math.Abs(v-c.parts[k]) > 1e-6 {
					t.Errorf("%s %v, want %v", k, v, c.parts[k])
				}
			}
			if math.Abs(sum-*out.DowntimeMS) > 1e-9 || len(out.DowntimeParts) != len(c.parts) {
				t.Errorf("parts %v of %v", out.DowntimeParts, *out.DowntimeMS)
			}
		})
	}
}

// TestDowntimeOfWhat: pauses that are not the switch do not count as it.
func TestDowntimeOfWhat(t *testing.T) {
	r := newRecorder(t0)
	var out Report
	if r.downtime(&out); out.DowntimeMS != nil {
		t.Error("a pause without events")
	}
	r.guest(SideSource, event(EventStop, 10, 0)) // somebody pauses it
	r.guest(SideSource, event(EventResume, 500, 0))
	r.guest(SideSource, event(EventStop, 600, 0)) // the switch
	r.guest(SideDestination, event(EventResume, 640, 0))
	r.guest(SideSource, event(EventStop, 9000, 0)) // what comes later is another matter
	if r.downtime(&out); *out.DowntimeMS != 40 {
		t.Errorf("%v ms", *out.DowntimeMS)
	}
	r = newRecorder(t0)
	r.guest(SideSource, event(EventStop, 600, 0))
	r.guest(SideSource, event(EventResume, 900, 0))
	if r.downtime(&out); *out.DowntimeMS != 300 || out.DowntimeParts["return"] != 300 {
		t.Errorf("taken back: %v %v", *out.DowntimeMS, out.DowntimeParts)
	}
}

func figures(sent, pages, round int64) Stats {
	return Stats{RAMSent: &sent, NormalPages: &pages, Round: &round}
}

func TestRounds(t *testing.T) {
	r := newRecorder(t0)
	r.stats(at(0), figures(0, 0, 1))
	r.stats(at(900), figures(1000, 10, 1))
	r.guest(SideSource, GuestEvent{Kind: EventRound, Round: 2, Seen: at(1000)})
	r.stats(at(1100), figures(1200, 12, 2)) // the event was there first
	r.stats(at(1500), figures(1400, 14, 3)) // no event came for this one
	r.stats(at(1600), figures(1450, 15, 3))
	r.ready(at(1700))
	r.stats(at(2000), figures(9000, 90, 4)) // post-copy is no round
	want := []ReportRound{{10, 1000, 1000}, {2, 200, 500}, {3, 250, 200}}
	got := r.ramReport().Rounds
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("round %d: %+v, want %+v", i+1, got[i], want[i])
		}
	}
}

func TestPredict(t *testing.T) {
	s := func(dirty, bw int64) Stats {
		total := int64(1000)
		return Stats{RAMTotal: &total, DirtyRate: &dirty, Bandwidth: &bw}
	}
	if p := Predict(Stats{}, 1000, Params{}); p != nil {
		t.Errorf("from nothing: %v", p)
	}
	p := Predict(s(10, 100), 0, Params{MaxDowntime: 100 * time.Millisecond}) // 1000 + 100 + 10 = what fits the pause
	if got := p[StrategyPrecopy]; got.SentBytes != 1110 || *got.DowntimeMS != 100 || got.TotalMS != 11100 {
		t.Errorf("precopy %+v", got)
	}
	if got := p[StrategyPostcopy]; got.SentBytes != 1000 || got.TotalMS != 10000 {
		t.Errorf("postcopy %+v", got)
	}
	p = Predict(s(200, 100), 0, Params{}) // it never converges
	if got := p[StrategyPrecopy]; got.SentBytes < 30000 || *got.DowntimeMS < 1000 {
		t.Errorf("precopy of a guest that writes faster: %+v", got)
	}
}

// TestPredictZeroPages: what is known to be zero is not sent, and no count of zero pages makes a prediction of nothing.
func TestPredictZeroPages(t *testing.T) {
	for _, c := range []struct{ zero, normal, page, want int64 }{
		{60, 20, 10, 400}, // in round 1: 60 of 100 pages are known to be zero
		{60, 70, 10, 700}, // some were zero first and were written later
		{500, 0, 10, 10},
		{60, 20, 0, 1000},
		{0, 0, 10, 1000},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, 1000},
		{-1, -1, -1, 1000},
	} {
		s := Stats{RAMTotal: pointer(int64(1000)), Bandwidth: pointer(int64(100)), ZeroPages: &c.zero, NormalPages: &c.normal, PageSize: &c.page}
		if got := Predict(s, 0, Params{})[StrategyPostcopy]; got.SentBytes != c.want || got.TotalMS != float64(c.want)*10 {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

// TestPredictAgain: a dirty rate of 0 is no rate, in whatever round. Without one it is predicted once more after the first
// round; once there is one, all is predicted from the same figures, and from then on nothing more.
func TestPredictAgain(t *testing.T) {
	r := newRecorder(t0)
	r.phase(t0, PhaseCopying)
	feed := func(round, rate, bw, zero int64) {
		r.stats(t0, Stats{RAMTotal: pointer(int64(1000)), PageSize: pointer(int64(1)), ZeroPages: &zero, Round: &round, DirtyRate: &rate, Bandwidth: &bw})
	}
	feed(1, 0, 0, 0)
	if r.predicted != nil {
		t.Errorf("without a bandwidth: %v", r.predicted)
	}
	feed(1, 0, 100, 100)
	feed(1, 0, 100, 200)
	if len(r.predicted) != 1 || r.predicted[StrategyPostcopy].SentBytes != 900 {
		t.Errorf("in the first round: %v", r.predicted)
	}
	feed(2, 0, 50, 500) // a first round that was shorter than QEMU counts
	feed(3, 0, 50, 550)
	if len(r.predicted) != 1 || r.predicted[StrategyPostcopy].SentBytes != 500 {
		t.Errorf("without a rate: %v", r.predicted)
	}
	feed(3, 10, 200, 600)
	if p := r.predicted; len(p) != 3 || p[StrategyPostcopy].SentBytes != 400 || p[StrategyHybrid].SentBytes != 420 || p[StrategyPrecopy].SentBytes != 420 {
		t.Errorf("with all figures: %v", p)
	}
	feed(4, 20, 400, 700)
	if r.predicted[StrategyPostcopy].SentBytes != 400 {
		t.Errorf("predicted with hindsight: %v", r.predicted)
	}
}

func f64(v float64) *float64 { return &v }

func sampleReports() map[string]Report {
	done := Report{Schema: ReportSchema, Migration: "m-k3x9qz7a", Domain: "web", Source: "qemu+tls://alpha.example.org/system",
		Dest: "qemu+tls://beta.example.org/system", Started: "2026-11-22T01:02:03Z", Engine: EngineNative, Strategy: StrategyHybrid,
		EngineReason: "auto: rounds may not shrink", Outcome: OutcomeCompleted, Owner: OwnerDestination, TotalMS: f64(12340),
		DowntimeMS: f64(43), DowntimeClock: clockHosts, DowntimeParts: map[string]float64{"last_copy": 30, "commit": 1.5, "resume": 11.5},
		OutsideDowntimeMS: f64(61), RAM: &ReportRAM{TotalBytes: pointer(int64(512 << 20)), SentBytes: pointer(int64(561 << 20)), Faults: pointer(int64(1)),
			FaultUS: &ReportFault{P50: 210, P99: 1900, Max: 2400}},
		Disks: []ReportDisk{{Name: "vda", Bytes: 256 << 20, SentBytes: pointer(int64(41 << 20))}},
		Predicted: map[Strategy]ReportPrediction{
			StrategyHybrid:  {ReportPoint: ReportPoint{TotalMS: 11900, SentBytes: 540 << 20}},
			StrategyPrecopy: {ReportPoint: ReportPoint{TotalMS: 81000, DowntimeMS: f64(2100), SentBytes: 9 << 30}}},
		Phases: []ReportPhase{{"checking", 0, 420}, {"preparing", 420, 900}, {"copying", 1320, 8000}, {"switching", 9320, 43},
			{"paging", 9363, 2900}, {"finishing", 12263, 77}},
		Notes: []string{"recovery, try 1", "round 3 did not shrink any more (21.0 MiB left after 22.5 MiB): over to post-copy, which sends what is left only once"}}
	for i := range 12 {
		done.RAM.Rounds = append(done.RAM.Rounds, ReportRound{Pages: int64(131072 >> i), Bytes: int64(512<<20) >> i, MS: 4000 / float64(i+1)})
	}
	lost := Report{Schema: ReportSchema, Migration: "m-aaaabbbb", Domain: "db", Engine: EngineNative, Strategy: StrategyPrecopy, Outcome: OutcomeUnknown,
		Owner: OwnerUnknown, Error: &ReportError{Phase: "switching", Fix: "vmmigrate recover m-aaaabbbb shows both ends and lets you decide",
			Cause: "start the guest (destination): owner of the guest unknown (the destination may run the guest and does not answer; nobody is resumed): connection lost"},
		Phases: []ReportPhase{{"checking", 0, 0}}}
	return map[string]Report{"completed": done, "unknown": lost}
}

// TestReportText compares with testdata/report-*.txt and holds the lines to their width.
func TestReportText(t *testing.T) {
	for name, r := range sampleReports() {
		for _, width := range []int{80, 60, 44} {
			text := r.Text(width)
			limit := width
			if limit < 60 {
				limit = 80
			}
			for _, l := range strings.Split(text, "\n") {
				if columns(l) > limit || strings.TrimRight(l, " ") != l {
					t.Errorf("%s at %d: %d columns: %q", name, width, columns(l), l)
				}
			}
		}
		file := "testdata/report-" + name + ".txt"
		if *update {
			if err := os.WriteFile(file, []byte(r.Text(80)), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Text(80); got != string(want) {
			t.Errorf("%s differs (run with -update and read the diff):\n%s", name, firstDifference(string(want), got))
		}
	}
}

func TestShow(t *testing.T) {
	for v, want := range map[float64]string{0: "0.0 ms", 9.94: "9.9 ms", 9.96: "10 ms", 999: "999 ms", 999.6: "1.00 s", 12340: "12.3 s",
		59960: "1 min 00 s", 200000: "3 min 20 s", 7.5 * 3600e3: "7 h 30 min"} {
		if got := showMS(v); got != want {
			t.Errorf("%v ms: %q, want %q", v, got, want)
		}
	}
	for v, want := range map[int64]string{0: "0 B", 999: "999 B", 1 << 10: "1 KiB", 1536: "1.50 KiB", 1023 << 20: "1.00 GiB", math.MaxInt64: "8 EiB", 561 << 20: "561 MiB"} {
		if got := showBytes(v); got != want {
			t.Errorf("%d bytes: %q, want %q", v, got, want)
		}
	}
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{"copying", "source", "completed", "copy", "failed", "nothing", "", "phase(3)"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Phase
		var o Owner
		var c Outcome
		var s Step
		var r Reason
		var k PlanKind
		for _, v := range []interface {
			UnmarshalText([]byte) error
		}{&p, &o, &c, &s, &r, &k} {
			if err := v.UnmarshalText(b); err == nil {
				if got, _ := v.(interface{ MarshalText() ([]byte, error) }).MarshalText(); string(got) != string(b) {
					t.Errorf("%T read %q and wrote %q", v, b, got)
				}
			}
		}
	})
}
