package sample

import (
	"errors"
	"math"
	"testing"
	"time"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestAppend(t *testing.T) {
	s := Series{Name: "x", Step: time.Second}
	for _, c := range []struct {
		at  time.Duration
		bad bool
	}{{0, false}, {time.Second, false}, {4*time.Second + 900*time.Millisecond, false}, {4*time.Second + 950*time.Millisecond, true}, {0, true}, {-time.Second, true}, {MaxSamples * time.Second, true}} {
		if err := s.Append(begin.Add(c.at), 1); (err != nil) != c.bad {
			t.Errorf("at %s: %v", c.at, err)
		}
	}
	if s.Len() != 5 || s.Known() != 3 || !math.IsNaN(s.Values[2]) || s.Span() != 5*time.Second || !s.End().Equal(begin.Add(5*time.Second)) {
		t.Errorf("%+v", s)
	}
	if err := s.Append(begin.Add(MaxSamples*time.Second), 1); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
	if err := new(Series).Append(begin, 1); err == nil {
		t.Error("a series without a step takes samples")
	}
}

func TestIndexIsTheStepInWhichATimeLies(t *testing.T) {
	s := Series{Start: begin, Step: time.Minute}
	for d, want := range map[time.Duration]int{0: 0, 59 * time.Second: 0, time.Minute: 1, -time.Second: -1, -time.Minute: -1, -61 * time.Second: -2} {
		if got := s.Index(begin.Add(d)); got != want {
			t.Errorf("%s: step %d, want %d", d, got, want)
		}
	}
}

func TestReduce(t *testing.T) {
	nan := math.NaN()
	s := Series{Start: begin, Step: time.Second, Values: []float64{1, 3, 5, nan, nan, nan, 7, 9, 11}}
	got := s.Reduce(2)
	want := []float64{2, 5, nan, 8, 11}
	if got.Step != 2*time.Second || len(got.Values) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, v := range want {
		if got.Values[i] != v && !(math.IsNaN(v) && math.IsNaN(got.Values[i])) {
			t.Errorf("step %d: %v, want %v", i, got.Values[i], v)
		}
	}
	if same := s.Reduce(1); same.Step != s.Step || same.Len() != s.Len() {
		t.Errorf("%+v", same)
	}
}

func TestLast(t *testing.T) {
	s := Series{Start: begin, Step: time.Second, Values: []float64{1, 2, 3}}
	if got := s.Last(2 * time.Second); got.Len() != 2 || got.Values[0] != 2 || !got.Start.Equal(begin.Add(time.Second)) {
		t.Errorf("%+v", got)
	}
	if got := s.Last(time.Hour); got.Len() != 3 {
		t.Errorf("%+v", got)
	}
}
