package advise

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

func policies() []Policy { return Policies(1) }

func show(t *testing.T, name string, all []Outcome) {
	t.Helper()
	for _, o := range all {
		t.Logf("%-24s %-14s runs %d waits %d in vain %d late %d renewed %d: %5.0f MiB %5.1f s pause %4.0f ms waited %3.0f s; regret %.1f %% median %.1f %% mean; against now %+.1f %%; less than random: data %.0f %% duration %.0f %%",
			name, o.Policy, o.Runs, o.Waits, o.InVain, o.Late, o.Renewed, o.Bytes/mib, o.Duration, o.Downtime*1000, o.Waited, o.Regret*100, o.RegretMean*100, o.WorseThanNow*100, o.BytesLess*100, o.DurationLess*100)
	}
}

func of(all []Outcome, p Policy) Outcome {
	for _, o := range all {
		if o.Policy == p.Name() {
			return o
		}
	}
	return Outcome{}
}

// cyclicCases are busy for most of the cycle, with more than the link carries; which a start at a random moment mostly meets.
func cyclicCases(n int, noise, jitter float64, ways []forecast.Way) (out []Case, periods []float64) {
	for i := range n {
		period := 60 + 60*float64(i%5)
		s := spec{period: period, busy: 0.6 + 0.05*float64(i%4), high: (120 + 40*float64(i%3)) * mib, low: (2 + 2*float64(i%4)) * mib, noise: noise, jitter: jitter}
		out = append(out, Case{Name: fmt.Sprint("cyclic ", i), Dirty: s.series(40*time.Duration(period)*time.Second, uint64(i)), Guest: guest, Link: link, Ways: ways,
			Wait: time.Duration(2.5 * period * float64(time.Second)), MayPostcopy: true})
		periods = append(periods, period)
	}
	return out, periods
}

func simulate(t *testing.T, cases []Case, periods []float64, o Options) []Outcome {
	t.Helper()
	var runs []Run
	for i, c := range cases {
		o.Seed = uint64(i)
		o.Detect = none
		if periods != nil {
			o.Detect = known(periods[i], 0.005*float64(i%5-2))
		}
		_, more, err := Simulate(policies(), []Case{c}, o)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, more...)
	}
	return Sum(policies(), runs)
}

func TestOnCyclicSeriesCycleSavesWhatItPromises(t *testing.T) {
	for _, noise := range []float64{0.1, 0.6} {
		cases, periods := cyclicCases(8, noise, 0, precopy)
		all := simulate(t, cases, periods, Options{Requests: 5, Renew: 5 * time.Second})
		show(t, fmt.Sprintf("precopy, noise %.0f %%", noise*100), all)
		o := of(all, Cycle{})
		if o.BytesLess < 0.6 || o.DurationLess < 0.6 || o.Regret > 0.1 || o.RegretMean > 0.1 || o.Late > 0 || o.InVain > o.Waits/20 {
			t.Errorf("%+v", o)
		}
	}
}

func TestOnCyclesThatJitter(t *testing.T) {
	for _, jitter := range []float64{0.03, 0.1} {
		cases, periods := cyclicCases(8, 0.3, jitter, precopy)
		all := simulate(t, cases, periods, Options{Requests: 5, Renew: 5 * time.Second})
		show(t, fmt.Sprintf("precopy, jitter %.0f %%", jitter*100), all)
		if o := of(all, Cycle{}); o.Late > 0 || o.Regret > 0.1 {
			t.Errorf("%+v", o)
		}
	}
}

// Hybrid's cost hardly depends on the moment: what it sends has the guest's RAM for a floor. It is measured, and held to regret.
func TestHybridOnCyclicSeries(t *testing.T) {
	cases, periods := cyclicCases(8, 0.3, 0, hybrid)
	all := simulate(t, cases, periods, Options{Requests: 5, Renew: 5 * time.Second})
	show(t, "hybrid", all)
	if o := of(all, Cycle{}); o.Regret > 0.1 || o.Late > 0 {
		t.Errorf("%+v", o)
	}
}

