package main

import (
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestDisksAreShown: one that is copied shows what is left, one that waits says so and why, one in step is no news.
func TestDisksAreShown(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	p := migrate.Progress{Disks: []migrate.ProgressDisk{
		{Name: "vda", TotalBytes: n(3 << 20), RemainingBytes: n(2 << 20), BandwidthBytesPerS: n(1 << 20)},
		{Name: "vdb", RemainingBytes: n(5), InStep: true},
		{Name: "vdc", TotalBytes: n(9), RemainingBytes: n(5), Waits: "the target is full"},
	}}
	got := strings.Join(figures(p), "  ")
	if !strings.Contains(got, "vda 2 MiB to go") || strings.Contains(got, "vdb") || !strings.Contains(got, "vdc waits") {
		t.Error(got)
	}
	for i, want := range []string{"2 MiB of 3 MiB to go, 1 MiB/s", "in step with the guest", "5 B of 9 B to go, the target is full"} {
		if got := diskLine(p.Disks[i]); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
