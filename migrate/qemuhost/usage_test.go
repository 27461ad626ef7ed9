package qemuhost

import (
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// TestT3Usage reads what a guest uses, and has QEMU measure what it writes.
func TestT3Usage(t *testing.T) {
	ctx := limit(t, time.Minute)
	q := startQEMU(t, guestImage(t, 20000), withDisk(newImage(t, "x.img", 0x11))...)
	h := q.dial(ctx)
	await(ctx, t, "the guest boots", q.booted)
	look := func() migrate.Usage {
		t.Helper()
		all, err := h.Usage(ctx)
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0]
	}
	first := look()
	if first.VCPUs != 1 || first.CPU == nil || *first.CPU <= 0 || first.DiskWritten == nil || first.Sent != nil || first.Dirty != nil || first.Migrating {
		t.Errorf("%+v", first)
	}
	if err := h.MeasureDirty(ctx, "-", time.Second); err != nil {
		t.Fatal(err)
	}
	if err := h.MeasureDirty(ctx, "-", time.Second); err == nil {
		t.Error("two measurements at once")
	}
	u := look()
	for u.Dirty == nil || !u.Dirty.Done {
		if ctx.Err() != nil {
			t.Fatalf("no result: %+v", u.Dirty)
		}
		u = look()
	}
	if u.Dirty.Window != time.Second || u.Dirty.Mode != qmp.DirtyRateSampling || *u.CPU <= *first.CPU {
		t.Errorf("%+v %+v", u, u.Dirty)
	}
	if all, err := h.Usage(ctx, "somebody else"); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestMeasureOfOldQEMUs(t *testing.T) {
	rate := int64(3)
	if m := measureOf(qmp.DirtyRate{Status: "measured", Rate: &rate, CalcTime: 4}); !m.Done || m.Window != 4*time.Second || m.Bytes != 12<<20 || m.Mode != qmp.DirtyRateSampling {
		t.Errorf("%+v", m)
	}
	if m := measureOf(qmp.DirtyRate{Status: "measuring", CalcTime: 4}); m.Done {
		t.Errorf("%+v", m)
	}
	for s, want := range map[qmp.MigrationStatus]bool{"": false, "none": false, "completed": false, "failed": false, "active": true, "setup": true, "what is to come": true} {
		if underWay(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}
