//go:build linux

package track_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/precopy/track"
	"github.com/vmmigrate/vmmigrate/precopy/track/tracktest"
)

// threads counts the threads of a process, and those that stand still for a tracer.
func threads(t *testing.T, pid int) (all, still int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("threads of %d: %v", pid, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it ended
		}
		all++
		if _, state, _ := strings.Cut(string(b), ") "); strings.HasPrefix(state, "t") {
			still++
		}
	}
	return all, still
}

// All threads stand still while the function runs, and none does afterwards; writers lose nothing but time.
func TestT1Held(t *testing.T) {
	p := tracktest.Start(t, tracktest.Memfd, 64)
	p.Do(t, "start", 8, 1)
	for range 50 {
		err := track.Held(t.Context(), p.PID, func() error {
			if all, still := threads(t, p.PID); all != still {
				t.Errorf("%d of %d threads stand still", still, all)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, still := threads(t, p.PID); still != 0 {
			t.Fatalf("%d threads are still held", still)
		}
	}
	p.Do(t, "stop")
}

// What the function fails with comes back, and the threads run on; so they do when ctx is over or the process gone.
func TestT1HeldFails(t *testing.T) {
	p := tracktest.Start(t, tracktest.Memfd, 64)
	mine := errors.New("mine")
	if err := track.Held(t.Context(), p.PID, func() error { return mine }); !errors.Is(err, mine) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = track.Held(ctx, p.PID, func() error { return nil }) // it may have been quick enough
	p.Do(t, "fill", 0, 64)
	p.Kill()
	if err := track.Held(t.Context(), p.PID, func() error { t.Error("it ran"); return nil }); !errors.Is(err, track.ErrGone) {
		t.Error(err)
	}
}
