package cycle

import (
	"math"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/synth"
)

func square(drift float64) sample.Series {
	s, _ := synth.Spec{Seed: 4, Start: time.Unix(1700000000, 0), Step: time.Second, Samples: 4000, Level: 10,
		Waves: []synth.Wave{{Shape: synth.Square, Period: 100 * time.Second, Amplitude: 1, Drift: drift}}}.Make()
	return s
}

func TestFoldShowsTheShape(t *testing.T) {
	s := square(0)
	s.Values[17] = math.NaN()
	p := Fold(s, Cycle{Period: 100 * time.Second}, 20)
	for i, v := range s.Values {
		b := p.At(s.At(i).Add(s.Step / 2))
		if i != 17 && (v < b.Low || v > b.High) {
			t.Fatalf("sample %d is %g, the profile says %+v", i, v, b)
		}
	}
	if a, b := p.At(s.End().Add(10*time.Second)), p.At(s.End().Add(1010*time.Second)); a != b {
		t.Errorf("ten periods later it expects %+v instead of %+v", b, a)
	}
}

func TestFoldOfNothing(t *testing.T) {
	if p := Fold(sample.Series{}, Cycle{Period: time.Second}, 5); p.At(time.Now()) != (Bin{}) {
		t.Error("something is expected of nothing")
	}
	s := sample.Series{Step: time.Second, Values: []float64{1, math.NaN(), math.NaN(), 4}}
	p := Fold(s, Cycle{Period: 4 * time.Second}, 1000)
	if len(p.Bins) != 4 || p.Bins[1].Median != 1 || p.Bins[1].N != 0 {
		t.Errorf("%+v", p)
	}
}
