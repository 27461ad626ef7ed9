package libvirthost

import (
	"context"
	"errors"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// figures are typed parameters by name.
type figures map[string]any

func readFigures(ps []libvirt.TypedParam) figures {
	f := make(figures, len(ps))
	for _, p := range ps {
		f[p.Field] = p.Value.I
	}
	return f
}

// int gives a figure of whatever integer type; nil if there is none.
func (f figures) int(name string) *int64 {
	var n int64
	switch v := f[name].(type) {
	case int32:
		n = int64(v)
	case uint32:
		n = int64(v)
	case int64:
		n = v
	case uint64:
		n = int64(v)
	default:
		return nil
	}
	if n < 0 {
		return nil
	}
	return &n
}

func (f figures) millis(name string) *time.Duration {
	n := f.int(name)
	if n == nil {
		return nil
	}
	d := time.Duration(*n) * time.Millisecond
	return &d
}

func (f figures) string(name string) string {
	s, _ := f[name].(string)
	return s
}

// statsOf translates libvirt's job figures. typ is libvirt's kind of job, state what the domain does.
func statsOf(typ int32, f figures, run migrate.RunState) migrate.Stats {
	s := migrate.Stats{
		Status: statusOf(libvirt.DomainJobType(typ), run), Error: f.string("errmsg"),
		RAMTotal: f.int("memory_total"), RAMRemaining: f.int("memory_remaining"), RAMSent: f.int("memory_processed"),
		NormalPages: f.int("memory_normal"), ZeroPages: f.int("memory_constant"), PageSize: f.int("memory_page_size"),
		Round: f.int("memory_iteration"), Bandwidth: f.int("memory_bps"),
		SetupTime: f.millis("setup_time"), Faults: f.int("memory_postcopy_requests"), Throttle: f.int("auto_converge_throttle"),
	}
	if n := f.int("disk_total"); n != nil && *n > 0 { // libvirt says 0 where no disk moves
		s.DiskTotal, s.DiskRemaining, s.DiskSent = n, f.int("disk_remaining"), f.int("disk_processed")
	}
	if s.Status == "active" && s.DiskTotal == nil && (s.RAMTotal == nil || *s.RAMTotal == 0) {
		s.Status = "setup" // nothing moves yet, and QEMU takes no order to switch
	}
	if d := f.millis("time_elapsed"); d != nil {
		s.Elapsed = *d
	}
	if rate, size := f.int("memory_dirty_rate"), s.PageSize; rate != nil && size != nil {
		bytes := *rate * *size
		s.DirtyRate = &bytes
	}
	// libvirt gives one figure for both: what QEMU expects while the job runs, what it was once it is over.
	if over := typ == int32(libvirt.DomainJobCompleted); over {
		s.Downtime = f.millis("downtime")
	} else {
		s.ExpectedDowntime = f.millis("downtime")
	}
	return s
}

// statusOf is QEMU's word as far as libvirt lets it be known.
func statusOf(typ libvirt.DomainJobType, run migrate.RunState) string {
	switch typ {
	case libvirt.DomainJobCompleted:
		return "completed"
	case libvirt.DomainJobFailed:
		return "failed"
	case libvirt.DomainJobCancelled:
		return "cancelled"
	case libvirt.DomainJobNone:
		return "none"
	}
	switch run {
	case migrate.RunPostcopyPaused:
		return "postcopy-paused"
	case migrate.RunPostcopy:
		return "postcopy-active"
	}
	return "active"
}

// Stats reads the figures of the running job or, if none runs, of the one that ended last; libvirt keeps those until
// the next. After a migration the destination has them too.
func (h *Host) Stats(ctx context.Context, name string) (migrate.Stats, error) {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return migrate.Stats{}, err
	}
	s, err := h.stats(ctx, d)
	if w := h.held.watched(d); w != nil && err == nil {
		w.add(&s)
	}
	return s, lookFail("read the job of %q on %s", []any{name, h.t.raw}, err)
}

func (h *Host) stats(ctx context.Context, d libvirt.Domain) (migrate.Stats, error) {
	typ, f, err := h.jobStats(ctx, d, 0)
	if err == nil && typ != int32(libvirt.DomainJobNone) {
		run := h.sourceRun(ctx, d)
		if run == "" && h.held.at(d).stage == stagePerformed {
			typ = int32(libvirt.DomainJobCompleted) // libvirt's job lasts until Confirm, what it counts is over
		}
		return statsOf(typ, f, run), nil
	}
	// JOB_COMPLETED, the event that carries these, is lost in go-libvirt, and no event can be lost this way.
	if err != nil && code(err) != libvirt.ErrOperationInvalid && code(err) != libvirt.ErrOperationUnsupported {
		return migrate.Stats{}, err
	}
	typ, f, err = h.jobStats(ctx, d, libvirt.DomainJobStatsCompleted|libvirt.DomainJobStatsKeepCompleted)
	if err != nil {
		if errors.Is(err, migrate.ErrLinkLost) || ctx.Err() != nil {
			return migrate.Stats{}, err
		}
		return migrate.Stats{Status: "none"}, nil
	}
	return statsOf(typ, f, ""), nil
}

func (h *Host) jobStats(ctx context.Context, d libvirt.Domain, flags libvirt.DomainGetJobStatsFlags) (int32, figures, error) {
	type answer struct {
		typ int32
		f   figures
	}
	a, err := slowLook(ctx, h.c, func(l *libvirt.Libvirt) (answer, error) {
		t, ps, err := l.DomainGetJobStats(d, flags)
		return answer{t, readFigures(ps)}, err
	})
	return a.typ, a.f, err
}

// sourceRun tells a post-copy from a pre-copy by the state of the source.
func (h *Host) sourceRun(ctx context.Context, d libvirt.Domain) migrate.RunState {
	s, err := h.glance(ctx, d)
	if err != nil || s.state != libvirt.DomainPaused {
		return ""
	}
	switch libvirt.DomainPausedReason(s.reason) {
	case libvirt.DomainPausedPostcopy:
		return migrate.RunPostcopy
	case libvirt.DomainPausedPostcopyFailed:
		return migrate.RunPostcopyPaused
	}
	return ""
}
