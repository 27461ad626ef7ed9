package bench

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// Sizes of a plot, in the units of its viewBox.
const (
	plotWidth  = 640
	plotLabels = 216 // the rows' names
	plotRow    = 24
	plotTop    = 8
	plotBottom = 30
	plotRight  = 128 // the medians
)

// strip is one line of a dot plot.
type strip struct {
	name   string
	native bool
	values []float64
	failed int
}

// dots draws every value as a dot, with the median as a bar and the middle half as a
// band, a line for each strip. unit names the axis.
func dots(strips []strip, unit string) string {
	var all []float64
	for _, s := range strips {
		all = append(all, s.values...)
	}
	a := newAxis(all, plotLabels, plotWidth-plotRight)
	height := plotTop + plotRow*len(strips) + plotBottom
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, plotWidth, height)
	base := plotTop + plotRow*len(strips)
	for _, t := range a.ticks() {
		x := a.at(t)
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="tick" x="%.1f" y="%d" text-anchor="middle">%s</text>`,
			x, x, plotTop, base, x, base+14, tick(t))
	}
	fmt.Fprintf(&b, `<text class="tick" x="%d" y="%d" text-anchor="middle">%s%s</text>`, (plotLabels+plotWidth-plotRight)/2, base+27, html.EscapeString(unit), a.kind())
	for i, s := range strips {
		drawStrip(&b, s, a, float64(plotTop+plotRow*i)+plotRow/2)
	}
	b.WriteString("</svg>")
	return b.String()
}

func drawStrip(b *strings.Builder, s strip, a axis, y float64) {
	class := "nbd"
	if s.native {
		class = "native"
	}
	fmt.Fprintf(b, `<g class="%s"><text class="row" x="%d" y="%.1f" text-anchor="end">%s</text>`, class, plotLabels-10, y+4, html.EscapeString(clip(s.name, 34)))
	fmt.Fprintf(b, `<line class="base" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, plotLabels, plotWidth-plotRight, y, y)
	note := "–"
	if d := spread(s.values); d.N > 0 {
		fmt.Fprintf(b, `<rect class="band" x="%.1f" width="%.1f" y="%.1f" height="12" rx="2"/>`, a.at(d.P25)-1, a.at(d.P75)-a.at(d.P25)+2, y-6)
		for _, v := range s.values {
			fmt.Fprintf(b, `<circle class="dot" cx="%.1f" cy="%.1f" r="3.4"><title>%s</title></circle>`, a.at(v), y, number(v))
		}
		fmt.Fprintf(b, `<line class="median" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, a.at(d.Median), a.at(d.Median), y-9, y+9)
		note = number(d.Median)
	}
	if s.failed > 0 {
		note += fmt.Sprintf(" · %d failed", s.failed)
	}
	fmt.Fprintf(b, `<text class="value" x="%d" y="%.1f">%s</text></g>`, plotWidth-plotRight+8, y+4, note)
}

// axis places values on a line: from zero, or by their logarithm where they are far
// apart.
type axis struct {
	low, high  float64
	from, to   float64
	logarithms bool
}

// farApart is the ratio of values from which on an axis is logarithmic.
const farApart = 15

func newAxis(values []float64, from, to float64) axis {
	d := spread(values)
	a := axis{low: 0, high: max(d.Max*1.05, 1e-9), from: from, to: to}
	if d.N > 0 && d.Min > 0 && d.Max/d.Min > farApart {
		a.logarithms, a.low, a.high = true, d.Min*0.8, d.Max*1.15
	}
	return a
}

func (a axis) kind() string {
	if a.logarithms {
		return " (logarithmic)"
	}
	return ""
}

func (a axis) at(v float64) float64 {
	share := (v - a.low) / (a.high - a.low)
	if a.logarithms {
		share = math.Log(v/a.low) / math.Log(a.high/a.low)
	}
	return a.from + (a.to-a.from)*min(max(share, 0), 1)
}

// ticks are round values along the axis.
func (a axis) ticks() []float64 {
	var list []float64
	if a.logarithms {
		for p := math.Pow(10, math.Floor(math.Log10(a.low))); p <= a.high; p *= 10 {
			for _, m := range []float64{1, 2, 5} {
				if v := m * p; v >= a.low && v <= a.high {
					list = append(list, v)
				}
			}
		}
		for len(list) > 8 { // every second one
			for i := range len(list) / 2 {
				list[i] = list[2*i]
			}
			list = list[:len(list)/2]
		}
		return list
	}
	step := roundStep(a.high / 5)
	for i := 0; float64(i)*step <= a.high; i++ {
		list = append(list, float64(i)*step)
	}
	return list
}

// tick is a round value, written as short as can be.
func tick(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

// roundStep is 1, 2 or 5 times a power of ten, the next above v.
func roundStep(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*p >= v {
			return m * p
		}
	}
	return 10 * p
}

// Sizes of a plot of speed over time.
const (
	courseWidth  = 420
	courseHeight = 150
	courseLeft   = 48
)

// lines draws the guest's speed over time, and the time of the migration as a band.
func lines(run Run, highest float64, native bool) string {
	points := run.Speed.Course
	if len(points) < 2 {
		return ""
	}
	first, last := points[0].MS, points[len(points)-1].MS
	high := roundStep(max(highest, 1))
	x := func(ms float64) float64 {
		return courseLeft + (courseWidth-courseLeft-8)*min(max((ms-first)/(last-first), 0), 1)
	}
	y := func(v float64) float64 { return courseHeight - 24 - (courseHeight-34)*min(v/high, 1) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, courseWidth, courseHeight)
	fmt.Fprintf(&b, `<rect class="span" x="%.1f" width="%.1f" y="6" height="%d"/>`, x(0), max(x(run.WallMS)-x(0), 1), courseHeight-30)
	for _, v := range []float64{0, high / 2, high} {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" x="%d" y="%.1f" text-anchor="end">%s</text>`,
			courseLeft, courseWidth-8, y(v), y(v), courseLeft-6, y(v)+4, tick(v))
	}
	step := roundStep((last - first) / 5)
	for t := math.Ceil(first/step) * step; t <= last; t += step {
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%d" text-anchor="middle">%.1f s</text>`, x(t), courseHeight-6, t/1000+0) // +0 makes zero of a negative zero
	}
	class := "nbd"
	if native {
		class = "native"
	}
	b.WriteString(`<polyline class="course ` + class + `" points="`)
	for _, p := range points {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(p.MS), y(p.Speed))
	}
	b.WriteString(`"/></svg>`)
	return b.String()
}
