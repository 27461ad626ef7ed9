package qemuhost

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

var _ migrate.Metered = (*Host)(nil)

// Usage reads the counters of the one guest there is. QMP knows neither how long vCPUs ran, which is told only where QEMU is on this
// machine, nor what went over the network.
func (h *Host) Usage(ctx context.Context, domains ...string) ([]migrate.Usage, error) {
	const op = "read what the guest uses"
	wanted := len(domains) == 0
	for _, d := range domains {
		wanted = wanted || h.id.matches(d)
	}
	if !wanted || h.isGone() {
		return nil, nil
	}
	m, err := qmp.QueryMigrate(ctx, h.c)
	if err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	u := migrate.Usage{Name: h.id.name, UUID: h.id.uuid, Migrating: underWay(m.Status)}
	disks, err := qmp.QueryBlockStats(ctx, h.c)
	if err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	written := int64(0)
	for _, d := range disks {
		written += d.Stats.WriteBytes
	}
	if len(disks) > 0 {
		u.DiskWritten = &written
	}
	cpus, err := qmp.QueryCPUsFast(ctx, h.c)
	if err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	u.VCPUs = len(cpus)
	if d, err := threadTimes(h.pid, cpus); err == nil {
		u.CPU = &d
	}
	r, err := qmp.QueryDirtyRate(ctx, h.c)
	if err == nil && r.Status != "unstarted" {
		u.Dirty = measureOf(r)
	}
	return []migrate.Usage{u}, ctx.Err()
}

// underWay is whether RAM moves, or has moved away.
func underWay(status qmp.MigrationStatus) bool {
	switch status {
	case "", "none", "completed", "failed", "cancelled":
		return false
	}
	return true
}

func measureOf(r qmp.DirtyRate) *migrate.DirtyMeasure {
	unit := time.Second
	if r.CalcTimeUnit != nil && *r.CalcTimeUnit == "millisecond" {
		unit = time.Millisecond
	}
	d := &migrate.DirtyMeasure{Window: time.Duration(r.CalcTime) * unit, Mode: qmp.DirtyRateSampling}
	if r.Mode != nil {
		d.Mode = *r.Mode
	}
	if r.Status == "measured" && r.Rate != nil {
		d.Done, d.Bytes = true, int64(float64(*r.Rate<<20)*d.Window.Seconds())
	}
	return d
}

// threadTimes adds up how long vCPUs have run. Where one thread runs several it counts once.
func threadTimes(pid int, cpus []qmp.CPUInfo) (time.Duration, error) {
	if pid == 0 || len(cpus) == 0 {
		return 0, os.ErrNotExist
	}
	sum, seen := time.Duration(0), map[int64]bool{}
	for _, c := range cpus {
		if seen[int64(c.ThreadID)] {
			continue
		}
		seen[int64(c.ThreadID)] = true
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, c.ThreadID))
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// MeasureDirty begins a measurement by sampling pages, which works with and without KVM, in whole seconds.
func (h *Host) MeasureDirty(ctx context.Context, name string, window time.Duration) error {
	const op = "measure what the guest writes by " + qmp.DirtyRateSampling
	if err := h.find(name, ""); err != nil {
		return err
	}
	a := qmp.CalcDirtyRateArgs{CalcTime: int64(max(1, window.Round(time.Second)/time.Second)), Mode: qmp.DirtyRateSampling}
	return migrate.Fail(op, "", qmp.CalcDirtyRate(ctx, h.c, a), "")
}
