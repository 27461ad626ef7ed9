package page

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

//go:embed page.html
var source string

// Page is what is drawn. Only Series is needed; what is empty is left out.
type Page struct {
	// Name is the guest's, or the file's.
	Name string
	// Made is when the analysis was made; times are shown in its zone.
	Made   time.Time
	Series sample.Series
	Result cycle.Result
	// Profile is the series folded on its strongest cycle.
	Profile cycle.Profile
	// Starts are what a migration would cost by when it starts, in order.
	Starts []forecast.Cost
	// Ways are what each engine and strategy would cost at the advised start.
	Ways []forecast.Cost
	// Advice is the sentence for people; Start when the migration is advised to begin, and End when it is expected to be over.
	Advice     string
	Start, End time.Time
}

// Write draws the page.
func (p Page) Write(w io.Writer) error {
	if p.Series.Len() == 0 || p.Series.Step <= 0 {
		return fmt.Errorf("draw %s: %w", p.Name, sample.ErrNoSamples)
	}
	t, err := template.New("page").Parse(source)
	if err != nil {
		return fmt.Errorf("draw %s: %w", p.Name, err)
	}
	return errors.Join(t.Execute(w, p.view()))
}

// view is what the template reads.
type view struct {
	Name, Made, Span, Known, Why, Advice string
	Advised                              bool
	Series, Profile, Costs               template.HTML
	ProfileText, CostText                string
	Cycles                               []cycleRow
	Ways                                 []wayRow
}

type cycleRow struct{ Period, Confidence, Strength, Drift string }

type wayRow struct {
	Name, Duration, Downtime, Bytes, Slow, Why string
	Converges                                  string
}

func (p Page) view() view {
	v := view{Name: p.Name, Made: p.Made.Format("2006-01-02 15:04:05 MST"), Why: p.Result.Why, Advice: p.Advice, Advised: !p.Start.IsZero(),
		Span:  fmt.Sprintf("%s to %s, %d samples of %s", p.in(p.Series.Start), p.in(p.Series.End()), p.Series.Len(), cycle.Short(p.Series.Step)),
		Known: fmt.Sprintf("%.0f %%", 100*float64(p.Series.Known())/float64(p.Series.Len())), Series: p.series()}
	for _, c := range p.Result.Cycles {
		row := cycleRow{cycle.Short(c.Period), fmt.Sprintf("%.0f %%", 100*c.Confidence), fmt.Sprintf("%.0f %%", 100*c.Strength), "none seen"}
		if c.Drift != 0 {
			row.Drift = fmt.Sprintf("%+.2f %% a period", 100*c.Drift)
		}
		v.Cycles = append(v.Cycles, row)
	}
	if len(p.Profile.Bins) > 0 && p.Profile.Period > 0 {
		v.Profile = p.profile()
		v.ProfileText = fmt.Sprintf("One cycle of %s: the line is the median, the band holds eight in ten of what was seen.", cycle.Short(p.Profile.Period))
	}
	if len(p.Starts) > 1 {
		v.Costs = p.costs()
		v.CostText = fmt.Sprintf("Expected duration of a migration by %s, by when it starts; the band is the range.", p.Starts[0].Way)
	}
	for _, c := range p.Ways {
		v.Ways = append(v.Ways, wayRow{Name: c.Way.String(), Duration: times(c.Duration), Downtime: times(c.Downtime), Bytes: amounts(c.Bytes),
			Slow: times(c.SlowFor), Converges: fmt.Sprintf("%.0f %%", 100*c.Converges), Why: c.Why})
	}
	return v
}

func (p Page) in(t time.Time) string { return t.In(p.Made.Location()).Format("2006-01-02 15:04:05") }

func times(s forecast.Span) string {
	if s.High == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s – %s)", cycle.Short(s.Expected), cycle.Short(s.Low), cycle.Short(s.High))
}

func amounts(r forecast.Range) string {
	return fmt.Sprintf("%s (%s – %s)", Quantity(r.Expected, "B"), Quantity(r.Low, "B"), Quantity(r.High, "B"))
}

