package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// Config says how scenarios are run.
type Config struct {
	// Program is the vmmigrate that is measured.
	Program string
	// Dir is for labs, as testenv.Config.Dir.
	Dir string
	// Only, if not nil, chooses the rows that run.
	Only func(Row) bool
	// Repetitions replaces the scenarios' own, unless 0.
	Repetitions int
	// Progress, if not nil, is told what is done, a line at a time.
	Progress func(string)
}

// labName is that of the benchmark's labs.
const labName = "bench"

// downPatience bounds how long a lab may take to end.
const downPatience = time.Minute

// Measure runs the scenarios one after the other, each in a lab of its own. A scenario
// that cannot be run is in the report with its error, and the next one runs; the
// error is of ctx, and the report then has what was measured until then.
func Measure(ctx context.Context, c Config, scenarios []Scenario) (Report, error) {
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	r := Report{Schema: ReportSchema, Started: time.Now(), Machine: machine(ctx, c.Program)}
	for _, s := range scenarios {
		if ctx.Err() != nil {
			break
		}
		r.Scenarios = append(r.Scenarios, runScenario(ctx, c, s))
	}
	r.Ended = time.Now()
	r.finish()
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	return r, nil
}

// session is one scenario while it runs.
type session struct {
	Config
	scenario Scenario
	result   *Result
	lab      *testenv.Lab
	state    string // the program's files
	journal  string // its journal, below state
	dice     *rand.Rand
	watched  string // the workload that was recorded last
	venue    venue
	plain    venue // the guest without disks; nil if no row has it
	order    int
	// leastBytes is the least that the images have taken until now.
	leastBytes float64
}

func runScenario(ctx context.Context, c Config, s Scenario) (result Result) {
	if c.Repetitions > 0 {
		s.Repetitions = c.Repetitions
	}
	result = newResult(s, c.Only)
	c.Progress(fmt.Sprintf("── %s: %s", s.Name, s.Title))
	if err := (&session{Config: c, scenario: s, result: &result}).run(ctx); err != nil {
		result.Error = err.Error()
		c.Progress("   it did not come to its end: " + result.Error)
	}
	return result
}

// newResult has a place for each run.
func newResult(s Scenario, only func(Row) bool) Result {
	r := Result{Scenario: s}
	for _, w := range s.Workloads {
		for _, l := range s.Links {
			cell := Cell{Workload: w, Link: l}
			for _, row := range s.Rows {
				if only == nil || only(row) {
					cell.Rows = append(cell.Rows, RowResult{Row: row, Runs: []Run{}})
				}
			}
			r.Cells = append(r.Cells, cell)
		}
	}
	return r
}

