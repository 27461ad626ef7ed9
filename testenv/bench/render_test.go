package bench

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write testdata instead of comparing with it")

// recorded is the report of real runs, thinned out.
func recorded(t testing.TB) Report {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := ReadReport(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestTextOfRealRuns(t *testing.T) {
	text := recorded(t).Text()
	golden(t, "bench.txt", text)
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > textWidth {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestPageOfRealRuns(t *testing.T) {
	r := recorded(t)
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, wrong := range []string{"http:", "https:", "<script", "src=", "@import", "url(", "NaN", "Inf"} {
		if strings.Contains(text, wrong) {
			t.Errorf("the page has %q", wrong)
		}
	}
	runs := 0
	for _, c := range r.Scenarios[0].Cells {
		for _, row := range c.Rows {
			runs += len(valuesOf(row.Runs, "downtime_ms"))
		}
	}
	if dots := strings.Count(text, "<circle"); runs == 0 || dots < runs {
		t.Errorf("%d dots for %d downtimes", dots, runs)
	}
	for rest := text; ; {
		start := strings.Index(rest, "<svg")
		if start < 0 {
			break
		}
		end := strings.Index(rest, "</svg>") + len("</svg>")
		wantXML(t, rest[start:end])
		rest = rest[end:]
	}
}

// wantXML wants a drawing to be well-formed.
func wantXML(t *testing.T, svg string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in %s", err, svg)
		}
	}
}

func TestNamesAreNoMarkup(t *testing.T) {
	bad := Row{Name: `<b>"x"&`, Engine: "native", Strategy: "precopy"}
	r := reportOf(Cell{Workload: "idle", Link: "unlimited", Rows: []RowResult{rowOf(bad, []float64{1, 100}, func(run *Run) {
		run.Speed.Course = []Point{{MS: 0, Speed: 1}, {MS: 10, Speed: 2}}
	})}})
	page, err := r.Page()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(page), "<b>") {
		t.Error("a name is taken for markup")
	}
}

func TestDotsOfOddValues(t *testing.T) {
	for name, values := range map[string][]float64{
		"none": nil, "one": {5}, "zeros": {0, 0}, "alike": {7, 7, 7}, "far apart": {0.001, 1e9}, "with a zero": {0, 1e6}, "tiny": {1e-12},
	} {
		svg := dots([]strip{{name: name, values: values}, {name: "failed", failed: 3}}, "ms")
		wantXML(t, svg)
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || strings.Count(svg, "<circle") != len(values) {
			t.Errorf("%s: %s", name, svg)
		}
		a := newAxis(values, 0, 100)
		for _, v := range values {
			if x := a.at(v); !(x >= 0 && x <= 100) {
				t.Errorf("%s: %v is at %v", name, v, x)
			}
		}
		if n := len(a.ticks()); n == 0 || n > 12 {
			t.Errorf("%s: %d ticks", name, n)
		}
	}
	for v, want := range map[float64]float64{1: 1, 1.1: 2, 3: 5, 7: 10, 0.03: 0.05, 120: 200} {
		if got := roundStep(v); math.Abs(got-want) > want*1e-9 {
			t.Errorf("step of %v: %v, want %v", v, got, want)
		}
	}
}

func TestReadReportRefuses(t *testing.T) {
	for _, text := range []string{"", "[]", `{"schema":"vmmigrate.bench/v9"}`, `{"schema":1}`} {
		if _, err := ReadReport(strings.NewReader(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}