// The same with the cycles found, not told.
func TestWithCyclesThatAreDetected(t *testing.T) {
	cases, _ := cyclicCases(6, 0.3, 0, precopy)
	all, _, err := Simulate(policies(), cases, Options{Requests: 3, Renew: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	show(t, "precopy, detected", all)
	if o := of(all, Cycle{}); o.BytesLess < 0.6 || o.DurationLess < 0.6 || o.Regret > 0.1 || o.RegretMean > 0.1 || o.Late > 0 {
		t.Errorf("%+v", o)
	}
	if all, _, err = Simulate(policies(), acyclicCases(6), Options{Requests: 3, Renew: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	show(t, "acyclic, detected", all)
	if o := of(all, Cycle{}); o.WorseThanNow > 0.02 || o.Late > 0 {
		t.Errorf("%+v", o)
	}
}

func acyclicCases(n int) []Case {
	var out []Case
	for i := range n {
		out = append(out, Case{Name: fmt.Sprint("acyclic ", i), Dirty: walk(i, time.Hour, uint64(i)), Guest: guest, Link: link, Ways: forecast.Ways(), Wait: 10 * time.Minute, MayPostcopy: i%2 == 0})
	}
	return out
}

func TestOnAcyclicSeriesCycleIsNow(t *testing.T) {
	all := simulate(t, acyclicCases(9), nil, Options{Requests: 5, Renew: 10 * time.Second})
	show(t, "acyclic", all)
	if o := of(all, Cycle{}); o.Waits > 0 || o.WorseThanNow > 0 {
		t.Errorf("%+v", o)
	}
}

// A cycle that is none, found by mistake: the curve shows nothing worth waiting for.
func TestOnAcyclicSeriesTakenForCyclicLittleIsLost(t *testing.T) {
	cases := acyclicCases(9)
	periods := make([]float64, len(cases))
	for i := range periods {
		periods[i] = 100 + 30*float64(i%7)
	}
	all := simulate(t, cases, periods, Options{Requests: 5, Renew: 10 * time.Second})
	show(t, "acyclic, taken for cyclic", all)
	if o := of(all, Cycle{}); o.WorseThanNow > 0.02 || o.Late > 0 {
		t.Errorf("%+v", o)
	}
}

// With windows, disk writes and gaps, in all ways: nothing breaks, nobody is late, and waits pay.
func TestSimulateTakesWindowsDisksAndGaps(t *testing.T) {
	c := Case{Name: "all", Guest: guest, Link: link, Wait: 10 * time.Minute, MayPostcopy: true, MayThrottle: true}
	c.Guest.Disks = 300 * mib
	c.Dirty = spec{period: 200, busy: 0.7, high: 200 * mib, low: 4 * mib, noise: 0.2}.series(2*time.Hour, 5)
	c.DiskWrites = spec{period: 200, busy: 0.7, high: 30 * mib, low: mib, noise: 0.2}.series(2*time.Hour, 5)
	for i := range c.Dirty.Values {
		if i%97 < 9 {
			c.Dirty.Values[i] = math.NaN()
		}
	}
	one := c.Dirty
	one.Values = slices.Clone(c.Dirty.Values)
	c.Windows = sample.Windows{one}
	for step := 2; step <= 64; step *= 2 { // half of each later half is new
		before := c.Windows[len(c.Windows)-1]
		w := sample.Series{Name: "dirty", Start: begin, Step: time.Duration(step) * time.Second}
		for i := 0; i+1 < before.Len(); i += 2 {
			a, b := before.Values[i], before.Values[i+1]
			w.Values = append(w.Values, max(a, b)+0.5*min(a, b))
		}
		c.Windows = append(c.Windows, w)
	}
	all, runs, err := Simulate(policies(), []Case{c}, Options{Requests: 20, Renew: 10 * time.Second, Detect: known(200, 0.01)})
	if err != nil {
		t.Fatal(err)
	}
	show(t, "windows, disks, gaps", all)
	o := of(all, Cycle{})
	if o.Late > 0 || o.Waits == 0 || o.WorseThanNow >= 0 || o.Regret > 0.1 {
		t.Errorf("%+v", o)
	}
	for _, r := range runs {
		if r.Cost.Bytes < float64(guest.NonZero+c.Guest.Disks) || r.BestScore <= 0 || r.Score < 0.97*r.BestScore {
			t.Errorf("%s: %+v beside %+v", r.Policy, r.Cost, r.Best)
		}
	}
}

func TestSimulateRefusesSeriesThatAreTooShort(t *testing.T) {
	c := acyclicCases(1)[0]
	c.Wait = time.Hour
	if _, _, err := Simulate(policies(), []Case{c}, Options{}); err == nil {
		t.Error("no error")
	}
	c.Dirty = sample.Series{}
	if _, _, err := Simulate(policies(), []Case{c}, Options{}); err == nil {
		t.Error("no error without samples")
	}
}
