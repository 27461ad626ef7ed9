package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

var _ migrate.Metered = (*Host)(nil)

// Usage reads the counters of running domains in one call for all of them, which waits for no domain's job. libvirt has to be asked
// for each domain's own job besides, of which there is no bulk call.
func (h *Host) Usage(ctx context.Context, domains ...string) ([]migrate.Usage, error) {
	var asked []libvirt.Domain
	for _, name := range domains {
		d, err := h.lookup(ctx, name)
		if errors.Is(err, migrate.ErrNoDomain) {
			continue
		}
		if err != nil {
			return nil, err
		}
		asked = append(asked, d)
	}
	if len(domains) > 0 && len(asked) == 0 {
		return nil, nil
	}
	const groups = libvirt.DomainStatsState | libvirt.DomainStatsVCPU | libvirt.DomainStatsInterface | libvirt.DomainStatsBlock | libvirt.DomainStatsBalloon | libvirt.DomainStatsDirtyrate
	flags := libvirt.ConnectGetAllDomainsStatsNowait
	if len(asked) == 0 {
		flags |= libvirt.ConnectGetAllDomainsStatsActive
	}
	records, err := look(ctx, h.c, func(l *libvirt.Libvirt) ([]libvirt.DomainStatsRecord, error) {
		return l.ConnectGetAllDomainStats(asked, uint32(groups), uint32(flags))
	})
	if err != nil {
		return nil, lookFail("read what the guests of %s use", []any{h.t.raw}, err)
	}
	var out []migrate.Usage
	for _, r := range records {
		f := readFigures(r.Params)
		if s := f.int("state.state"); r.Dom.ID < 0 || s == nil || libvirt.DomainState(*s) == libvirt.DomainShutoff {
			continue
		}
		u := usageOf(f)
		u.Name, u.UUID = r.Dom.Name, formatUUID(r.Dom.UUID)
		typ, _, err := h.jobStats(ctx, r.Dom, 0)
		u.Migrating = err != nil || typ != int32(libvirt.DomainJobNone)
		out = append(out, u)
	}
	return out, nil
}

// usageOf translates libvirt's figures.
func usageOf(f figures) migrate.Usage {
	var u migrate.Usage
	u.DiskWritten = f.sum("block", "wr.bytes")
	u.Sent = f.sum("net", "tx.bytes")
	if n := f.int("balloon.rss"); n != nil && *n > 0 {
		resident := *n << 10
		u.Resident = &resident
	}
	if n := f.int("vcpu.current"); n != nil {
		u.VCPUs = int(*n)
	}
	if n := f.total("vcpu", "vcpu.maximum", "time"); n != nil {
		d := time.Duration(*n)
		u.CPU = &d
	}
	status, window, rate := f.int("dirtyrate.calc_status"), f.int("dirtyrate.calc_period"), f.int("dirtyrate.megabytes_per_second")
	if status == nil || window == nil || libvirt.DomainDirtyRateStatus(*status) == libvirt.DomainDirtyrateUnstarted {
		return u
	}
	u.Dirty = &migrate.DirtyMeasure{Window: time.Duration(*window) * time.Second, Mode: f.string("dirtyrate.calc_mode"),
		Done: libvirt.DomainDirtyRateStatus(*status) == libvirt.DomainDirtyrateMeasured && rate != nil}
	if u.Dirty.Done {
		u.Dirty.Bytes = *rate * miB * *window
	}
	return u
}

// sum adds up a figure of all members of a group, such as block.0.wr.bytes; nil if there is none.
func (f figures) sum(group, of string) *int64 { return f.total(group, group+".count", of) }

func (f figures) total(group, count, of string) *int64 {
	n := f.int(count)
	if n == nil {
		return nil
	}
	sum, told := int64(0), false
	for i := range min(*n, 4096) {
		if v := f.int(fmt.Sprintf("%s.%d.%s", group, i, of)); v != nil {
			sum += *v
			told = true
		}
	}
	if !told {
		return nil
	}
	return &sum
}

// MeasureDirty begins a measurement by sampling pages, which works for all guests, in whole seconds.
func (h *Host) MeasureDirty(ctx context.Context, name string, window time.Duration) error {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return err
	}
	_, err = do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainStartDirtyRateCalc(d, int32(max(1, window.Round(time.Second)/time.Second)), uint32(libvirt.DomainDirtyrateModePageSampling))
	})
	return lookFail("measure what %q on %s writes by "+qmp.DirtyRateSampling, []any{name, h.t.raw}, err)
}
