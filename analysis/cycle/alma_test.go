package cycle

import (
	"math"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/synth"
)

func TestALMAFindsAPlainCycleAndItsSuitableMoments(t *testing.T) {
	s := square(0)
	r, suitable, err := DetectALMA(s, ALMAOptions{})
	if err != nil || len(r.Cycles) != 1 || nearest(r.Cycles[0].Period, []time.Duration{100 * time.Second}) > 0.02 {
		t.Fatalf("%+v, %v", r, err)
	}
	for i, v := range s.Values {
		if suitable[i] != (v < 10) {
			t.Fatalf("sample %d is %g, and suitable: %v", i, v, suitable[i])
		}
	}
}

func TestALMAListensToEachMetric(t *testing.T) {
	// The first metric says nothing; the second is what the labels were given by.
	quiet, _ := synth.Spec{Seed: 1, Start: time.Unix(0, 0), Step: time.Second, Samples: 4000, NoiseLevel: 1}.Make()
	disk, _ := synth.Spec{Seed: 2, Start: time.Unix(0, 0), Step: time.Second, Samples: 4000,
		Waves: []synth.Wave{{Shape: synth.Square, Period: 50 * time.Second, Amplitude: 1}}}.Make()
	var moments [][]float64
	var labels []bool
	for _, d := range []float64{-1, 1} {
		for i := range 100 {
			moments = append(moments, []float64{float64(i%7)/7 - 0.5, d})
			labels = append(labels, d < 0)
		}
	}
	model, err := Train(moments, labels)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := DetectALMA(quiet, ALMAOptions{Beside: []sample.Series{disk}, Model: model})
	if err != nil || len(r.Cycles) != 1 || nearest(r.Cycles[0].Period, []time.Duration{50 * time.Second}) > 0.02 {
		t.Errorf("%+v, %v", r, err)
	}
	disk.Step = time.Minute
	if _, _, err := DetectALMA(quiet, ALMAOptions{Beside: []sample.Series{disk}}); err == nil {
		t.Error("series on other grids are taken")
	}
}

func TestALMAOfNothing(t *testing.T) {
	nan := math.NaN()
	for _, values := range [][]float64{{nan, nan}, {1}, {1, 1, 1, 1, 1}, {math.Inf(1), nan, 3}, {math.MaxFloat64, -math.MaxFloat64, 0, 0}} {
		if r, _, err := DetectALMA(sample.Series{Step: 1, Values: values}, ALMAOptions{}); err != nil || len(r.Cycles) > 0 || r.Why == "" {
			t.Errorf("%v: %+v, %v", values, r, err)
		}
	}
	if _, _, err := DetectALMA(sample.Series{}, ALMAOptions{}); err == nil {
		t.Error("no series, and no error")
	}
	if _, err := Train(nil, nil); err == nil {
		t.Error("trained on nothing")
	}
}
