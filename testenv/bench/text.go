package bench

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// textWidth is what the tables fit into, in columns.
const textWidth = 120

// Text is the report as tables for a terminal.
func (r Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Machine.line())
	for _, s := range r.Scenarios {
		fmt.Fprintf(&b, "\n%s\n", clip(s.heading(), textWidth))
		if s.Error != "" {
			fmt.Fprintf(&b, "did not come to its end: %s\n", clip(s.Error, textWidth-25))
		}
		for _, c := range s.Cells {
			b.WriteString(c.text(s.Scenario.table()))
		}
		b.WriteString(s.forecastText())
	}
	if len(r.Micro) > 0 {
		fmt.Fprintf(&b, "\n%d results of Go benchmarks are in the JSON\n", len(r.Micro))
	}
	b.WriteString("\nTHE BARS\n" + barsText(r.Bars))
	return b.String()
}

func (m Machine) line() string {
	text := fmt.Sprintf("%s, %d processors", m.Arch, m.CPUs)
	for _, part := range []struct{ what, value string }{{"Linux", m.Kernel}, {"QEMU", m.QEMU}, {"", m.Program}} {
		if part.value != "" {
			text += ", " + strings.TrimSpace(part.what+" "+part.value)
		}
	}
	return clip(text, textWidth)
}

func (s Result) heading() string {
	g := s.Scenario.Guest
	text := fmt.Sprintf("%s: %s — %s, guest of %s in pages of %s, %d CPU", s.Scenario.Name, s.Scenario.Title, s.Scenario.Hosts, g.Memory, g.Pages, g.CPUs)
	if s.Accel != "" {
		text += ", " + s.Accel
	}
	return text
}

// column is one of a cell's table, behind the row's name.
type column struct {
	head  string
	width int
	of    func(Summary) string
}

var columns = []column{
	{"OK", 6, func(s Summary) string { return fmt.Sprintf("%d/%d", s.OK, s.Runs) }},
	{"DOWNTIME MS", 20, func(s Summary) string { return s.ranged("downtime_ms", 1) }},
	{"OUTSIDE", 9, func(s Summary) string { return s.middle("outside_ms", 1) }},
	{"TOTAL S", 18, func(s Summary) string { return s.ranged("total_ms", 1000) }},
	{"LINK MiB", 9, func(s Summary) string { return s.middle("link_bytes", 1<<20) }},
	{"FAULTS", 8, func(s Summary) string { return s.middle("faults", 1) }},
	{"P50 µs", 8, func(s Summary) string { return s.middle("fault_p50_us", 1) }},
	{"SPEED %", 8, func(s Summary) string { return s.middle("speed_during", 0.01) }},
}

// diskColumns are those of a guest with disks.
var diskColumns = []column{
	columns[0], columns[1], columns[2], columns[3], columns[4],
	{"DISKS S", 9, func(s Summary) string { return s.middle("disks_ms", 1000) }},
	{"MiB/S", 8, func(s Summary) string { return s.middle("disk_mib_per_s", 1) }},
	{"LANDED S", 9, func(s Summary) string { return s.middle("landed_ms", 1000) }},
	{"READ µs", 8, func(s Summary) string { return s.middle("read_p50_us", 1) }},
}

// returnColumns are those of a scenario with ways back.
var returnColumns = []column{
	columns[0], columns[1], columns[3],
	{"THERE MiB", 11, func(s Summary) string { return s.middle("first_bytes", 1<<20) }},
	{"BACK MiB", 18, func(s Summary) string { return s.ranged("link_bytes", 1<<20) }},
	{"BACK %", 18, func(s Summary) string { return s.ranged("return_part", 0.01) }},
}

// table are the columns for a scenario.
func (s Scenario) table() []column {
	switch {
	case slices.ContainsFunc(s.Rows, func(r Row) bool { return len(r.Stay) > 0 }):
		return returnColumns
	case len(s.Guest.Disks) > 0:
		return diskColumns
	}
	return columns
}

const nameWidth = 32

func (c Cell) text(columns []column) string {
	var b strings.Builder
	head := fmt.Sprintf("\n  %s on %s", c.Workload, c.Link)
	if c.RTTUS != nil {
		head += fmt.Sprintf(", round trip %.0f µs", *c.RTTUS)
	}
	fmt.Fprintf(&b, "%s\n  %s", clip(head, textWidth), pad("ROW", nameWidth))
	for _, col := range columns {
		b.WriteString(left(col.head, col.width))
	}
	b.WriteString("\n")
	for _, row := range c.Rows {
		fmt.Fprintf(&b, "  %s", pad(clip(row.Row.Name, nameWidth-1), nameWidth))
		for _, col := range columns {
			b.WriteString(left(col.of(row.Summary), col.width))
		}
		b.WriteString("\n")
	}
	for _, row := range c.Rows {
		if row.Skipped != "" {
			fmt.Fprintf(&b, "    left out: %s\n", clip(row.Row.Name+": "+row.Skipped, textWidth-14))
		}
		for _, run := range row.Runs {
			if !run.OK {
				fmt.Fprintf(&b, "    failed: %s\n", clip(fmt.Sprintf("%s, repetition %d: %s", row.Row.Name, run.Repetition, run.Failure), textWidth-12))
			}
		}
	}
	return b.String()
}

// middle is a figure's median, divided; a dash without one.
func (s Summary) middle(name string, by float64) string {
	d, ok := s.Get(name)
	if !ok {
		return "-"
	}
	return number(d.Median / by)
}

// ranged is the median with the least and the most.
func (s Summary) ranged(name string, by float64) string {
	d, ok := s.Get(name)
	if !ok {
		return "-"
	}
	if d.N == 1 {
		return number(d.Median / by)
	}
	return fmt.Sprintf("%s (%s–%s)", number(d.Median/by), number(d.Min/by), number(d.Max/by))
}

// number has three digits that mean something.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// barsText is the table of the bars.
func barsText(bars []Bar) string {
	var b strings.Builder
	for i, bar := range bars {
		if i == 0 || bars[i-1].ID != bar.ID {
			sign := "≤"
			if bar.AtLeast {
				sign = "≥"
			}
			fmt.Fprintf(&b, "  %s %s %s\n", bar.Text, sign, number(bar.Target))
		}
		value := "-"
		if bar.Value != nil {
			value = number(*bar.Value)
		}
		rest := bar.Detail
		if bar.Scope != "" {
			rest = bar.Scope + ": " + bar.Detail
		}
		fmt.Fprintf(&b, "    %s%s  %s\n", pad(bar.Verdict(), 13), left(value, 8), clip(rest, textWidth-28))
	}
	return b.String()
}

// line says in one line how a run went.
func line(c Cell, row RowResult, run Run) string {
	head := fmt.Sprintf("%3d  %s %s→%s", run.Order, pad(clip(row.Row.Name, nameWidth-1), nameWidth), run.From, run.To)
	if !run.OK {
		return clip(head+"  failed: "+run.Failure, 300)
	}
	one := summarize([]Run{run})
	return fmt.Sprintf("%s  down %s ms, outside %s ms, total %s s, %s MiB  (%s, %s)", head, one.middle("downtime_ms", 1), one.middle("outside_ms", 1),
		one.middle("total_ms", 1000), one.middle("link_bytes", 1<<20), c.Workload, c.Link)
}

// clip cuts a text to so many columns.
func clip(s string, width int) string {
	s = strings.ReplaceAll(s, "\n\n", "\n")
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// pad fills a text on the right, left on the left.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0))
}

func left(s string, width int) string {
	return strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0)) + s
}
