package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/analysis/advise"
	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/page"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// samplesFile is the store of samples within the state directory.
const samplesFile = "samples.db"

// profileBins is how finely a cycle is folded.
const profileBins = 96

type analyzeFlags struct {
	column, metric, html string
	last                 time.Duration
	ram, link            string
	wait                 time.Duration

	others []string // columns of the file that were not asked for
}

func newAnalyzeCmd(g *globals) *cobra.Command {
	f := &analyzeFlags{}
	cmd := &cobra.Command{
		Use:   "analyze DOMAIN|FILE.csv",
		Short: "Find the cycles in what a guest does",
		Long: `Find the cycles in what a guest does, so that a migration can wait for the
quiet part of one. "No cycle" is an answer, too.

The samples are those that vmmigrate watch has recorded of a guest, or those of
a CSV file: a time and one or more values in each line, of which --column picks
one. With --html the series, its cycles and the folded cycle are drawn into one
page that needs no network.

It is told of a cycle only if at least three of its periods were seen.`,
		Example: `  vmmigrate analyze web --last 48h --html web.html
  vmmigrate analyze requests.csv --column value`,
		Args: rangeArgs(1, 1, "a domain or a CSV file"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, g, args[0]) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.column, "column", "", "`NAME` or number of the file's column (default: the first with numbers)")
	fs.StringVar(&f.metric, "metric", string(sample.MetricDirty), "`METRIC` of the guest: dirty, cpu, disk-writes, network")
	fs.DurationVar(&f.last, "last", 0, "look at this `TIME` up to the last sample only (default: all there is)")
	fs.StringVar(&f.html, "html", "", "draw it into this `FILE`")
	fs.StringVar(&f.ram, "ram", "", "say also when to migrate a guest of this `SIZE`, of which the series is the RAM written per second")
	fs.StringVar(&f.link, "link", "1gbit", "with --ram: what the link carries, a `RATE` as for --bandwidth")
	fs.DurationVar(&f.wait, "wait", time.Hour, "with --ram: how long the migration may take from the series' end, waiting included")
	return cmd
}

// found is what analyze prints as JSON.
type found struct {
	Schema  string       `json:"schema"`
	Name    string       `json:"name"`
	Metric  string       `json:"metric"`
	From    time.Time    `json:"from"`
	To      time.Time    `json:"to"`
	StepS   float64      `json:"step_s"`
	Samples int          `json:"samples"`
	Known   float64      `json:"known"`
	Cycles  []foundCycle `json:"cycles"`
	Why     string       `json:"why"`
	// Advice and Start are of --ram.
	Advice string    `json:"advice,omitempty"`
	Start  time.Time `json:"start,omitzero"`
}

type foundCycle struct {
	PeriodS    float64 `json:"period_s"`
	Confidence float64 `json:"confidence"`
	Strength   float64 `json:"strength"`
	Drift      float64 `json:"drift"`
}

func (f *analyzeFlags) run(cmd *cobra.Command, g *globals, name string) error {
	s, err := f.series(cmd.Context(), g, name)
	if err != nil {
		return err
	}
	if f.last > 0 {
		s = s.Last(f.last)
	}
	r, err := cycle.Detect(s, cycle.Options{})
	if err != nil {
		return fmt.Errorf("analyze %s: %w", name, err)
	}
	var v *verdict
	if f.ram != "" {
		s.Unit = sample.MetricDirty.Unit()
		if v, err = f.judge(s, r); err != nil {
			return err
		}
	}
	if f.html != "" {
		if err := f.draw(name, s, r, v); err != nil {
			return err
		}
	}
	out := foundOf(name, s, r)
	if v != nil {
		out.Advice, out.Start = v.advice.Reason, v.advice.Start
	}
	if len(f.others) > 0 {
		fmt.Fprintf(g.stderr, "the file has more columns (--column): %s\n", strings.Join(f.others, ", "))
	}
	if g.json() {
		return printJSON(cmd.OutOrStdout(), out)
	}
	return writeFound(cmd.OutOrStdout(), out, s, r, f.html)
}

// series reads a file, or what was recorded of a guest.
func (f *analyzeFlags) series(ctx context.Context, g *globals, name string) (sample.Series, error) {
	if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() || strings.HasSuffix(name, ".csv") {
		return f.file(name)
	}
	known := false
	for _, m := range sample.Metrics() {
		known = known || string(m) == f.metric
	}
	if !known {
		return sample.Series{}, usagef("--metric %q is none of dirty, cpu, disk-writes, network", f.metric)
	}
	dir, err := g.state()
	if err != nil {
		return sample.Series{}, err
	}
	const fix = "vmmigrate watch %s --daemon records it"
	db, err := store.OpenReadOnly(ctx, filepath.Join(dir, samplesFile))
	if err != nil {
		return sample.Series{}, migrate.Fail("read what was recorded of "+name, migrate.SideCoordinator, err, fmt.Sprintf(fix, name))
	}
	defer db.Close()
	k, err := db.Find(ctx, name)
	var s sample.Series
	if err == nil {
		s, err = db.Series(ctx, k.UUID, sample.Metric(f.metric), store.Query{})
	}
	if err == nil && s.Len() == 0 {
		err = sample.ErrNoSamples
	}
	return s, migrate.Fail("read what was recorded of "+name, migrate.SideCoordinator, err, fmt.Sprintf(fix, name))
}

