package cycle

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/synth"
)

func TestDetectRefusesWhatIsNoSeries(t *testing.T) {
	one := []float64{1}
	for name, s := range map[string]sample.Series{
		"empty":         {Step: time.Second},
		"no step":       {Values: one},
		"negative step": {Step: -1, Values: one},
		"too long":      {Step: 1, Values: make([]float64, sample.MaxSamples+1)},
	} {
		if _, err := Detect(s, Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Detect(sample.Series{Step: 1}, Options{}); !errors.Is(err, sample.ErrNoSamples) {
		t.Errorf("empty: %v", err)
	}
	for _, o := range []Options{{Confidence: 2}, {Shortest: -1}, {Most: -1}, {Confidence: math.NaN()}} {
		if _, err := Detect(sample.Series{Step: 1, Values: one}, o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestDetectAbstainsWithAReason(t *testing.T) {
	missing := make([]float64, 100)
	for i := range missing {
		missing[i] = math.NaN()
	}
	noise, _ := synth.Spec{Seed: 1, Step: time.Second, Samples: 500, NoiseLevel: 1}.Make()
	twice, _ := synth.Spec{Seed: 1, Step: time.Second, Samples: 220, Waves: []synth.Wave{{Shape: synth.Sine, Period: 100 * time.Second, Amplitude: 1}}}.Make()
	for want, values := range map[string][]float64{
		"only 1 samples":   {1},
		"only 0 samples":   missing,
		"constant":         make([]float64, 100),
		"likeliest":        noise.Values,
		"likeliest period": twice.Values,
	} {
		r, err := Detect(sample.Series{Step: time.Second, Values: values}, Options{})
		if err != nil || len(r.Cycles) > 0 || !strings.Contains(r.Why, want) {
			t.Errorf("%q: %+v, %v", want, r, err)
		}
	}
}

func TestDetectIsBlindToScaleAndShift(t *testing.T) {
	for _, c := range synth.Set(500, 6) {
		plain, _ := Detect(c.Series, Options{})
		for _, f := range []func(v float64) float64{
			func(v float64) float64 { return v * 1e-200 },
			func(v float64) float64 { return v * 1e300 },
			func(v float64) float64 { return -v },
			func(v float64) float64 { return v - 1000 },
		} {
			other := c.Series
			other.Values = slices.Clone(c.Series.Values)
			for i, v := range other.Values {
				other.Values[i] = f(v)
			}
			r, _ := Detect(other, Options{})
			if len(r.Cycles) != len(plain.Cycles) {
				t.Errorf("%v: %v, then %v", c, plain.Cycles, r.Cycles)
				continue
			}
			for i, y := range r.Cycles {
				if off := nearest(y.Period, []time.Duration{plain.Cycles[i].Period}); off > 1e-3 {
					t.Errorf("%v: %v, then %v", c, plain.Cycles, r.Cycles)
				}
			}
		}
	}
}

func TestDetectLeavesItsInputAloneAndIsDeterministic(t *testing.T) {
	for _, c := range synth.Set(600, 3) {
		before := slices.Clone(c.Series.Values)
		a, _ := Detect(c.Series, Options{})
		b, _ := Detect(c.Series, Options{})
		if a.Why != b.Why || !slices.Equal(a.Cycles, b.Cycles) {
			t.Errorf("%v: %v, then %v", c, a, b)
		}
		if !slices.EqualFunc(before, c.Series.Values, func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }) {
			t.Errorf("%v: values were changed", c)
		}
	}
}

func TestDetectKeepsToItsOptions(t *testing.T) {
	s, _ := synth.Spec{Seed: 2, Step: time.Second, Samples: 6000, Waves: []synth.Wave{
		{Shape: synth.Sine, Period: 30 * time.Second, Amplitude: 1}, {Shape: synth.Square, Period: 500 * time.Second, Amplitude: 1}}}.Make()
	for _, c := range []struct {
		o    Options
		want int
	}{{Options{}, 2}, {Options{Most: 1}, 1}, {Options{Longest: 100 * time.Second}, 1}, {Options{Shortest: 100 * time.Second}, 1}} {
		r, err := Detect(s, c.o)
		if err != nil || len(r.Cycles) != c.want {
			t.Errorf("%+v: %+v, %v", c.o, r, err)
		}
	}
}

func TestLongSeriesAreLookedAtWhole(t *testing.T) {
	s, _ := synth.Spec{Seed: 3, Step: time.Second, Samples: 300_000, NoiseLevel: 0.5, Waves: []synth.Wave{
		{Shape: synth.Pulse, Duty: 0.2, Period: 60 * time.Second, Amplitude: 1}, {Shape: synth.Sine, Period: 8 * time.Hour, Amplitude: 1}}}.Make()
	r, err := Detect(s, Options{})
	if err != nil || !named(time.Minute, r) || !named(8*time.Hour, r) {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzDetect(f *testing.F) {
	put := func(values ...float64) []byte {
		var out []byte
		for range 20 {
			for _, v := range values {
				out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
			}
		}
		return out
	}
	f.Add(int64(1), put(1, 2, 3, math.NaN()))
	f.Add(int64(time.Second), put(0, 0, 0, math.Inf(1), 1, 0))
	f.Add(int64(math.MaxInt64), put(math.MaxFloat64, -math.MaxFloat64))
	f.Add(int64(0), put(math.SmallestNonzeroFloat64, 0, 0, 0, 0))
	f.Add(int64(7), put(5))
	f.Fuzz(func(t *testing.T, step int64, data []byte) {
		s := sample.Series{Step: time.Duration(step)}
		for ; len(data) >= 8; data = data[8:] {
			s.Values = append(s.Values, math.Float64frombits(binary.LittleEndian.Uint64(data)))
		}
		r, err := Detect(s, Options{})
		if err != nil {
			return
		}
		if r.Why == "" || !(r.Known >= 0 && r.Known <= 1) {
			t.Fatalf("%+v", r)
		}
		for _, c := range r.Cycles {
			if c.Period <= 0 || !(c.Confidence >= 0 && c.Confidence <= 1) || !(c.Strength >= 0 && c.Strength <= 1) || !(math.Abs(c.Drift) < 1) {
				t.Fatalf("%+v", c)
			}
			Fold(s, c, 24).At(s.Start.Add(time.Hour))
		}
	})
}

// BenchmarkDetect is of one million samples with two cycles, the most that is promised in a second.
func BenchmarkDetect(b *testing.B) {
	s, _ := synth.Spec{Seed: 3, Step: time.Second, Samples: 1_000_000, NoiseLevel: 0.5, Scattered: 0.1, Waves: []synth.Wave{
		{Shape: synth.Pulse, Duty: 0.2, Period: 60 * time.Second, Amplitude: 1}, {Shape: synth.Sine, Period: 24 * time.Hour, Amplitude: 1}}}.Make()
	b.ReportAllocs()
	for b.Loop() {
		if r, err := Detect(s, Options{}); err != nil || len(r.Cycles) == 0 {
			b.Fatal(r, err)
		}
	}
}
