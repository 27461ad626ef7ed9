package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmmigrate/vmmigrate/analysis/advise"
	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/page"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

type simulateFlags struct {
	analyzeFlags
	ram, link, way string
	wait           time.Duration
	maxDowntime    time.Duration
	requests       int
	seed           uint64
}

func newSimulateCmd(g *globals) *cobra.Command {
	f := &simulateFlags{}
	cmd := &cobra.Command{
		Use:   "simulate DOMAIN|FILE.csv",
		Short: "Try policies of when to migrate on a recorded series",
		Long: `Try policies of when to migrate on a recorded series, without touching
anything: migrations are wanted at random moments of it, each policy is told
what was seen up to then, and what comes of its advice is reckoned by what
really came.

The policies are: immediate; random delay; local minimum, which waits until the
guest writes less; naive Bayes, ALMA's way; cycle, which is that of
--when cycle; and oracle, which knows the future and cannot be beaten. "waits in
vain" counts those that gained nothing; regret is how much worse than the oracle
a policy was in the median.

The series is one of bytes written to RAM per second, as for analyze.`,
		Example: `  vmmigrate simulate web --ram 8GiB --link 10gbit --wait 1h
  vmmigrate simulate trace.csv --column dirty --ram 4GiB --link 1gbit`,
		Args: rangeArgs(1, 1, "a domain or a CSV file"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, g, args[0]) },
	}
	fs := cmd.Flags()
	f.metric = string(sample.MetricDirty)
	fs.StringVar(&f.column, "column", "", "`NAME` or number of the file's column (default: the first with numbers)")
	fs.StringVar(&f.ram, "ram", "4GiB", "the guest's RAM, a `SIZE`")
	fs.StringVar(&f.link, "link", "1gbit", "what the link carries, a `RATE` as for --bandwidth")
	fs.StringVar(&f.way, "way", "nbd/hybrid", "`ENGINE/STRATEGY` of the migrations, or any for the best of all")
	fs.DurationVar(&f.wait, "wait", time.Hour, "the deadline of each migration, counted from when it is wanted")
	fs.DurationVar(&f.maxDowntime, "max-downtime", 300*time.Millisecond, "longest `TIME` to pause for in pre-copy")
	fs.IntVar(&f.requests, "requests", 20, "`NUMBER` of migrations that are wanted")
	fs.Uint64Var(&f.seed, "seed", 1, "`SEED` of the moments at which they are")
	return cmd
}

func (f *simulateFlags) run(cmd *cobra.Command, g *globals, name string) error {
	c := advise.Case{Name: name, Wait: f.wait, MayPostcopy: true, Limits: forecast.Limits{MaxDowntime: f.maxDowntime}}
	ram, err := parseBandwidth("--ram", f.ram)
	if err != nil {
		return err
	}
	link, err := parseBandwidth("--link", f.link)
	if err != nil {
		return err
	}
	c.Guest.RAM, c.Link.Bandwidth = ram, float64(link)
	if c.Ways, err = waysOf(f.way); err != nil {
		return err
	}
	if f.requests < 1 || f.requests > 10000 || f.wait <= 0 {
		return usagef("--requests is from 1 to 10000, and --wait above 0")
	}
	if c.Dirty, err = f.series(cmd.Context(), g, name); err != nil {
		return err
	}
	policies := []advise.Policy{advise.Immediate{}, advise.RandomDelay{Seed: f.seed}, advise.LocalMinimum{}, advise.NaiveBayes{}, advise.Cycle{}, advise.Oracle{}}
	all, _, err := advise.Simulate(policies, []advise.Case{c}, advise.Options{Requests: f.requests, Seed: f.seed, Renew: renewEvery})
	if err != nil {
		return err
	}
	if g.json() {
		return printJSON(cmd.OutOrStdout(), map[string]any{"schema": "vmmigrate.simulation/v1", "name": name, "requests": f.requests, "policies": all})
	}
	return writeOutcomes(cmd.OutOrStdout(), f, name, all)
}

// waysOf reads --way.
func waysOf(text string) ([]forecast.Way, error) {
	if text == "any" {
		return forecast.Ways(), nil
	}
	engine, strategy, _ := strings.Cut(text, "/")
	w := forecast.Way{Engine: engine, Strategy: strategy}
	if !slices.Contains(forecast.Ways(), w) {
		return nil, usagef("--way %q is not ENGINE/STRATEGY, such as nbd/hybrid or native/precopy, nor any", text)
	}
	return []forecast.Way{w}, nil
}

func writeOutcomes(w io.Writer, f *simulateFlags, name string, all []advise.Outcome) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d migrations of %s by %s over %s, each within %s; medians\n\n", name, f.requests, f.ram, f.way, f.link, cycle.Short(f.wait))
	fmt.Fprintf(&b, "%-14s  %9s  %9s  %9s  %9s  %7s  %5s  %7s  %4s\n", "policy", "sends", "takes", "pauses", "waited", "regret", "waits", "in vain", "late")
	for _, o := range all {
		fmt.Fprintf(&b, "%-14s  %9s  %9s  %9s  %9s  %5.0f %%  %5d  %7d  %4d\n", o.Policy, page.Quantity(o.Bytes, "B"), inShort(o.Duration), inShort(o.Downtime),
			inShort(o.Waited), 100*o.Regret, o.Waits, o.InVain, o.Late)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func inShort(seconds float64) string {
	return cycle.Short(time.Duration(seconds * float64(time.Second)))
}
