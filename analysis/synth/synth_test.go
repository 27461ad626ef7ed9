package synth

import (
	"math"
	"slices"
	"testing"
	"time"
)

func TestCasesComeFromTheirSeedAlone(t *testing.T) {
	for i, c := range Set(7, 40) {
		again := Set(7, 40)[i]
		same := func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) }
		if !slices.EqualFunc(c.Series.Values, again.Series.Values, same) {
			t.Fatalf("%v: not the same twice", c)
		}
	}
	if slices.Equal(Cyclic(1).Series.Values, Cyclic(2).Series.Values) {
		t.Error("two seeds, one series")
	}
}

func TestCasesKeepToTheirRanges(t *testing.T) {
	for _, c := range Set(1000, 300) {
		missing := 1 - float64(c.Series.Known())/float64(c.Series.Len())
		if missing > 0.25 {
			t.Errorf("%v: %.0f %% are missing", c, 100*missing)
		}
		for i, p := range c.Periods {
			if seen := c.Series.Span().Seconds() / p.Seconds(); seen < 4 {
				t.Errorf("%v: period %s is seen %.1f times", c, p, seen)
			}
			if off := math.Abs(p.Seconds()/c.Spec.Waves[i].Period.Seconds() - 1); off > 0.25 {
				t.Errorf("%v: period %s for %s", c, p, c.Spec.Waves[i].Period)
			}
		}
		if len(c.Periods) == 0 && len(c.Spec.Waves) > 0 {
			t.Errorf("%v: waves without periods", c)
		}
	}
}

func TestSpecDrawsWhatItSays(t *testing.T) {
	s := Spec{Seed: 1, Step: time.Second, Samples: 400, Level: 5, Trend: 4, Waves: []Wave{{Shape: Square, Period: 40 * time.Second, Amplitude: 2}}}
	series, periods := s.Make()
	if periods[0] != 40*time.Second {
		t.Errorf("period %s", periods[0])
	}
	for i, v := range series.Values {
		level := 5 + 4*float64(i)/400
		if d := math.Abs(v - level); math.Abs(d-2) > 1e-9 {
			t.Fatalf("value %d is %g, %g from the level", i, v, d)
		}
		if i >= 40 {
			if other := series.Values[i-40] + 0.4; math.Abs(v-other) > 1e-9 {
				t.Fatalf("value %d is %g, one period before it was %g", i, v, other)
			}
		}
	}
}

func TestGapsAreAsLargeAsAsked(t *testing.T) {
	for _, s := range []Spec{{Scattered: 0.2}, {Blocks: 0.2}} {
		s.Seed, s.Step, s.Samples = 3, time.Second, 20000
		series, _ := s.Make()
		missing := 1 - float64(series.Known())/20000
		if missing < 0.15 || missing > 0.21 {
			t.Errorf("%+v: %.3f missing", s, missing)
		}
	}
}
