package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	benchmark "github.com/vmmigrate/vmmigrate/testenv/bench"
)

// benchFlags are the options of bench.
type benchFlags struct {
	*globals
	out, only, dir, micro, redraw string
	repetitions                   int
}

func newBenchCmd(g *globals) *cobra.Command {
	f := &benchFlags{globals: g}
	cmd := &cobra.Command{
		Use:   "bench SCENARIO...",
		Short: "Measure ways of migrating side by side",
		Long: `Run scenarios in labs of their own on this machine: a guest moves there and
back between two hosts, by each row of the scenario in turn, in an order of
chance, while a client watches it, the links are counted, and the guest checks
itself after every run. It needs root.

A SCENARIO is a file, or one that comes with the program:
` + shippedNames() + `

Written are DIR/bench.json (schema vmmigrate.bench/v1, every run with its own
report), DIR/bench.txt (tables) and DIR/bench.html (plots, one page without
links). Runs that fail are in all of them, and count in no median. The bars that
the project holds itself to come last; whether they are met does not change the
exit code: it is 0 if all runs could be made, whether they went well or not.

A scenario is JSON:

    schema       vmmigrate.scenario/v1
    name, title  for the tables
    hosts        libvirt, or bare for QEMU without it
    guest        memory, cpus, backing, pages, numa, accel, as in lab guest;
                 disks, a list, each as in lab guest --disk
    workloads    a list, each as in lab guest --workload
    links        a list, each as in lab up --link; all workloads run on each
    rows         a list: name, engine, strategy, and of the options of migrate
                 prepage, max_downtime, parallel, preempt, args; with diskless
                 it moves a like guest that has no disks, and without the
                 option that needs names it is left out. A guest with disks
                 has two engines more: virsh, libvirt alone, and nbdcopy,
                 which copies the images and leaves the guest where it is.
                 With stay, a list of workload and pages or blocks, the guest
                 goes there first, writes that much, and its way back is run.
                 within has a run begin after a time drawn from 0 to it, and
                 advised says that args have the program choose its moment
    repetitions  of each row in each workload and link
    seed         draws the order
    watch        how long the guest is recorded before the first run with a
                 workload: its runs are forecast, and held against what came
    around       how long the guest is watched before and after each run (1s)
    limit        of one run (2m)`,
		Example: `  vmmigrate bench dirty-rates --out results
  vmmigrate bench prepage outrun --only 'native|hybrid' --repetitions 1
  vmmigrate bench --redraw results/bench.json --out results`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.out, "out", ".", "`DIR` for bench.json, bench.txt and bench.html")
	fs.StringVar(&f.only, "only", "", "run only rows whose name matches this `REGEXP`")
	fs.IntVar(&f.repetitions, "repetitions", 0, "`NUMBER` of runs of each row in each cell, instead of the scenario's")
	fs.StringVar(&f.dir, "dir", "", "`DIR` for labs, as in lab")
	fs.StringVar(&f.micro, "micro", "", "take in what go test -bench printed into this `FILE`")
	fs.StringVar(&f.redraw, "redraw", "", "run nothing: draw the bench.json `FILE` of an earlier run again")
	return cmd
}

// shippedNames are the shipped scenarios with their titles, a line each.
func shippedNames() string {
	var b strings.Builder
	for _, name := range benchmark.Shipped() {
		if s, err := benchmark.Load(name); err == nil {
			fmt.Fprintf(&b, "\n    %-12s %s", name, fold(s.Title, 80-17, 17))
		}
	}
	return b.String()
}

// fold breaks a text between words into lines of that width, the later ones indented.
func fold(text string, width, indent int) string {
	var b strings.Builder
	col := 0
	for _, w := range strings.Fields(text) {
		switch n := utf8.RuneCountInString(w); {
		case col > 0 && col+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", indent) + w)
			col = n
		case col > 0:
			b.WriteString(" " + w)
			col += 1 + n
		default:
			b.WriteString(w)
			col = n
		}
	}
	return b.String()
}

// config checks the options and reads the scenarios.
func (f *benchFlags) config(args []string) (c benchmark.Config, list []benchmark.Scenario, err error) {
	c = benchmark.Config{Dir: f.dir, Repetitions: f.repetitions, Progress: func(s string) { fmt.Fprintln(f.stderr, s) }}
	if (len(args) == 0) == (f.redraw == "") {
		return c, nil, usagef("bench wants SCENARIO..., or --redraw FILE; shipped scenarios are %s", strings.Join(benchmark.Shipped(), ", "))
	}
	if f.repetitions < 0 || f.repetitions > 1000 {
		return c, nil, usagef("--repetitions %d is not between 1 and 1000", f.repetitions)
	}
	if f.only != "" {
		only, err := regexp.Compile(f.only)
		if err != nil {
			return c, nil, usageError{fmt.Errorf("--only: %w", err)}
		}
		c.Only = func(r benchmark.Row) bool { return only.MatchString(r.Name) }
	}
	for _, name := range args {
		s, err := benchmark.Load(name)
		if err != nil {
			return c, nil, usageError{err}
		}
		list = append(list, s)
	}
	c.Program, err = os.Executable()
	return c, list, err
}

func (f *benchFlags) run(cmd *cobra.Command, args []string) error {
	c, list, err := f.config(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(f.out, 0o755); err != nil {
		return err
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	report, failure := f.report(ctx, c, list)
	if failure != nil && len(report.Scenarios) == 0 {
		return failure
	}
	if f.micro != "" {
		if err := addMicro(&report, f.micro); err != nil {
			return err
		}
	}
	if err := f.write(report); err != nil {
		return err
	}
	if f.json() {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(report)
	} else {
		_, err = fmt.Fprint(cmd.OutOrStdout(), report.Text())
	}
	for _, s := range report.Scenarios {
		if s.Error != "" {
			failure = errors.Join(failure, fmt.Errorf("scenario %s: %s", s.Scenario.Name, s.Error))
		}
	}
	return errors.Join(failure, err)
}

// report measures, or reads what was measured.
func (f *benchFlags) report(ctx context.Context, c benchmark.Config, list []benchmark.Scenario) (benchmark.Report, error) {
	if f.redraw == "" {
		return benchmark.Measure(ctx, c, list)
	}
	file, err := os.Open(f.redraw)
	if err != nil {
		return benchmark.Report{}, err
	}
	defer file.Close()
	return benchmark.ReadReport(file)
}

func addMicro(r *benchmark.Report, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	list, err := benchmark.ParseMicro(file)
	if err != nil {
		return err
	}
	r.AddMicro(list)
	return nil
}

// write writes the three files.
func (f *benchFlags) write(r benchmark.Report) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	page, err := r.Page()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"bench.json": append(data, '\n'), "bench.txt": []byte(r.Text()), "bench.html": page} {
		if err := os.WriteFile(filepath.Join(f.out, name), content, 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(f.stderr, "── written: %s\n", filepath.Join(f.out, "bench.{json,txt,html}"))
	return nil
}