func (f *analyzeFlags) file(path string) (sample.Series, error) {
	in, err := os.Open(path)
	if err != nil {
		return sample.Series{}, err
	}
	defer in.Close()
	var columns []string
	if f.column != "" {
		columns = []string{f.column}
	}
	t, err := sample.ReadCSV(in, sample.CSVOptions{Columns: columns, Negative: true, Location: time.Local})
	if err != nil {
		return sample.Series{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(t.Series) == 0 {
		return sample.Series{}, fmt.Errorf("%s: %w", path, sample.ErrNoSamples)
	}
	if len(t.Series) > 1 {
		var others []string
		for _, s := range t.Series[1:] {
			others = append(others, s.Name)
		}
		f.others = others
	}
	return t.Series[0], nil
}

func foundOf(name string, s sample.Series, r cycle.Result) found {
	out := found{Schema: "vmmigrate.analysis/v1", Name: name, Metric: s.Name, From: s.Start, To: s.End(), StepS: s.Step.Seconds(), Samples: s.Len(),
		Known: r.Known, Cycles: []foundCycle{}, Why: r.Why}
	for _, c := range r.Cycles {
		out.Cycles = append(out.Cycles, foundCycle{c.Period.Seconds(), c.Confidence, c.Strength, c.Drift})
	}
	return out
}

func writeFound(w io.Writer, f found, s sample.Series, r cycle.Result, drawn string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %d samples of %s, %.0f %% of them known\n", f.Name, f.Metric, f.Samples, cycle.Short(s.Step), 100*f.Known)
	fmt.Fprintf(&b, "from %s to %s\n\n", s.Start.Local().Format(time.DateTime), s.End().Local().Format(time.DateTime))
	if len(r.Cycles) == 0 {
		b.WriteString("no cycle\n")
	}
	for i, c := range r.Cycles {
		name := "cycle"
		if i > 0 {
			name = "and  "
		}
		fmt.Fprintf(&b, "%s  %-10s  confidence %3.0f %%  explains %3.0f %%", name, cycle.Short(c.Period), 100*c.Confidence, 100*c.Strength)
		if c.Drift != 0 {
			fmt.Fprintf(&b, "  drifts %+.2f %% a period", 100*c.Drift)
		}
		b.WriteString("\n")
	}
	for _, l := range wrapped(r.Why, 78) {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	if f.Advice != "" {
		b.WriteString("\n")
		for _, l := range wrapped(f.Advice, 80) {
			fmt.Fprintf(&b, "%s\n", l)
		}
	}
	if drawn != "" {
		fmt.Fprintf(&b, "\ndrawn into %s\n", drawn)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrapped breaks a text between words.
func wrapped(text string, width int) []string {
	var out []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			out, line = append(out, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		out = append(out, line)
	}
	return out
}

// verdict is when to migrate, and what it would cost by when it starts.
type verdict struct {
	advice advise.Advice
	starts []forecast.Cost
	ways   []forecast.Cost
}

// drawnStarts is how many starts are reckoned for the page.
const drawnStarts = 120

// judge asks when to migrate a guest that goes on as the series has it, from its end on.
func (f *analyzeFlags) judge(s sample.Series, r cycle.Result) (*verdict, error) {
	ram, err := parseBandwidth("--ram", f.ram)
	if err != nil {
		return nil, err
	}
	link, err := parseBandwidth("--link", f.link)
	if err != nil {
		return nil, err
	}
	if f.wait <= 0 {
		return nil, usagef("--wait is above 0")
	}
	curve, err := forecast.NewCurve(forecast.Sources{Dirty: s, Cycles: r})
	if err != nil {
		return nil, err
	}
	now := s.End()
	t := task{guest: forecast.Guest{RAM: ram}, link: forecast.Link{Bandwidth: float64(link)}, ways: forecast.Ways()}
	v := &verdict{}
	if v.advice, err = (advise.Cycle{}).Advise(t.request(outlook{dirty: s, curve: curve, cycles: r}, now, now.Add(f.wait))); err != nil {
		return nil, err
	}
	for i := range drawnStarts {
		at := now.Add(f.wait * time.Duration(i) / drawnStarts)
		v.starts = append(v.starts, forecast.Estimate(at, v.advice.Way, t.guest, t.link, curve, forecast.Limits{}))
	}
	for _, w := range t.ways {
		v.ways = append(v.ways, forecast.Estimate(v.advice.Start, w, t.guest, t.link, curve, forecast.Limits{}))
	}
	return v, nil
}

// draw writes the page, whole or not at all.
func (f *analyzeFlags) draw(name string, s sample.Series, r cycle.Result, v *verdict) error {
	p := page.Page{Name: name, Made: time.Now(), Series: s, Result: r}
	if v != nil {
		p.Advice, p.Start, p.End = v.advice.Reason, v.advice.Start, v.advice.Start.Add(v.advice.Cost.Duration.Expected)
		p.Starts, p.Ways = v.starts, v.ways
	}
	if len(r.Cycles) > 0 {
		p.Profile = cycle.Fold(s, r.Cycles[0], profileBins)
	}
	tmp := f.html + ".new"
	out, err := os.Create(tmp)
	if err != nil {
		return err
	}
	err = errors.Join(p.Write(out), out.Close())
	if err == nil {
		err = os.Rename(tmp, f.html)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("draw into %s: %w", f.html, err), os.Remove(tmp))
	}
	return nil
}
