package bench

import (
	"fmt"
	"math"

	"github.com/vmmigrate/vmmigrate/testenv/link"
	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// Bar is one thing that the project holds itself to, in one place where it was
// measured.
type Bar struct {
	// ID names the bar, Text says it.
	ID   string `json:"id"`
	Text string `json:"text"`
	// Scope is where it was measured: scenario, workload and link.
	Scope string `json:"scope,omitempty"`
	// Value is what was found, and is to be at most Target, or at least where AtLeast
	// is set. Without a Value it was not measured, and Detail says why.
	Value   *float64 `json:"value,omitempty"`
	Target  float64  `json:"target"`
	AtLeast bool     `json:"at_least,omitempty"`
	// Detail says what was held against what.
	Detail string `json:"detail,omitempty"`
}

// Verdict is "met", "missed" or "not measured".
func (b Bar) Verdict() string {
	switch {
	case b.Value == nil:
		return "not measured"
	case b.AtLeast && *b.Value >= b.Target, !b.AtLeast && *b.Value <= b.Target:
		return "met"
	}
	return "missed"
}

// What counts as what, for the bars.
const (
	idleRate   = 100 // pages a second, at most, of a guest that counts as idle
	gigabit    = 1e9
	multifdRow = 4 // channels of the row that an idle guest is held against
	// sameDowntime is how far two medians may be apart to be called the same.
	sameDowntime = 1.25
)

// rule is one bar: what it says and how it is worked out. measure returns one Bar
// for each place where it could be, with ID, Text and Target left out.
type rule struct {
	id, text string
	target   float64
	atLeast  bool
	missing  string // what a report needs for it
	measure  func(Report) []Bar
}

func rules() []rule {
	list := []rule{
		{"downtime", "downtime, nbd hybrid, median: × the best native row", 0.7, false,
			"a scenario with native rows beside nbd hybrid ones", eachCell(downtimeRatio)},
		{"downtime-p99", "downtime, nbd hybrid, links from 1 Gbit/s: p99 in ms", 50, false,
			"nbd hybrid rows on a link of 1 Gbit/s or more", eachCell(downtimeTail)},
		{"total-idle", "total time, idle guest, open link: × multifd with 4 channels", 1.0, false,
			"an idle workload on an unlimited link with a native row of 4 channels beside nbd rows", eachCell(totalIdle)},
		{"total-shaped", "total time, idle guest, shaped link: × non-zero RAM / rate", 1.05, false,
			"an idle workload on a shaped link with nbd rows", eachCell(totalShaped)},
		{"bytes", "bytes on the link: × what has to go", 1.02, false,
			"nbd rows whose reports tell non-zero RAM", eachCell(bytesRatio)},
		{"any-rate", "downtime of a guest that dirties faster than the link: × that of an idle one", sameDowntime, false,
			"nbd hybrid rows on one link with an idle workload and one that dirties faster than the link", eachScenario(anyRate)},
		{"fault", "demand fault under bulk, median: µs beyond a round trip", 30, false,
			"nbd rows with demand faults", eachCell(faultLatency)},
		{"prepage", "demand faults with bubble or hotset: × those with none", 0.25, false,
			"nbd rows of one strategy with prepage none and with bubble or hotset", eachCell(prepageRatio)},
	}
	return append(append(list, diskRules()...), microRules()...)
}

// evaluate works out all bars.
func evaluate(r Report) []Bar {
	bars := []Bar{}
	for _, rule := range rules() {
		found := rule.measure(r)
		if len(found) == 0 {
			found = []Bar{{Detail: "it takes " + rule.missing}}
		}
		for _, b := range found {
			b.ID, b.Text, b.Target, b.AtLeast = rule.id, rule.text, rule.target, rule.atLeast
			bars = append(bars, b)
		}
	}
	return bars
}

// place is a cell with what is known about it.
type place struct {
	result Result
	cell   Cell
	work   workload.Spec
	link   link.Spec
}

func (p place) scope() string {
	return p.result.Scenario.Name + " · " + p.cell.Workload + " · " + p.cell.Link
}

// idle is a guest that writes next to nothing.
func (p place) idle() bool { return p.work.Rate <= idleRate && p.work.Kind != workload.Cycle }

// outruns is a guest that dirties memory faster than the link carries it.
func (p place) outruns() bool {
	return p.link.Rate > 0 && float64(p.work.Rate)*workload.PageSize*8 > float64(p.link.Rate)
}

// median is a row's median; false if it has none.
func median(r RowResult, figure string) (float64, bool) {
	s, ok := r.Summary.Get(figure)
	return s.Median, ok
}

// rowsOf are the rows that a test picks and that have the figure.
func (p place) rowsOf(figure string, pick func(Row) bool) []RowResult {
	var rows []RowResult
	for _, r := range p.cell.Rows {
		if _, ok := median(r, figure); ok && pick(r.Row) {
			rows = append(rows, r)
		}
	}
	return rows
}

// least and most are the rows with the lowest and the highest median.
func least(rows []RowResult, figure string) (name string, value float64) {
	return extreme(rows, figure, func(a, b float64) bool { return a < b })
}

func most(rows []RowResult, figure string) (name string, value float64) {
	return extreme(rows, figure, func(a, b float64) bool { return a > b })
}

func extreme(rows []RowResult, figure string, better func(a, b float64) bool) (name string, value float64) {
	for i, r := range rows {
		if m, _ := median(r, figure); i == 0 || better(m, value) {
			name, value = r.Row.Name, m
		}
	}
	return name, value
}

func native(r Row) bool { return r.Native() }
func ours(r Row) bool   { return r.Engine == "nbd" }
func hybrid(r Row) bool { return ours(r) && r.Strategy == "hybrid" }

// places are a result's cells.
func places(result Result) []place {
	var all []place
	for _, c := range result.Cells {
		p := place{result: result, cell: c}
		var err1, err2 error
		p.work, err1 = workload.Parse(c.Workload)
		p.link, err2 = link.ParseSpec(c.Link)
		if err1 == nil && err2 == nil {
			all = append(all, p)
		}
	}
	return all
}

// eachCell measures in every cell.
func eachCell(measure func(place) (value float64, detail string, ok bool)) func(Report) []Bar {
	return eachScenario(func(all []place) []Bar {
		var bars []Bar
		for _, p := range all {
			if v, detail, ok := measure(p); ok && !math.IsNaN(v) && !math.IsInf(v, 0) {
				bars = append(bars, Bar{Scope: p.scope(), Value: &v, Detail: detail})
			}
		}
		return bars
	})
}

// eachScenario measures over the cells of every scenario.
func eachScenario(measure func([]place) []Bar) func(Report) []Bar {
	return func(r Report) []Bar {
		var bars []Bar
		for _, result := range r.Scenarios {
			if len(result.Scenario.Guest.Disks) == 0 { // those have bars of their own
				bars = append(bars, measure(places(result))...)
			}
		}
		return bars
	}
}

// downtimeRatio holds the worst hybrid row against the best native one.
func downtimeRatio(p place) (float64, string, bool) {
	const f = "downtime_ms"
	us, them := p.rowsOf(f, hybrid), p.rowsOf(f, native)
	if len(us) == 0 || len(them) == 0 {
		return 0, "", false
	}
	name, value := most(us, f)
	best, bestValue := least(them, f)
	return value / bestValue, fmt.Sprintf("%s %.1f ms, %s %.1f ms", name, value, best, bestValue), true
}

// downtimeTail is the highest p99 of the hybrid rows.
func downtimeTail(p place) (float64, string, bool) {
	if p.link.Rate != 0 && p.link.Rate < gigabit {
		return 0, "", false
	}
	value, detail := 0.0, ""
	for _, r := range p.rowsOf("downtime_ms", hybrid) {
		if s, _ := r.Summary.Get("downtime_ms"); s.P99 >= value {
			value, detail = s.P99, fmt.Sprintf("%s, %d runs", r.Row.Name, s.N)
		}
	}
	return value, detail, detail != ""
}

func totalIdle(p place) (float64, string, bool) {
	const f = "total_ms"
	us := p.rowsOf(f, ours)
	them := p.rowsOf(f, func(r Row) bool { return r.Native() && r.Parallel == multifdRow })
	if !p.idle() || p.link.Rate != 0 || len(us) == 0 || len(them) == 0 {
		return 0, "", false
	}
	name, value := least(us, f)
	multifd, held := least(them, f)
	return value / held, fmt.Sprintf("%s %.0f ms, %s %.0f ms", name, value, multifd, held), true
}

func totalShaped(p place) (float64, string, bool) {
	us := p.rowsOf("nonzero_bytes", func(r Row) bool { return ours(r) })
	if !p.idle() || p.link.Rate == 0 || len(us) == 0 {
		return 0, "", false
	}
	name, value := least(us, "total_ms")
	_, bytes := most(us, "nonzero_bytes")
	wire := bytes * 8 / float64(p.link.Rate) * 1000
	return value / wire, fmt.Sprintf("%s %.0f ms, %.0f MiB take %.0f ms", name, value, bytes/(1<<20), wire), value > 0
}

// bytesRatio is the highest of our rows, run by run.
func bytesRatio(p place) (float64, string, bool) {
	worst, detail := 0.0, ""
	for _, r := range p.rowsOf("must_bytes", ours) {
		var ratios []float64
		for _, run := range r.Runs {
			if run.OK && run.LinkBytes != nil && run.MustBytes != nil && *run.MustBytes > 0 {
				ratios = append(ratios, *run.LinkBytes / *run.MustBytes)
			}
		}
		if s := spread(ratios); s.N > 0 && s.Median > worst {
			worst, detail = s.Median, fmt.Sprintf("%s, median of %d", r.Row.Name, s.N)
		}
	}
	return worst, detail, detail != ""
}

// anyRate holds, link by link, the guest that outruns the link against the idle one.
func anyRate(all []place) []Bar {
	const f = "downtime_ms"
	var bars []Bar
	for _, busy := range all {
		for _, calm := range all {
			if busy.cell.Link != calm.cell.Link || !busy.outruns() || !calm.idle() {
				continue
			}
			us, them := busy.rowsOf(f, hybrid), calm.rowsOf(f, hybrid)
			if len(us) == 0 || len(them) == 0 {
				continue
			}
			name, value := most(us, f)
			_, held := most(them, f)
			ratio := value / held
			bars = append(bars, Bar{Scope: busy.scope(), Value: &ratio,
				Detail: fmt.Sprintf("%s %.1f ms, idle %.1f ms; up to %.2f counts as the same", name, value, held, sameDowntime)})
		}
	}
	return bars
}

func faultLatency(p place) (float64, string, bool) {
	us := p.rowsOf("fault_p50_us", ours)
	if p.cell.RTTUS == nil || len(us) == 0 {
		return 0, "", false
	}
	name, value := most(us, "fault_p50_us")
	return value - *p.cell.RTTUS, fmt.Sprintf("%s %.0f µs, round trip %.0f µs", name, value, *p.cell.RTTUS), true
}

// prepageRatio holds the better of bubble and hotset against none, strategy by
// strategy, and returns the worst.
func prepageRatio(p place) (float64, string, bool) {
	worst, detail := 0.0, ""
	for _, strategy := range []string{"postcopy", "hybrid"} {
		with := func(names ...string) []RowResult {
			return p.rowsOf("faults", func(r Row) bool {
				for _, n := range names {
					if r.Prepage == n && ours(r) && r.Strategy == strategy {
						return true
					}
				}
				return false
			})
		}
		none, smart := with("none"), with("bubble", "hotset")
		if len(none) == 0 || len(smart) == 0 {
			continue
		}
		name, value := least(smart, "faults")
		_, held := least(none, "faults")
		if held > 0 && value/held >= worst {
			worst, detail = value/held, fmt.Sprintf("%s %.0f, none %.0f", name, value, held)
		}
	}
	return worst, detail, detail != ""
}