// series draws the samples, thinned to what can be told apart: the mean, and from least to most as a band.
func (p Page) series() template.HTML {
	s := p.Series
	n := (s.Len() + chartPoints - 1) / chartPoints
	c := p.overTime(s.Start, s.End(), s.Unit)
	var l line
	var b band
	for i := 0; i < s.Len(); i += n {
		low, mean, high := extremes(s.Values[i:min(i+n, s.Len())])
		x := (float64(i) + float64(n)/2) * s.Step.Seconds()
		l.xs, l.ys = append(l.xs, x), append(l.ys, mean)
		b.xs, b.low, b.high = append(b.xs, x), append(b.low, low), append(b.high, high)
	}
	c.lines = []line{l}
	if n > 1 {
		c.bands = []band{b}
	}
	c.spans = p.window(s.Start, s.End(), 0)
	return c.svg()
}

func extremes(values []float64) (low, mean, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	sum, n := 0.0, 0
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		low, high, sum, n = min(low, v), max(high, v), sum+v, n+1
	}
	if n == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	return low, sum / float64(n), high
}

// overTime is a chart whose axis shows times of the day, with the date where it is long.
func (p Page) overTime(from, to time.Time, unit string) chart {
	form := "15:04:05"
	switch d := to.Sub(from); {
	case d > 10*24*time.Hour:
		form = "2006-01-02"
	case d > 20*time.Hour:
		form = "01-02 15:04"
	}
	return chart{to: to.Sub(from).Seconds(), unit: unit, xLabel: func(v float64) string {
		return from.Add(time.Duration(v * float64(time.Second))).In(p.Made.Location()).Format(form)
	}}
}

// window is the advised part of an axis that begins at from; with a period it is folded onto it.
func (p Page) window(from, to time.Time, period time.Duration) [][2]float64 {
	if p.Start.IsZero() || period == 0 && !p.Start.Before(to) {
		return nil
	}
	a, length := p.Start.Sub(from), max(p.End.Sub(p.Start), 0)
	if period == 0 {
		return [][2]float64{{a.Seconds(), min(a+length, to.Sub(from)).Seconds()}}
	}
	a = ((a % period) + period) % period
	b := a + min(length, period)
	if b <= period {
		return [][2]float64{{a.Seconds(), b.Seconds()}}
	}
	return [][2]float64{{a.Seconds(), period.Seconds()}, {0, (b - period).Seconds()}}
}

func (p Page) profile() template.HTML {
	f := p.Profile
	c := chart{to: f.Period.Seconds(), unit: p.Series.Unit, xLabel: func(v float64) string { return cycle.Short(time.Duration(v * float64(time.Second))) }}
	var l line
	var b band
	for i, bin := range f.Bins {
		x := (float64(i) + 0.5) * f.Period.Seconds() / float64(len(f.Bins))
		median, low, high := bin.Median, bin.Low, bin.High
		if bin.N == 0 {
			median, low, high = math.NaN(), math.NaN(), math.NaN()
		}
		l.xs, l.ys = append(l.xs, x), append(l.ys, median)
		b.xs, b.low, b.high = append(b.xs, x), append(b.low, low), append(b.high, high)
	}
	c.lines, c.bands, c.spans = []line{l}, []band{b}, p.window(f.Origin, f.Origin.Add(f.Period), f.Period)
	return c.svg()
}

func (p Page) costs() template.HTML {
	first := p.Starts[0].Start
	c := p.overTime(first, p.Starts[len(p.Starts)-1].Start, "s")
	var l line
	var b band
	for _, s := range p.Starts {
		x := s.Start.Sub(first).Seconds()
		r := s.Duration.Range()
		l.xs, l.ys = append(l.xs, x), append(l.ys, r.Expected)
		b.xs, b.low, b.high = append(b.xs, x), append(b.low, r.Low), append(b.high, r.High)
	}
	c.lines, c.bands = []line{l}, []band{b}
	if !p.Start.IsZero() {
		c.marks = []float64{p.Start.Sub(first).Seconds()}
	}
	return c.svg()
}
