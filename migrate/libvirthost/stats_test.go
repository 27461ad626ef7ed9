package libvirthost

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// recorded are figures as libvirt 11.3 gave them in the middle of a copying.
var recorded = figures{
	"operation": int32(5), "time_elapsed": uint64(1519), "downtime": uint64(6), "setup_time": uint64(6),
	"memory_total": uint64(42991616), "memory_processed": uint64(3391244), "memory_remaining": uint64(31330304),
	"memory_bps": uint64(2095104), "memory_constant": uint64(2000), "memory_normal": uint64(820), "memory_dirty_rate": uint64(2001),
	"memory_page_size": uint64(4096), "memory_iteration": uint64(2), "memory_postcopy_requests": uint64(0),
	"disk_total": uint64(0), "disk_processed": uint64(0), "disk_remaining": uint64(0), "auto_converge_throttle": int32(20),
}

func TestStats(t *testing.T) {
	s := statsOf(int32(libvirt.DomainJobUnbounded), recorded, "")
	if s.Status != "active" || s.Elapsed != 1519*time.Millisecond || *s.RAMTotal != 42991616 || *s.Round != 2 || *s.Throttle != 20 {
		t.Errorf("%+v", s)
	}
	if *s.DirtyRate != 2001*4096 {
		t.Errorf("dirty rate %d", *s.DirtyRate)
	}
	if s.Downtime != nil || *s.ExpectedDowntime != 6*time.Millisecond {
		t.Errorf("downtime %v, expected %v", s.Downtime, s.ExpectedDowntime)
	}
	if s.DiskTotal != nil || s.DiskSent != nil {
		t.Error("disks where none moves")
	}
	s = statsOf(int32(libvirt.DomainJobCompleted), recorded, "")
	if s.Status != "completed" || s.ExpectedDowntime != nil || *s.Downtime != 6*time.Millisecond {
		t.Errorf("%+v", s)
	}
	if s = statsOf(int32(libvirt.DomainJobNone), figures{}, ""); s.Status != "none" || s.RAMTotal != nil || s.DirtyRate != nil {
		t.Errorf("%+v", s)
	}
	if s = statsOf(int32(libvirt.DomainJobUnbounded), figures{"memory_total": uint64(0)}, ""); s.Status != "setup" {
		t.Errorf("before anything moves: %+v", s)
	}
	if s = statsOf(int32(libvirt.DomainJobUnbounded), figures{"disk_total": uint64(1)}, ""); s.Status != "active" {
		t.Errorf("disks move: %+v", s)
	}
	if s = statsOf(int32(libvirt.DomainJobUnbounded), figures{}, migrate.RunPostcopyPaused); s.Status != "postcopy-paused" {
		t.Errorf("%+v", s)
	}
	if s = statsOf(int32(libvirt.DomainJobUnbounded), figures{}, migrate.RunPostcopy); s.Status != "postcopy-active" {
		t.Errorf("%+v", s)
	}
}

func TestFigures(t *testing.T) {
	f := readFigures([]libvirt.TypedParam{
		{Field: "a", Value: *libvirt.NewTypedParamValueUllong(1 << 63)}, {Field: "b", Value: *libvirt.NewTypedParamValueString("x")},
		{Field: "c", Value: *libvirt.NewTypedParamValueLlong(-1)},
	})
	if f.int("a") != nil || f.int("b") != nil || f.int("c") != nil || f.int("d") != nil || f.string("b") != "x" {
		t.Errorf("a figure was made up: %v", f)
	}
}

func TestClassify(t *testing.T) {
	for code, want := range map[libvirt.ErrorNumber]error{
		libvirt.ErrNoDomain: migrate.ErrNoDomain, libvirt.ErrOperationTimeout: migrate.ErrBusy,
		libvirt.ErrArgumentUnsupported: migrate.ErrNotSupported, libvirt.ErrOperationAborted: migrate.ErrCancelled,
	} {
		err := classify(fmt.Errorf("more: %w", libvirt.Error{Code: uint32(code), Message: "m"}))
		if !errors.Is(err, want) || err.Error() != "more: m" {
			t.Errorf("%d: %v", code, err)
		}
	}
	if err := classify(libvirt.ErrInterrupted); !errors.Is(err, migrate.ErrLinkLost) {
		t.Error(err)
	}
	if err := classify(errors.New("x")); errors.Is(err, migrate.ErrLinkLost) {
		t.Error(err)
	}
	if classify(nil) != nil || kind(migrate.ErrBusy, nil) != nil {
		t.Error("nil became an error")
	}
	unsafe := stepFail("x", migrate.SideSource, libvirt.Error{Code: uint32(libvirt.ErrMigrateUnsafe)})
	if migrate.FixOf(unsafe) == "" {
		t.Error("no fix for unshared disks")
	}
}

func TestClassifyByWords(t *testing.T) {
	for msg, want := range map[string]error{
		"Requested operation is not valid: another migration job is already running for domain 'g'": migrate.ErrBusy,
		"Requested operation is not valid: QEMU reports migration is still running":                 migrate.ErrBusy,
		"Requested operation is not valid: domain is not running":                                   nil,
	} {
		err := classify(libvirt.Error{Code: uint32(libvirt.ErrOperationInvalid), Message: msg})
		if got := errors.Is(err, migrate.ErrBusy); got != (want != nil) {
			t.Errorf("%s: busy is %v", msg, got)
		}
	}
	taken := libvirt.Error{Code: uint32(libvirt.ErrOperationFailed), Message: "operation failed: domain 'g' already exists with uuid x"}
	if migrate.FixOf(stepFail("x", migrate.SideDestination, classify(taken))) == "" {
		t.Error("no fix for a name that is taken")
	}
}

func TestUsage(t *testing.T) {
	f := figures{"state.state": int32(1), "vcpu.current": uint32(2), "vcpu.maximum": uint32(4), "vcpu.0.time": uint64(1000), "vcpu.1.time": uint64(2000),
		"block.count": uint32(2), "block.0.wr.bytes": uint64(5), "block.1.wr.bytes": uint64(6), "block.1.rd.bytes": uint64(100), "net.count": uint32(1), "net.0.tx.bytes": uint64(7),
		"dirtyrate.calc_status": int32(2), "dirtyrate.calc_start_time": int64(5), "dirtyrate.calc_period": int32(4), "dirtyrate.megabytes_per_second": int64(3), "dirtyrate.calc_mode": "page-sampling"}
	u := usageOf(f)
	if u.VCPUs != 2 || *u.CPU != 3000 || *u.DiskWritten != 11 || *u.Sent != 7 || !u.Dirty.Done || u.Dirty.Bytes != 12<<20 || u.Dirty.Window != 4*time.Second || u.Dirty.Mode != "page-sampling" {
		t.Errorf("%+v %+v", u, u.Dirty)
	}
	f["dirtyrate.calc_status"] = int32(1)
	if u := usageOf(f); u.Dirty.Done || u.Dirty.Bytes != 0 {
		t.Errorf("under way: %+v", u.Dirty)
	}
	if u := usageOf(figures{"block.count": uint32(0), "dirtyrate.calc_status": int32(0)}); u.CPU != nil || u.DiskWritten != nil || u.Sent != nil || u.Dirty != nil {
		t.Errorf("nothing is told: %+v", u)
	}
}
