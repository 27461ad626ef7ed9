package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/migrate/sampler"
)

// sparks are the steps of a line of bars. What is not known is a dot.
var sparks = []rune("▁▂▃▄▅▆▇█")

// sparkline draws values from 0 to top, the last ones of them in that width. On the left it is filled with blanks.
func sparkline(values []float64, top float64, width int) string {
	values = values[max(0, len(values)-width):]
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(values)))
	for _, v := range values {
		switch {
		case math.IsNaN(v):
			b.WriteRune('·')
		case top <= 0:
			b.WriteRune(sparks[0])
		default:
			b.WriteRune(sparks[min(len(sparks)-1, int(v/top*float64(len(sparks))))])
		}
	}
	return b.String()
}

// liveGuest is what is shown of one guest.
type liveGuest struct {
	name, uuid string
	migrating  bool
	seen       time.Time
	metrics    map[sample.Metric][]float64
	at         time.Time // the step of the last values
	windows    map[time.Duration]float64
	mode       string
}

// liveView redraws a few lines for each guest.
type liveView struct {
	w      io.Writer
	width  func() int
	guests []*liveGuest
	lines  int // that are on the screen
}

// keepLive is how many values are kept: more columns no terminal has.
const keepLive = 512

func (v *liveView) guest(s sampler.Sample) *liveGuest {
	for _, g := range v.guests {
		if g.uuid == s.Guest.UUID {
			return g
		}
	}
	g := &liveGuest{uuid: s.Guest.UUID, metrics: map[sample.Metric][]float64{}, windows: map[time.Duration]float64{}}
	v.guests = append(v.guests, g)
	return g
}

// add takes samples in.
func (v *liveView) add(all []sampler.Sample) {
	for _, s := range all {
		g := v.guest(s)
		g.name, g.seen = s.Guest.Name, s.At
		if s.Window == nil || s.At.After(g.at) {
			g.migrating = s.Migrating
		}
		g.reach(s)
		g.set(sample.MetricCPU, s.At, s.Step, s.CPU)
		g.set(sample.MetricDiskWrites, s.At, s.Step, s.DiskWrites)
		g.set(sample.MetricNetwork, s.At, s.Step, s.Network)
		if w := s.Window; w != nil {
			g.windows[w.Length], g.mode = w.Bytes, w.Mode
			if w.Length == s.Step {
				g.set(sample.MetricDirty, w.At.Truncate(s.Step), s.Step, w.Bytes/s.Step.Seconds())
			}
		}
	}
}

// reach makes room for values up to a sample's time.
func (g *liveGuest) reach(s sampler.Sample) {
	n := 1
	if !g.at.IsZero() {
		n = int(s.At.Sub(g.at) / s.Step)
	}
	if n <= 0 {
		return
	}
	g.at = s.At
	for _, m := range sample.Metrics() {
		list := g.metrics[m]
		for range min(n, keepLive) {
			list = append(list, math.NaN())
		}
		g.metrics[m] = list[max(0, len(list)-keepLive):]
	}
}

// set puts a value in its place, if that is still kept.
func (g *liveGuest) set(m sample.Metric, at time.Time, step time.Duration, v float64) {
	list := g.metrics[m]
	if i := len(list) - 1 - int(g.at.Sub(at)/step); !math.IsNaN(v) && i >= 0 && i < len(list) {
		list[i] = v
	}
}

// draw writes all guests over what was drawn before.
func (v *liveView) draw() error {
	var b strings.Builder
	if v.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.lines)
	}
	lines := v.text(v.width())
	for _, l := range lines {
		b.WriteString("\x1b[2K" + l + "\n")
	}
	b.WriteString("\x1b[J")
	v.lines = len(lines)
	_, err := io.WriteString(v.w, b.String())
	return err
}

// text is what is shown, in lines of at most that width.
func (v *liveView) text(width int) []string {
	var out []string
	for _, g := range v.guests {
		head := g.name
		if g.migrating {
			head += ": is being migrated, and is not measured meanwhile"
		}
		out = append(out, clip(head, width))
		for _, m := range sample.Metrics() {
			out = append(out, g.line(m, width))
		}
		if len(g.windows) > 0 {
			out = append(out, clip(g.windowLine(), width))
		}
	}
	return out
}

// line is one metric: its name, how it went, and how it stands.
func (g *liveGuest) line(m sample.Metric, width int) string {
	const label, figures = 14, 26
	room := max(1, width-label-figures)
	list := g.metrics[m]
	shown := list[max(0, len(list)-room):]
	top, last := 0.0, math.NaN()
	for _, x := range shown {
		if !math.IsNaN(x) {
			top, last = max(top, x), x
		}
	}
	if m == sample.MetricCPU {
		top = 1
	}
	end := "not known"
	if !math.IsNaN(last) {
		end = fmt.Sprintf("%s of %s", figure(m, last), figure(m, top))
	}
	return fmt.Sprintf("  %-*s%s  %s", label-2, m, sparkline(shown, top, room), end)
}

// figure writes a value of a metric.
func figure(m sample.Metric, v float64) string {
	if m == sample.MetricCPU {
		return fmt.Sprintf("%.0f %%", 100*v)
	}
	return byteCount(v) + "/s"
}

// byteCount writes bytes with a unit.
func byteCount(v float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for v >= 1000 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i > 0 && v < 10 {
		return fmt.Sprintf("%.1f %s", v, units[i])
	}
	return fmt.Sprintf("%.0f %s", v, units[i])
}

// windowLine tells the latest distinct bytes in each window.
func (g *liveGuest) windowLine() string {
	var lengths []time.Duration
	for w := range g.windows {
		lengths = append(lengths, w)
	}
	slices.Sort(lengths)
	var parts []string
	for _, w := range lengths {
		parts = append(parts, fmt.Sprintf("%s %s", w, byteCount(g.windows[w])))
	}
	return "  written within " + strings.Join(parts, ", ") + " (" + g.mode + ")"
}

// clip cuts a line that is too long for a terminal.
func clip(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:width-1]) + "…"
}
