package bench

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// A forecast is held against what came: duration, downtime and bytes of each run.

// point is what a migration takes, as its report has it.
type point struct {
	Total    *float64 `json:"total_ms"`
	Downtime *float64 `json:"downtime_ms"`
	Sent     *float64 `json:"sent_bytes"`
}

func (p *point) values() [3]*float64 {
	if p == nil {
		return [3]*float64{}
	}
	return [3]*float64{p.Total, p.Downtime, p.Sent}
}

// prediction is one of a report's.
type prediction struct {
	point
	Low   *point `json:"low"`
	High  *point `json:"high"`
	Model *point `json:"model"`
}

// held is one figure of one run: what was forecast, between what, what the model alone said, and what came.
type held struct{ expected, low, high, model, actual float64 }

// off is by what share of what came a forecast is off.
func (h held) off() float64      { return math.Abs(h.expected-h.actual) / h.actual }
func (h held) modelOff() float64 { return math.Abs(h.model-h.actual) / h.actual }

func (h held) inside() bool { return h.actual >= h.low && h.actual <= h.high }

// heldRun is a run whose report has a forecast.
type heldRun struct {
	cell    Cell
	row     Row
	figures [3]held // duration, downtime, bytes
	// first tells that nothing was known of the link: the run is the first of its cell.
	first bool
}

// heldRuns are those of a scenario, in the order in which they ran.
func (s Result) heldRuns() (list []heldRun) {
	for _, c := range s.Cells {
		first := math.MaxInt
		for _, row := range c.Rows {
			for _, run := range row.Runs {
				if run.OK {
					first = min(first, run.Order)
				}
			}
		}
		for _, row := range c.Rows {
			for _, run := range row.Runs {
				if figures, ok := run.held(); ok {
					list = append(list, heldRun{c, row.Row, figures, run.Order == first})
				}
			}
		}
	}
	return list
}

// held reads what the run's report says; false where it has no forecast.
func (r Run) held() (out [3]held, ok bool) {
	var t struct {
		Strategy  string                `json:"strategy"`
		Predicted map[string]prediction `json:"predicted"`
	}
	if !r.OK || json.Unmarshal(r.Report, &t) != nil {
		return out, false
	}
	p := t.Predicted[t.Strategy]
	columns := [...][3]*float64{p.values(), p.Low.values(), p.High.values(), p.Model.values(), {r.TotalMS, r.DowntimeMS, r.SentBytes}}
	for i := range out {
		for _, c := range columns {
			if c[i] == nil {
				return out, false
			}
		}
		out[i] = held{*columns[0][i], *columns[1][i], *columns[2][i], *columns[3][i], *columns[4][i]}
		if out[i].actual <= 0 {
			return out, false
		}
	}
	return out, true
}

var heldNames = [3]string{"duration", "downtime", "bytes"}

var heldUnits = [3]struct {
	by   float64
	unit string
}{{1000, "s"}, {1, "ms"}, {1 << 20, "MiB"}}

// forecastText is the table of a scenario whose runs were forecast; empty for others.
func (s Result) forecastText() string {
	list := s.heldRuns()
	if len(list) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n  FORECASTS: expected (at least–at most) → what came; ! is outside the range, * is the first run on a link\n")
	cell := ""
	for _, r := range list {
		if now := r.cell.Workload + " on " + r.cell.Link; now != cell {
			cell = now
			fmt.Fprintf(&b, "  %s\n", clip(cell, textWidth-2))
		}
		sign := " "
		if r.first {
			sign = "*"
		}
		fmt.Fprintf(&b, "   %s%s", sign, pad(clip(r.row.Name, 15), 16))
		for i, h := range r.figures {
			out := " "
			if !h.inside() {
				out = "!"
			}
			u := heldUnits[i]
			b.WriteString(left(fmt.Sprintf("%s (%s–%s)→%s%s", number(h.expected/u.by), number(h.low/u.by), number(h.high/u.by), number(h.actual/u.by)+" "+u.unit, out), 33))
		}
		b.WriteString("\n")
	}
	later := list[:0:0]
	for _, r := range list {
		if !r.first {
			later = append(later, r)
		}
	}
	b.WriteString(heldSums("all runs", list) + heldSums("link known", later))
	for _, c := range s.Cells {
		b.WriteString(c.adviceText())
	}
	return b.String()
}

// heldSums are the medians over some runs.
func heldSums(what string, list []heldRun) string {
	if len(list) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %s (%d): ", what, len(list))
	all := 0
	for i, name := range heldNames {
		var offs, models []float64
		inside := 0
		for _, r := range list {
			h := r.figures[i]
			offs, models = append(offs, h.off()), append(models, h.modelOff())
			if h.inside() {
				inside++
			}
		}
		all += inside
		fmt.Fprintf(&b, "%s off by %.0f %% (model alone %.0f %%), %.1f of ten inside; ", name, 100*spread(offs).Median, 100*spread(models).Median, 10*float64(inside)/float64(len(list)))
	}
	fmt.Fprintf(&b, "together %.1f of ten\n", 10*float64(all)/float64(3*len(list)))
	return b.String()
}

// adviceText holds rows that are advised against those that begin at random.
func (c Cell) adviceText() string {
	var b strings.Builder
	for _, advised := range c.Rows {
		for _, random := range c.Rows {
			if !advised.Row.Advised || random.Row.Within == 0 {
				continue
			}
			fmt.Fprintf(&b, "  %s on %s: %s (%d) beside %s (%d):", c.Workload, c.Link, advised.Row.Name, advised.Summary.OK, random.Row.Name, random.Summary.OK)
			for _, f := range []struct{ name, what string }{{"total_ms", "takes"}, {"sent_bytes", "sends"}, {"downtime_ms", "pauses"}} {
				a, okA := advised.Summary.Get(f.name)
				r, okR := random.Summary.Get(f.name)
				if okA && okR && r.Median > 0 {
					fmt.Fprintf(&b, " %s %.0f %% less,", f.what, 100*(1-a.Median/r.Median))
				}
			}
			b.WriteString(" by medians\n")
		}
	}
	return b.String()
}