// run brings a lab up, boots the guest, does all runs and takes everything down.
func (s *session) run(ctx context.Context) (err error) {
	if len(s.result.Cells[0].Rows) == 0 {
		return errors.New("none of its rows is chosen")
	}
	if s.state, err = os.MkdirTemp("", "vmmigrate-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.state)
	s.lab, err = testenv.Up(ctx, testenv.Config{Name: labName, Dir: s.Dir, Bare: s.scenario.Hosts == Bare, Bound: true})
	if err != nil {
		return err
	}
	defer func() {
		down, stop := context.WithTimeout(context.WithoutCancel(ctx), downPatience)
		defer stop()
		err = errors.Join(err, s.lab.Down(down))
	}()
	if err := s.boot(ctx); err != nil {
		return err
	}
	return s.rounds(ctx)
}

// boot starts the guest at its first host.
func (s *session) boot(ctx context.Context) error {
	config, err := s.scenario.guest("bench")
	if err != nil {
		return err
	}
	if s.venue, err = newVenue(s.lab, s.scenario.Hosts, config); err != nil {
		return err
	}
	begin := time.Now()
	accel, err := s.venue.start(ctx)
	if err != nil {
		return err
	}
	s.result.Accel = accel
	if slices.ContainsFunc(s.scenario.Rows, func(r Row) bool { return r.Diskless }) {
		if s.plain, err = newVenue(s.lab, s.scenario.Hosts, diskless(config)); err != nil {
			return err
		}
		if _, err := s.plain.start(ctx); err != nil {
			return err
		}
	}
	s.Progress(fmt.Sprintf("   the guest (%s, %s) answers after %.1f s", s.scenario.Guest.Memory, accel, time.Since(begin).Seconds()))
	return nil
}

// rounds does each repetition of all cells and rows, in an order of chance.
func (s *session) rounds(ctx context.Context) error {
	s.dice = rand.New(rand.NewPCG(s.scenario.Seed, 0x62656e6368)) // the second half is any constant
	if s.scenario.Watch > 0 {
		return s.foretold(ctx)
	}
	s.journal = filepath.Join(s.state, "journal")
	for rep := range s.scenario.Repetitions {
		for _, c := range s.dice.Perm(len(s.result.Cells)) {
			cell := &s.result.Cells[c]
			if err := s.enter(ctx, cell); err != nil {
				return err
			}
			if err := s.rows(ctx, cell, rep+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// rows runs each row of a cell once, in an order of chance.
func (s *session) rows(ctx context.Context, cell *Cell, rep int) error {
	for _, i := range s.dice.Perm(len(cell.Rows)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if cell.Rows[i].Skipped = s.lacks(ctx, cell.Rows[i].Row); cell.Rows[i].Skipped != "" {
			s.Progress("   " + cell.Rows[i].Row.Name + ": left out, " + cell.Rows[i].Skipped)
			continue
		}
		if err := s.one(ctx, cell, &cell.Rows[i], rep); err != nil {
			return err
		}
	}
	return nil
}

// enter gives links and guest what the cell wants.
func (s *session) enter(ctx context.Context, cell *Cell) error {
	if err := s.shape(ctx, cell); err != nil {
		return err
	}
	if s.plain != nil {
		if err := s.work(ctx, s.plain, offDisk(cell.Workload)); err != nil {
			return err
		}
	}
	return s.work(ctx, s.venue, cell.Workload)
}

// shape gives links what the cell wants.
func (s *session) shape(ctx context.Context, cell *Cell) error {
	spec, err := link.ParseSpec(cell.Link)
	if err != nil {
		return err
	}
	for _, h := range s.lab.Hosts() {
		if err := h.Link().Shape(ctx, spec); err != nil {
			return err
		}
	}
	if cell.RTTUS == nil {
		rtt, err := roundTrip(ctx, s.lab.Hosts()[0], s.lab.Hosts()[1])
		if err != nil {
			return fmt.Errorf("measure the round trip: %w", err)
		}
		cell.RTTUS = &rtt
	}
	return nil
}

// work sets a guest to a workload.
func (s *session) work(ctx context.Context, v venue, text string) error {
	o, err := v.oracle(ctx)
	if err != nil {
		return err
	}
	defer o.Close()
	return o.SetWorkload(ctx, text)
}

// of is the guest that a row moves, and what it does in the cell.
func (s *session) of(cell *Cell, row Row) (venue, string) {
	if row.Diskless && s.plain != nil {
		return s.plain, offDisk(cell.Workload)
	}
	return s.venue, cell.Workload
}

// one does one run and keeps it. A run that fails is kept as well; the error is for
// a lab in which nothing can run any more.
func (s *session) one(ctx context.Context, cell *Cell, row *RowResult, rep int) error {
	s.order++
	run := Run{Order: s.order, Repetition: rep, Started: time.Now()}
	v, text := s.of(cell, row.Row)
	err := s.move(ctx, v, row.Row, text, &run)
	if err == nil {
		err = v.verify(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // not the row's fault
	}
	run.OK = err == nil
	if err != nil {
		run.Failure = err.Error()
	}
	row.Runs = append(row.Runs, run)
	s.Progress("   " + line(*cell, *row, run))
	if run.OK || v.verify(ctx) == nil {
		return nil
	}
	s.Progress("   the guest is lost; it is started anew")
	if _, err := v.start(ctx); err != nil {
		return fmt.Errorf("start the guest anew: %w", err)
	}
	return s.work(ctx, v, text)
}
