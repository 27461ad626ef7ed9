package libvirthost

import (
	"context"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// act makes a call on a domain that answers nothing.
func (h *Host) act(ctx context.Context, name string, f func(*libvirt.Libvirt, libvirt.Domain) error) error {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return err
	}
	_, err = do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, f(l, d) })
	return err
}

// Tune changes a running migration. libvirt counts bandwidth in MiB/s; caps are rounded down, to 1 MiB/s at least.
// The cap of disks is exact; it is that of the migration away which this connection drives.
func (h *Host) Tune(ctx context.Context, name string, t migrate.Tuning) error {
	if t.BandwidthDisk > 0 {
		if err := h.tuneDisks(ctx, name, t.BandwidthDisk); err != nil {
			return err
		}
	}
	err := h.act(ctx, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		if t.MaxDowntime > 0 {
			ms := max(1, uint64(t.MaxDowntime/time.Millisecond))
			if err := l.DomainMigrateSetMaxDowntime(d, ms, 0); err != nil {
				return fmt.Errorf("downtime of %v: %w", t.MaxDowntime, err)
			}
		}
		if t.Bandwidth > 0 {
			if err := l.DomainMigrateSetMaxSpeed(d, mibps(t.Bandwidth), 0); err != nil {
				return fmt.Errorf("bandwidth of %d B/s: %w", t.Bandwidth, err)
			}
		}
		if t.BandwidthPostcopy > 0 {
			flag := uint32(libvirt.DomainMigrateMaxSpeedPostcopy)
			if err := l.DomainMigrateSetMaxSpeed(d, mibps(t.BandwidthPostcopy), flag); err != nil {
				return fmt.Errorf("post-copy bandwidth of %d B/s: %w", t.BandwidthPostcopy, err)
			}
		}
		return nil
	})
	return stepFail("tune the migration", migrate.SideSource, err)
}

func (h *Host) tuneDisks(ctx context.Context, name string, limit int64) error {
	const op = "tune the copies of the disks"
	d, err := h.lookup(ctx, name)
	if err != nil {
		return err
	}
	w := h.held.watched(d)
	if w == nil {
		return migrate.Fail(op, migrate.SideSource, fmt.Errorf("no migration of %s was begun from here: %w", name, migrate.ErrNotSupported), "")
	}
	return stepFail(op, migrate.SideSource, w.setCap(ctx, limit))
}

// StartPostcopy asks a pre-copy to go over to post-copy. libvirt refuses before Perform has begun to send
// RAM, which Stats shows by a RAMTotal above 0.
func (h *Host) StartPostcopy(ctx context.Context, name string) error {
	err := h.act(ctx, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainMigrateStartPostCopy(d, 0)
	})
	return stepFail("switch to post-copy", migrate.SideSource, err)
}

// Cancel aborts a migration before the commit; Perform then returns ErrCancelled. Without a job there is nothing to
// abort, which is no error; in post-copy libvirt refuses.
func (h *Host) Cancel(ctx context.Context, name string) error {
	const op = "cancel the migration"
	d, err := h.lookup(ctx, name)
	if err != nil {
		return migrate.Fail(op, migrate.SideSource, err, "")
	}
	if h.held.at(d).stage == stageBegun {
		_, err = h.settle(ctx, d, false) // libvirt has nothing to abort before Perform, and holds the job
		return stepFail(op, migrate.SideSource, err)
	}
	_, err = do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, l.DomainAbortJob(d) })
	if code(err) == libvirt.ErrOperationInvalid {
		if s, serr := h.state(ctx, d); serr == nil && !s.Job {
			return nil
		}
	}
	return stepFail(op, migrate.SideSource, err)
}

// Pause breaks a post-copy, so that the same calls with Params.Resume can recover it over another link.
func (h *Host) Pause(ctx context.Context, name string) error {
	err := h.act(ctx, name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		return l.DomainAbortJobFlags(d, uint32(libvirt.DomainAbortJobPostcopy))
	})
	return stepFail("pause the post-copy", migrate.SideSource, err)
}
