package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Park is a point at which the coordinator stands still, so that a test can kill it there or look at both hosts. The
// points are before-STEP and after-STEP for each step that is run (before-commit, after-resume …), in-copy, once
// figures of the copy have come in, and the engine's own (ParkPoints).
//
// Production cannot trip on it: the zero value does nothing, it is read from the environment only by a caller who asks
// for it, it needs a marker file's absolute path besides the point, and each stop is logged as a warning.
type Park struct {
	point, marker string
}

// ParkEnv is the variable that ParkFrom is usually read from.
const ParkEnv = "VMMIGRATE_PARK"

// ParkFrom reads POINT@/absolute/marker/file. The coordinator creates the marker when it stands at the point, and goes on
// when the marker is removed. Empty is no parking; anything else is an error, so that a misspelt point is noticed.
func ParkFrom(s string) (Park, error) {
	if s == "" {
		return Park{}, nil
	}
	point, marker, ok := strings.Cut(s, "@")
	if !ok || !filepath.IsAbs(marker) {
		return Park{}, fmt.Errorf("%s=%q: want POINT@/absolute/marker/file", ParkEnv, s)
	}
	if !parkPoint(point) {
		return Park{}, fmt.Errorf("%s=%q: no such point", ParkEnv, s)
	}
	return Park{point: point, marker: marker}, nil
}

// ParkPoints are the points within the steps of the nbd engine, in their order: the rounds are over; the commit is written;
// QEMU has connected to the source's agent; the guest stands still on the source; the destination has punched its stale
// pages; the gate to the destination's QEMU is open; pages are being fetched while the guest runs there. And of disks that come after the guest,
// with either engine: the guest's reads are answered; they are being fetched; all are there; one is on its own image.
func ParkPoints() []string {
	return []string{"after-rounds", "after-early-commit", "after-stream", "after-still", "after-punch", "after-gate", "in-page",
		"disks-thawed", "disks-paging", "disks-fetched", "disk-folded"}
}

func parkPoint(p string) bool {
	if p == "in-copy" || slices.Contains(ParkPoints(), p) {
		return true
	}
	when, step, _ := strings.Cut(p, "-")
	var s Step
	return (when == "before" || when == "after") && s.UnmarshalText([]byte(step)) == nil
}

func (r *run) parkLoop(point string) { r.park(context.Background(), point) }

// park stands still at point until the marker is removed or ctx ends.
func (r *run) park(ctx context.Context, point string) {
	p := r.c.cfg.Park
	if p.point == "" || p.point != point {
		return
	}
	if !r.parked.CompareAndSwap(false, true) {
		return
	}
	r.c.cfg.Log.Warn("parked", "migration", r.entry.ID, "point", point, "marker", p.marker)
	if err := os.WriteFile(p.marker, []byte(r.entry.ID+"\n"), 0o600); err != nil {
		r.c.cfg.Log.Error("park", "err", err)
		return
	}
	for {
		if _, err := os.Stat(p.marker); errors.Is(err, os.ErrNotExist) {
			return
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return
		}
	}
}
