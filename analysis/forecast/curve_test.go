package forecast

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

var cyclic = workload{{lasts: 70, rate: 200 * mib, hot: 900 * mib, diskWrites: 20 * mib}, {lasts: 50, rate: 8 * mib, hot: 40 * mib, diskWrites: mib}}

func cycles(period float64) cycle.Result {
	return cycle.Result{Cycles: []cycle.Cycle{{Period: seconds(period), Confidence: 0.9, Strength: 0.8}}, Known: 1}
}

func off(got, want float64) float64 { return math.Abs(got-want) / max(want, mib) }

func TestCurveKnowsDistinctBytesByPartOfTheCycleAndByLength(t *testing.T) {
	src := cyclic.sources(30*time.Minute, 0.05, 1)
	src.Cycles = cycles(cyclic.period() * 1.01) // as a detector finds it
	c, err := NewCurve(src)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Period().Seconds(); math.Abs(got-120) > 0.5 {
		t.Errorf("a period of %.2f s, want 120", got)
	}
	worst, sum, n := 0.0, 0.0, 0.0
	for phase := 3.0; phase < 120; phase += 7 {
		for _, window := range []float64{0.5, 1, 3, 10, 25, 60} {
			from := begin.Add(31*time.Minute + seconds(phase))
			got, want := c.Dirtied(from, seconds(window)), cyclic.Dirtied(from, seconds(window)).Expected
			o := math.Abs(got.Expected-want) / max(want, 40*mib) // a fifth of what a busy second writes
			sum, n, worst = sum+o, n+1, max(worst, o)
			if got.Low > got.Expected || got.High < got.Expected {
				t.Errorf("%+v", got)
			}
		}
	}
	t.Logf("off by %.1f %% on average, %.0f %% at worst", sum/n*100, worst*100)
	if sum/n > 0.12 {
		t.Errorf("off by %.1f %% on average", sum/n*100)
	}
}

func TestCurveOfRatesAloneHasWiderRanges(t *testing.T) {
	src := cyclic.sources(30*time.Minute, 0.05, 1)
	src.Cycles = cycles(120)
	with, err := NewCurve(src)
	if err != nil {
		t.Fatal(err)
	}
	src.Windows = nil
	without, err := NewCurve(src)
	if err != nil {
		t.Fatal(err)
	}
	at := begin.Add(31 * time.Minute)
	a, b := with.Dirtied(at, 20*time.Second), without.Dirtied(at, 20*time.Second)
	if b.High-b.Low < 1.5*(a.High-a.Low) {
		t.Errorf("%+v with windows, %+v without", a, b)
	}
}

func TestCurveWithoutCycleIsTheRecentLevel(t *testing.T) {
	s := sample.Series{Name: "dirty", Start: begin, Step: time.Second}
	for i := range 4000 {
		s.Values = append(s.Values, map[bool]float64{true: 100 * mib, false: 10 * mib}[i > 2000])
	}
	c, err := NewCurve(Sources{Dirty: s})
	if err != nil {
		t.Fatal(err)
	}
	got := c.Dirtied(s.End().Add(time.Hour), time.Second)
	if off(got.Expected, 100*mib) > 0.01 || c.Period() != 0 {
		t.Errorf("%+v, period %s", got, c.Period())
	}
	if w := c.DiskWrites(s.End(), time.Hour); w != (Range{}) {
		t.Errorf("%+v of disk writes that nobody saw", w)
	}
}

// Longer windows and more writes never give less.
func TestCurveGrows(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		w := workload{{lasts: 5 + 60*r.Float64(), rate: 300 * mib * r.Float64(), hot: mib + 500*mib*r.Float64()}, {lasts: 5 + 60*r.Float64(), rate: 30 * mib * r.Float64(), hot: 50 * mib}}
		src := w.sources(10*time.Minute, 0.2, r.Uint64())
		src.Cycles = cycles(w.period())
		c, err := NewCurve(src)
		if err != nil {
			t.Fatal(err)
		}
		from, last := begin.Add(seconds(1000*r.Float64())), Range{}
		for window := 100 * time.Millisecond; window < time.Hour; window = window * 5 / 4 {
			got := c.Dirtied(from, window)
			if got.Low < last.Low*0.999999 || got.Expected < last.Expected*0.999999 || got.High < last.High*0.999999 {
				t.Fatalf("%s: %+v after %+v", window, got, last)
			}
			last = got
		}
	}
}

