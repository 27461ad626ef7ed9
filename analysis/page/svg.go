package page

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// Sizes of a chart, in the units of its viewBox.
const (
	chartWidth  = 1000
	chartHeight = 240
	chartLeft   = 74
	chartRight  = 14
	chartTop    = 12
	chartBottom = 34
	// chartPoints is how many values are drawn at most: more could not be told apart.
	chartPoints = 900
)

// line is a drawn curve: its values lie at xs, which rise. NaN interrupts it.
type line struct {
	class  string
	xs, ys []float64
}

// band is an area between two curves.
type band struct {
	xs, low, high []float64
}

// chart is one picture: curves over an axis of time, in seconds from its begin.
type chart struct {
	lines  []line
	bands  []band
	spans  [][2]float64 // marked parts of the axis
	marks  []float64    // marked places of it
	from   float64
	to     float64
	unit   string
	xLabel func(float64) string
}

func (c chart) top() float64 {
	high := 0.0
	take := func(vs []float64) {
		for _, v := range vs {
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				high = max(high, v)
			}
		}
	}
	for _, l := range c.lines {
		take(l.ys)
	}
	for _, b := range c.bands {
		take(b.high)
	}
	if high <= 0 {
		return 1
	}
	return min(high, math.MaxFloat64/2) * 1.05
}

func (c chart) x(v float64) float64 {
	return chartLeft + (chartWidth-chartLeft-chartRight)*(v-c.from)/max(c.to-c.from, 1e-9)
}

func (c chart) svg() template.HTML {
	high := c.top()
	y := func(v float64) float64 {
		return chartTop + (chartHeight-chartTop-chartBottom)*(1-min(max(v/high, 0), 1))
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, chartWidth, chartHeight)
	c.grid(&b, high, y)
	for _, s := range c.spans {
		fmt.Fprintf(&b, `<rect class="span" x="%.1f" width="%.1f" y="%d" height="%d"/>`, c.x(s[0]), max(c.x(s[1])-c.x(s[0]), 1.5), chartTop, chartHeight-chartTop-chartBottom)
	}
	for _, a := range c.bands {
		fmt.Fprintf(&b, `<path class="band" d="%s"/>`, c.area(a, y))
	}
	for _, l := range c.lines {
		fmt.Fprintf(&b, `<path class="line %s" d="%s"/>`, html.EscapeString(l.class), c.path(l.xs, l.ys, y))
	}
	for _, m := range c.marks {
		fmt.Fprintf(&b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, c.x(m), c.x(m), chartTop, chartHeight-chartBottom)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) //nolint:gosec // all text in it was escaped above
}

func (c chart) grid(b *strings.Builder, high float64, y func(float64) float64) {
	step := roundStep(high / 4)
	for i := 0; i <= 5 && float64(i)*step <= high; i++ {
		v := float64(i) * step
		fmt.Fprintf(b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			chartLeft, chartWidth-chartRight, y(v), y(v), chartLeft-8, y(v)+4, html.EscapeString(Quantity(v, c.unit)))
	}
	const ticks = 6
	for i := range ticks + 1 {
		v := c.from + (c.to-c.from)*float64(i)/ticks
		anchor := "middle"
		if i == 0 {
			anchor = "start"
		} else if i == ticks {
			anchor = "end"
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="%s">%s</text>`, c.x(v), chartHeight-10, anchor, html.EscapeString(c.xLabel(v)))
	}
}

func (c chart) path(xs, ys []float64, y func(float64) float64) string {
	var b strings.Builder
	pen := "M"
	for i, v := range ys {
		if math.IsNaN(v) {
			pen = "M"
			continue
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", pen, c.x(xs[i]), y(v))
		pen = "L"
	}
	return b.String()
}

func (c chart) area(a band, y func(float64) float64) string {
	var b strings.Builder
	pen := "M"
	for i, v := range a.high {
		if !math.IsNaN(v) {
			fmt.Fprintf(&b, "%s%.1f %.1f", pen, c.x(a.xs[i]), y(v))
			pen = "L"
		}
	}
	for i := len(a.low) - 1; i >= 0; i-- {
		if v := a.low[i]; !math.IsNaN(v) {
			fmt.Fprintf(&b, "%s%.1f %.1f", pen, c.x(a.xs[i]), y(v))
			pen = "L"
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return b.String() + "Z"
}

// roundStep is 1, 2 or 5 times a power of ten, the next at or above v.
func roundStep(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*p >= v {
			return m * p
		}
	}
	return 10 * p
}

// Quantity writes a value with its unit: bytes with a binary prefix, other things with three digits.
func Quantity(v float64, unit string) string {
	if math.IsNaN(v) {
		return "?"
	}
	if unit == "B" || unit == "B/s" {
		prefixes := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi"}
		i := 0
		for ; math.Abs(v) >= 1000 && i < len(prefixes)-1; i++ {
			v /= 1024
		}
		return digits(v) + " " + prefixes[i] + unit
	}
	if unit == "" {
		return digits(v)
	}
	return digits(v) + " " + unit
}

// digits writes three of them, and no power of ten for what can be read without.
func digits(v float64) string {
	if a := math.Abs(v); a >= 100 && a < 1e7 {
		return strconv.FormatFloat(math.Round(v), 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
