package oracle

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

func runnerFor(t *testing.T, text string) (*lab, *Runner) {
	t.Helper()
	spec, err := workload.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t)
	r, err := NewRunner(l.Keeper, spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	return l, r
}

// during runs the runner in fake time for d, and for as long as then takes.
func during(r *Runner, d time.Duration, then func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	<-time.After(d)
	then()
	cancel()
	wg.Wait()
}

func TestTheRunnerKeepsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := runnerFor(t, "mixed:size=1MiB,rate=1000,writes=20")
		during(r, 10*time.Second, func() {
			s := r.Stats()
			if s.PagesWritten < 9950 || s.PagesWritten > 10050 || s.BlocksWritten < 195 || s.BlocksWritten > 205 {
				t.Errorf("%d pages and %d blocks in ten seconds", s.PagesWritten, s.BlocksWritten)
			}
			if s.PageRate < 900 || s.PageRate > 1100 || s.BlockRate < 18 || s.BlockRate > 22 {
				t.Errorf("rates %.0f and %.0f", s.PageRate, s.BlockRate)
			}
		})
		wantKinds(t, l.Verify(t.Context()))
	})
}

func TestTheRunnerGoesOnAfterADiskError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := runnerFor(t, "mixed:size=1MiB,rate=1000,writes=100")
		l.disk.fail = errors.New("gone")
		during(r, time.Second, func() {
			if s := r.Stats(); s.PagesWritten < 900 || s.BlocksWritten != 0 {
				t.Errorf("%+v", s)
			}
		})
		l.disk.fail = nil
		wantKinds(t, l.Verify(t.Context()), DiskError)
	})
}

func TestTheWorkloadCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := runnerFor(t, "idle:size=1MiB")
		during(r, time.Second, func() {
			before := l.Seal().Pages
			if err := r.SetWorkload(workload.Spec{Kind: workload.Uniform, Size: 1 << 30, Rate: 1}); !errors.Is(err, workload.ErrSpec) {
				t.Errorf("a workload beyond the region: %v", err)
			}
			if err := r.SetWorkload(workload.Spec{Kind: workload.Uniform, Size: 4096, Rate: 100}); err != nil {
				t.Error(err)
			}
			<-time.After(time.Second)
			if n := l.Seal().Pages - before; n < 95 || n > 105 {
				t.Errorf("%d pages in a second at 100", n)
			}
			if s := r.Stats(); s.Running != time.Second {
				t.Errorf("running for %v", s.Running)
			}
		})
	})
}