func TestTraceGivesWhatWas(t *testing.T) {
	src := cyclic.sources(20*time.Minute, 0, 1)
	c, err := NewTrace(src)
	if err != nil {
		t.Fatal(err)
	}
	sum, n := 0.0, 0.0
	for at := 0.0; at < 900; at += 13 {
		for _, window := range []float64{1, 4, 20, 60} {
			from := begin.Add(seconds(at))
			sum, n = sum+off(c.Dirtied(from, seconds(window)).Expected, cyclic.Dirtied(from, seconds(window)).Expected), n+1
			if got, want := c.DiskWrites(from, seconds(window)).Expected, cyclic.DiskWrites(from, seconds(window)).Expected; off(got, want) > 0.05 {
				t.Errorf("disk writes at %.0f for %.0f s: %.0f, want %.0f", at, window, got, want)
			}
		}
	}
	t.Logf("off by %.1f %% on average", sum/n*100)
	if sum/n > 0.05 {
		t.Errorf("off by %.1f %% on average", sum/n*100)
	}
}

func TestCurveRefusesWhatCannotBe(t *testing.T) {
	nan := math.NaN()
	for name, values := range map[string][]float64{"nothing": {}, "gaps alone": {nan, nan}, "negative": {1, -1}, "infinite": {1, math.Inf(1)}} {
		s := sample.Series{Name: "dirty", Start: begin, Step: time.Second, Values: values}
		if _, err := NewCurve(Sources{Dirty: s}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := NewTrace(Sources{Dirty: s}); err == nil {
			t.Errorf("%s: no error of a trace", name)
		}
	}
	if _, err := NewCurve(Sources{}); !errors.Is(err, sample.ErrNoSamples) {
		t.Error(err)
	}
	s := sample.Series{Start: begin, Step: time.Second, Values: []float64{nan, 3 * mib, nan}}
	if c, err := NewCurve(Sources{Dirty: s, Cycles: cycles(120)}); err != nil || c.Dirtied(begin, time.Second).Expected != 3*mib {
		t.Errorf("one sample: %v", err)
	}
}

// Cycles of which each is longer or shorter than the one before would smear each other; the last one tells where the guest is.
func TestCurveFollowsCyclesThatAreNotEquallyLong(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	s := sample.Series{Name: "dirty", Start: begin, Step: time.Second}
	for range 20 {
		length := int(120 * math.Exp(0.1*r.NormFloat64()))
		for i := range length {
			v := 6.0 * mib
			if i < length*6/10 {
				v = 200 * mib
			}
			s.Values = append(s.Values, v)
		}
	}
	c, err := NewCurve(Sources{Dirty: s, Cycles: cycles(120)})
	if err != nil {
		t.Fatal(err)
	}
	// A cycle has just ended: the next begins busy, and is quiet towards its end.
	busy, quiet := c.Dirtied(s.End().Add(20*time.Second), time.Second), c.Dirtied(s.End().Add(95*time.Second), time.Second)
	if busy.Expected < 150*mib || quiet.Expected > 50*mib {
		t.Errorf("%.0f MiB/s after 20 s and %.0f after 95, want 200 and 6", busy.Expected/mib, quiet.Expected/mib)
	}
	// Where the change comes is not certain.
	if edge := c.Dirtied(s.End().Add(70*time.Second), time.Second); edge.Low > 10*mib || edge.High < 190*mib {
		t.Errorf("%+v at the edge", edge)
	}
}

// A week of days is folded as such; a longer cycle that the shorter one does not fit into is left out.
func TestCurveKnowsDaysWithinAWeek(t *testing.T) {
	const day = 24 * time.Hour
	s := sample.Series{Name: "dirty", Start: begin, Step: 30 * time.Minute}
	for i := range 5 * 7 * 48 {
		v := 6.0 * mib
		if i%48 < 24 && i/48%7 < 5 {
			v = 200 * mib
		}
		s.Values = append(s.Values, v)
	}
	for _, c := range []struct {
		long time.Duration
		want bool
	}{{7 * day, true}, {7*day + 12*time.Hour, false}} {
		found := cycle.Result{Cycles: []cycle.Cycle{{Period: day, Strength: 0.6}, {Period: c.long, Strength: 0.2}}}
		curve, err := NewCurve(Sources{Dirty: s, Cycles: found})
		if err != nil {
			t.Fatal(err)
		}
		work, weekend := curve.Dirtied(s.End().Add(2*day+6*time.Hour), time.Minute).Expected, curve.Dirtied(s.End().Add(5*day+6*time.Hour), time.Minute).Expected
		if got := work > 5*weekend; got != c.want {
			t.Errorf("%s: %.0f MiB on a workday, %.0f at the weekend", c.long, work/mib, weekend/mib)
		}
	}
}

// Where rates are known by the minute and windows of seconds for the last hour alone, the windows tell what a part of a minute writes.
func TestCurveOfMinutesTakesPartsOfThemFromWindows(t *testing.T) {
	w := workload{{lasts: 100, rate: 100 * mib, hot: 150 * mib}} // a minute writes all of it, and so does half of one
	src := w.sources(20*time.Minute, 0, 1)
	src.Dirty = sample.Series{Name: "dirty", Start: begin.Add(-10 * time.Hour), Step: time.Minute}
	for range 620 {
		src.Dirty.Values = append(src.Dirty.Values, w.distinct(0, 60)/60)
	}
	c, err := NewCurve(src)
	if err != nil {
		t.Fatal(err)
	}
	if c.Step() != time.Minute {
		t.Errorf("a step of %s", c.Step())
	}
	got, want := c.Dirtied(src.Dirty.End(), 15*time.Second).Expected, w.distinct(0, 15)
	src.Windows = nil
	without, err := NewCurve(src)
	if err != nil {
		t.Fatal(err)
	}
	blind := without.Dirtied(src.Dirty.End(), 15*time.Second).Expected
	if off(got, want) > 0.35 || off(got, want) >= off(blind, want) {
		t.Errorf("%.0f MiB in 15 s, %.0f without windows, want %.0f", got/mib, blind/mib, want/mib)
	}
	// Windows of which nothing is known are none.
	src.Windows = sample.Windows{{Name: "dirty", Start: begin, Step: time.Second, Values: []float64{math.NaN()}}}
	if c, err := NewCurve(src); err != nil || c.Step() != time.Minute {
		t.Errorf("windows of nothing: %v", err)
	}
}

// Who can measure one window at a time has none of two lengths beside each other; what is new in longer ones shows all the same.
func TestCurveOfWindowsThatTakeTurns(t *testing.T) {
	for name, w := range map[string]workload{
		"new pages":  steady(10*mib, 4000*mib),
		"same pages": steady(200*mib, 30*mib),
	} {
		src := w.sources(5*time.Minute, 0.05, 3)
		for k, s := range src.Windows { // 1 s has the first half of each 16 s, 2 s the next quarter, and so on
			for i := range s.Values {
				turn := int(time.Duration(i)*s.Step/time.Second) % 16
				if from := 16 - 16>>min(k, 4); turn < from || turn >= 16-8>>min(k, 4) {
					s.Values[i] = math.NaN()
				}
			}
		}
		c, err := NewCurve(src)
		if err != nil {
			t.Fatal(err)
		}
		for _, window := range []float64{2, 4, 7} {
			got, want := c.Dirtied(begin.Add(6*time.Minute), seconds(window)).Expected, w.distinct(0, window)
			if off(got, want) > 0.15 {
				t.Errorf("%s: %.0f MiB in %g s, want %.0f", name, got/mib, window, want/mib)
			}
		}
	}
}
