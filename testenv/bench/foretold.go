package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// samplesName is the program's file of samples, beside its journal; topUp is how much of the guest is recorded before each run, so
// that where it is in its cycle is known.
const (
	samplesName = "samples.db"
	topUp       = 5 * time.Second
)

// foretold runs cell after cell, each with a journal of its own: what a guest and a link are known for is what was seen in the cell.
// Samples are of the guest alone, and taken along to the next link.
func (s *session) foretold(ctx context.Context) error {
	for i := range s.result.Cells {
		cell := &s.result.Cells[i]
		old := s.journal
		s.journal = filepath.Join(s.state, fmt.Sprintf("journal-%d", i))
		if err := os.Mkdir(s.journal, 0o755); err != nil {
			return err
		}
		if err := s.shape(ctx, cell); err != nil {
			return err
		}
		if err := s.know(ctx, cell.Workload, old); err != nil {
			return err
		}
		for rep := range s.scenario.Repetitions {
			if err := s.rows(ctx, cell, rep+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// know has the guest do its work, and records it, unless that was done for the link before, with the journal old.
func (s *session) know(ctx context.Context, workload, old string) error {
	if s.watched == workload && old != "" {
		b, err := os.ReadFile(filepath.Join(old, samplesName))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(s.journal, samplesName), b, 0o644)
	}
	if err := s.work(ctx, s.venue, workload); err != nil {
		return err
	}
	aim, err := s.venue.aim(ctx)
	if err != nil {
		return err
	}
	s.Progress(fmt.Sprintf("   %s is recorded for %v", workload, time.Duration(s.scenario.Watch)))
	s.watched = workload
	return s.record(ctx, aim, time.Duration(s.scenario.Watch))
}

// record has the program record the guest.
func (s *session) record(ctx context.Context, a aim, lasts time.Duration) error {
	out, err := exec.CommandContext(ctx, s.Program, "-c", a.guest.URI(a.from), "--state-dir", s.journal,
		"watch", a.guest.Name(), "--daemon", "--for", lasts.String()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("vmmigrate watch: %w: %s", err, lastLines(string(out)))
	}
	return nil
}

// beforeRun keeps the record up, and waits for the moment at which a run begins.
func (s *session) beforeRun(ctx context.Context, a aim, row Row) error {
	if s.scenario.Watch > 0 {
		if err := s.record(ctx, a, topUp); err != nil {
			return err
		}
	}
	if row.Within == 0 {
		return nil
	}
	return pause(ctx, time.Duration(s.dice.Float64()*float64(row.Within)))
}
