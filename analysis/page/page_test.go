package page

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// full has all that a page can show, with a name that is markup.
func full() Page {
	s := sample.Series{Name: "dirty", Unit: "B/s", Start: begin, Step: time.Second}
	for i := range 3000 {
		v := 50e6 * (1 + math.Sin(2*math.Pi*float64(i)/300))
		if i%97 == 0 {
			v = math.NaN()
		}
		s.Values = append(s.Values, v)
	}
	c := cycle.Cycle{Period: 5 * time.Minute, Confidence: 0.97, Strength: 0.8, Drift: 0.001}
	way := forecast.Way{Engine: forecast.EngineNBD, Strategy: forecast.StrategyHybrid}
	at := func(d, length time.Duration) forecast.Cost {
		return forecast.Cost{Way: way, Start: s.End().Add(d), Duration: forecast.Span{Low: length / 2, Expected: length, High: 2 * length},
			Bytes: forecast.Range{Low: 1 << 30, Expected: 2 << 30, High: 3 << 30}, Converges: 1}
	}
	starts := []forecast.Cost{at(0, 30*time.Second), at(time.Minute, 20*time.Second), at(2*time.Minute, 40*time.Second)}
	return Page{Name: "<b>web</b>", Made: s.End(), Series: s, Result: cycle.Result{Cycles: []cycle.Cycle{c}, Why: "it repeats every 5 min", Known: 0.99},
		Profile: cycle.Fold(s, c, 50), Starts: starts, Ways: starts[:1], Advice: "wait 1 min", Start: starts[1].Start, End: starts[1].Start.Add(20 * time.Second)}
}

func render(t *testing.T, p Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The page needs nothing else, and its pictures are sound.
func TestPageStandsAlone(t *testing.T) {
	text := render(t, full())
	for _, bad := range []string{"http:", "https:", "<script", "<b>web", "NaN", "Inf", "<link", "@import", "url("} {
		if strings.Contains(text, bad) {
			t.Errorf("it has %q", bad)
		}
	}
	for _, good := range []string{"&lt;b&gt;web", "5 min", "97 %", "80 %", "&#43;0.10 % a period", "wait 1 min", "nbd/hybrid", "2 GiB", "advised"} {
		if !strings.Contains(text, good) {
			t.Errorf("it lacks %q", good)
		}
	}
	pictures := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1)
	if len(pictures) != 3 {
		t.Fatalf("%d pictures", len(pictures))
	}
	for i, svg := range pictures {
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("picture %d: %v", i, err)
			}
		}
	}
}

func TestPageOfLittle(t *testing.T) {
	p := Page{Name: "x", Made: begin, Series: sample.Series{Start: begin, Step: time.Second, Values: []float64{1}}, Result: cycle.Result{Why: "too little was seen"}}
	if text := render(t, p); !strings.Contains(text, "No cycle") || !strings.Contains(text, "too little was seen") || strings.Contains(text, "folded") || strings.Contains(text, "Cost by start") {
		t.Error(text)
	}
	if err := (Page{}).Write(io.Discard); !errors.Is(err, sample.ErrNoSamples) {
		t.Error(err)
	}
}

// Whatever the values are, the picture has finite places only.
func TestPageOfStrangeValues(t *testing.T) {
	for _, values := range [][]float64{{math.NaN(), math.NaN()}, {0, 0, 0}, {-1, -5}, {math.Inf(1), 1, math.Inf(-1)}, {math.MaxFloat64, 1}, {1e-300, 2e-300}} {
		text := render(t, Page{Name: "x", Made: begin, Series: sample.Series{Start: begin, Step: time.Second, Values: values}})
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("%v: %s", values, text)
		}
	}
}

func TestQuantity(t *testing.T) {
	for want, v := range map[string]struct {
		v    float64
		unit string
	}{"0 B/s": {0, "B/s"}, "999 B": {999, "B"}, "0.977 KiB": {1000, "B"}, "1 MiB/s": {1 << 20, "B/s"}, "12.5 s": {12.5, "s"}, "1234567": {1234567, ""}, "1e+09": {1e9, ""}, "0.001": {0.001, ""}, "?": {math.NaN(), "B"}} {
		if got := Quantity(v.v, v.unit); got != want {
			t.Errorf("%g %s: %q, want %q", v.v, v.unit, got, want)
		}
	}
}

// A window that goes past the end of the cycle begins again at its start.
func TestWindowIsFolded(t *testing.T) {
	p := Page{Start: begin.Add(50 * time.Second), End: begin.Add(70 * time.Second)}
	got := p.window(begin, begin.Add(time.Minute), time.Minute)
	if len(got) != 2 || got[0] != [2]float64{50, 60} || got[1] != [2]float64{0, 10} {
		t.Errorf("%v", got)
	}
	if got := p.window(begin.Add(time.Hour), begin.Add(time.Hour), time.Minute); len(got) != 2 || got[0][0] != 50 {
		t.Errorf("%v", got)
	}
}
