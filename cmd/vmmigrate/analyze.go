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

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
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
	if f.html != "" {
		if err := f.draw(name, s, r); err != nil {
			return err
		}
	}
	out := foundOf(name, s, r)
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

// draw writes the page, whole or not at all.
func (f *analyzeFlags) draw(name string, s sample.Series, r cycle.Result) error {
	p := page.Page{Name: name, Made: time.Now(), Series: s, Result: r}
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
