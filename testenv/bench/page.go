package bench

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"slices"
)

//go:embed page.html
var pageText string

// Page is the report as one HTML page that needs nothing else.
func (r Report) Page() ([]byte, error) {
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return nil, fmt.Errorf("the page's template: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, r.view()); err != nil {
		return nil, fmt.Errorf("write the page: %w", err)
	}
	return b.Bytes(), nil
}

// pageView is what the template shows.
type pageView struct {
	Machine    string
	When       string
	Took       string
	Bars       []barView
	Unmeasured []Bar
	Met        int
	Missed     int
	Open       int
	Scenarios  []scenarioView
}

type barView struct {
	Text, Sign, Target string
	Places             []barPlace
}

type barPlace struct{ Verdict, Value, Scope, Detail string }

type scenarioView struct {
	Heading, Error string
	Cells          []cellView
}

type cellView struct {
	Workload, Link, RTT string
	Plots               []plotView
	Courses             []courseView
	Rows                []rowView
	Failures            []string
}

type plotView struct {
	Title, Why string
	SVG        template.HTML
}

type courseView struct {
	Name string
	SVG  template.HTML
}

type rowView struct {
	Name   string
	Native bool
	Values []string
}

func (r Report) view() pageView {
	v := pageView{Machine: r.Machine.line(), When: r.Started.UTC().Format("2006-01-02 15:04 MST"), Took: r.Ended.Sub(r.Started).Round(1e9).String()}
	for _, b := range r.Bars {
		switch b.Verdict() {
		case "met":
			v.Met++
		case "missed":
			v.Missed++
		default:
			v.Open++
			v.Unmeasured = append(v.Unmeasured, b)
			continue
		}
		v.Bars = addBar(v.Bars, b)
	}
	for _, s := range r.Scenarios {
		sv := scenarioView{Heading: s.heading(), Error: s.Error}
		for _, c := range s.Cells {
			sv.Cells = append(sv.Cells, c.view())
		}
		v.Scenarios = append(v.Scenarios, sv)
	}
	return v
}

// addBar puts a bar that was measured below the others of its kind.
func addBar(list []barView, b Bar) []barView {
	if len(list) == 0 || list[len(list)-1].Text != b.Text {
		sign := "≤"
		if b.AtLeast {
			sign = "≥"
		}
		list = append(list, barView{Text: b.Text, Sign: sign, Target: number(b.Target)})
	}
	last := &list[len(list)-1]
	last.Places = append(last.Places, barPlace{Verdict: b.Verdict(), Value: number(*b.Value), Scope: b.Scope, Detail: b.Detail})
	return list
}

// plots are what is drawn of every cell.
var plots = []struct {
	title, why, figure, unit string
	by                       float64
}{
	{"Downtime", "from STOP on the source to RESUME on the destination, by their events", "downtime_ms", "ms", 1},
	{"Silence", "the longest time without an answer, as a client sees it", "outside_ms", "ms", 1},
	{"Total time", "from the start to the end of the migration", "total_ms", "s", 1000},
	{"Bytes", "what the source sent on its link", "link_bytes", "MiB", 1 << 20},
	{"Guest speed", "pages a second during the migration, as a part of those before", "speed_during", "%", 0.01},
	{"Demand faults", "pages that the guest had to wait for", "faults", "faults", 1},
	{"Demand fault latency", "median of each run", "fault_p50_us", "µs", 1},
	{"Demand fault latency, p99", "99 of 100 faults of each run were quicker", "fault_p99_us", "µs", 1},
}

func (c Cell) view() cellView {
	v := cellView{Workload: c.Workload, Link: c.Link}
	if c.RTTUS != nil {
		v.RTT = number(*c.RTTUS)
	}
	for _, p := range plots {
		var strips []strip
		any := false
		for _, row := range c.Rows {
			s := strip{name: row.Row.Name, native: row.Row.Native(), failed: row.Summary.Runs - row.Summary.OK}
			for _, x := range valuesOf(row.Runs, p.figure) {
				s.values = append(s.values, x/p.by)
			}
			any = any || len(s.values) > 0
			strips = append(strips, s)
		}
		if any {
			v.Plots = append(v.Plots, plotView{p.title, p.why, template.HTML(dots(strips, p.unit))})
		}
	}
	for _, row := range c.Rows {
		v.Rows = append(v.Rows, row.view())
		for _, run := range row.Runs {
			if !run.OK {
				v.Failures = append(v.Failures, fmt.Sprintf("%s, repetition %d: %s", row.Row.Name, run.Repetition, run.Failure))
			}
		}
	}
	v.Courses = c.courses()
	return v
}

func (r RowResult) view() rowView {
	v := rowView{Name: r.Row.Name, Native: r.Row.Native(), Values: []string{}}
	for _, col := range columns {
		v.Values = append(v.Values, col.of(r.Summary))
	}
	return v
}

// Columns are the heads of a cell's table.
func (pageView) Columns() []string {
	var heads []string
	for _, col := range columns {
		heads = append(heads, col.head)
	}
	return heads
}

// courses draws, for each row, the speed in the run whose downtime is the middle one,
// all to one scale.
func (c Cell) courses() []courseView {
	var speeds []float64
	for _, row := range c.Rows {
		for _, run := range row.Runs {
			for _, p := range run.Speed.Course {
				speeds = append(speeds, p.Speed)
			}
		}
	}
	highest := spread(speeds).P99 // a single burst must not flatten all lines
	var list []courseView
	for _, row := range c.Rows {
		if run, ok := middleRun(row.Runs); ok && highest > 0 {
			if svg := lines(run, highest, row.Row.Native()); svg != "" {
				list = append(list, courseView{row.Row.Name, template.HTML(svg)})
			}
		}
	}
	return list
}

// middleRun is the good run with the middle downtime.
func middleRun(runs []Run) (Run, bool) {
	var good []Run
	for _, r := range runs {
		if r.OK && r.DowntimeMS != nil {
			good = append(good, r)
		}
	}
	if len(good) == 0 {
		return Run{}, false
	}
	slices.SortFunc(good, func(a, b Run) int {
		switch {
		case *a.DowntimeMS < *b.DowntimeMS:
			return -1
		case *a.DowntimeMS > *b.DowntimeMS:
			return 1
		}
		return a.Order - b.Order
	})
	return good[(len(good)-1)/2], true
}
