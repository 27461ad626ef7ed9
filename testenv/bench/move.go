package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv"
)

// programGrace is how long the program may take to end after it was interrupted.
const programGrace = 20 * time.Second

// move makes one migration and fills the run with what was seen of it.
func (s *session) move(ctx context.Context, v venue, row Row, workload string, run *Run) error {
	find, first := v.aim, (*float64)(nil)
	if len(row.Stay) > 0 {
		var err error
		if first, err = s.stay(ctx, v, row, workload); err != nil {
			return fmt.Errorf("the way there: %w", err)
		}
		find = v.again
	}
	aim, err := find(ctx)
	if err != nil {
		return err
	}
	run.From, run.To = aim.from.Name(), aim.to.Name()
	if err := s.beforeRun(ctx, aim, row); err != nil {
		return err
	}
	w, err := watch(ctx, s.lab.Client(), v.address())
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Duration(s.scenario.Around)); err != nil {
		w.stop()
		return err
	}
	before, err := aim.from.Link().Counters(ctx)
	if err != nil {
		w.stop()
		return err
	}
	begin := time.Now()
	failure := s.way(ctx, aim, row, workload, run)
	end := time.Now()
	after, err := aim.from.Link().Counters(ctx)
	w.await(ctx, end) // a silence counts only when its end is known
	paused := pause(ctx, time.Duration(s.scenario.Around))
	w.stop()
	run.Started, run.WallMS = begin, ms(end.Sub(begin))
	if run.LandedMS != nil && run.TotalMS != nil {
		landed := *run.LandedMS + max(run.WallMS-*run.TotalMS, 0)
		run.LandedMS = &landed
	}
	if err == nil {
		bytes := float64(after.SentBytes - before.SentBytes)
		run.LinkBytes = &bytes
		run.returned(first)
	}
	w.fill(run, begin, end)
	return errors.Join(failure, err, paused)
}

// program runs "vmmigrate migrate" and reads its report.
func (s *session) program(ctx context.Context, args []string, run *Run) error {
	limit, stop := context.WithTimeout(ctx, time.Duration(s.scenario.Limit))
	defer stop()
	file := filepath.Join(s.state, "report.json")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	args = append(args, "--progress", "none", "--report", file, "--state-dir", s.journal)
	cmd := exec.CommandContext(limit, s.Program, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LIBVIRT_DEFAULT_URI=") })
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGINT) }
	cmd.WaitDelay = programGrace
	err := cmd.Run()
	run.ExitCode = cmd.ProcessState.ExitCode()
	if limit.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("it took longer than %v", time.Duration(s.scenario.Limit))
	}
	report, readErr := os.ReadFile(file)
	if readErr == nil {
		var t told
		if t, readErr = readTold(report); readErr == nil {
			run.Report, run.Figures = compact(report), t.figures()
			if err == nil && t.Outcome != "completed" {
				err = fmt.Errorf("its outcome is %q", t.Outcome)
			}
			if err != nil && t.Error != nil {
				return fmt.Errorf("exit code %d: %s: %s", run.ExitCode, t.Error.Phase, t.Error.Cause)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(said.String()))
	}
	return readErr
}

// lastLines is the end of what a program said.
func lastLines(text string) string {
	const most = 400
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}

// compact is JSON without spaces.
func compact(b []byte) json.RawMessage {
	var out bytes.Buffer
	if json.Compact(&out, b) != nil {
		return nil
	}
	return out.Bytes()
}

// aim is where the next migration goes and how the program is told.
type aim struct {
	guest    *testenv.Guest
	from, to *testenv.Host
	args     []string
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
