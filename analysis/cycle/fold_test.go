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

func TestFoldFollowsDrift(t *testing.T) {
	s := square(0.2)
	r, err := Detect(s, Options{})
	if err != nil || len(r.Cycles) == 0 {
		t.Fatal(r, err)
	}
	c := r.Cycles[0]
	if want := 0.2 / 40; math.Abs(c.Drift-want) > want/3 {
		t.Errorf("drift %g, want %g", c.Drift, want)
	}
	p := Fold(s, c, 20)
	sharp := 0
	for _, b := range p.Bins {
		if b.High-b.Low < 0.5 {
			sharp++
		}
	}
	if sharp < 14 {
		t.Errorf("only %d of 20 bins are sharp: %+v", sharp, p.Bins)
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
