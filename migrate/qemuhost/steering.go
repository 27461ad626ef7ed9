package qemuhost

import (
	"context"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Stats reads the figures of the running or just ended migration.
func (h *Host) Stats(ctx context.Context, name string) (migrate.Stats, error) {
	const op = "read the migration's figures"
	if err := h.find(name, ""); err != nil {
		return migrate.Stats{}, migrate.Fail(op, "", err, "")
	}
	m, err := h.migration(ctx)
	if err != nil {
		return migrate.Stats{}, migrate.Fail(op, "", err, "")
	}
	s := statsOf(m)
	js, err := h.ourJobs(ctx)
	if err != nil {
		return migrate.Stats{}, migrate.Fail(op, "", err, "")
	}
	h.account(js)
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.disks; d != nil {
		left := d.total - d.done
		s.DiskTotal, s.DiskSent, s.DiskRemaining = new(d.total), new(d.done), &left
	}
	return s, nil
}

// statsOf translates query-migrate. What QEMU does not tell stays absent.
func statsOf(m migration) migrate.Stats {
	s := migrate.Stats{Status: m.Status, Error: m.Error, Downtime: ms(m.DowntimeMS), SetupTime: ms(m.SetupMS),
		ExpectedDowntime: ms(m.ExpectedMS), Throttle: m.Throttle}
	if s.Status == statusNone {
		s.Status = "none"
	}
	if t := ms(m.TotalMS); t != nil {
		s.Elapsed = *t
	}
	r := m.RAM
	if r == nil {
		return s
	}
	rate, speed := r.DirtyPages*r.PageSize, int64(r.Mbps*1e6/8)
	s.RAMTotal, s.RAMRemaining, s.RAMSent = &r.Total, &r.Remaining, &r.Transferred
	s.NormalPages, s.ZeroPages, s.PageSize = &r.Normal, &r.Zero, &r.PageSize
	s.Round, s.Faults = &r.Rounds, &r.Faults
	s.DirtyRate, s.Bandwidth = &rate, &speed
	return s
}

func ms(v *int64) *time.Duration {
	if v == nil {
		return nil
	}
	d := time.Duration(*v) * time.Millisecond
	return &d
}

// Tune changes the running migration.
func (h *Host) Tune(ctx context.Context, name string, t migrate.Tuning) error {
	const op = "tune the migration"
	if err := h.find(name, migrate.SideSource); err != nil {
		return fail(op, migrate.SideSource, err, "")
	}
	a := args{}
	if t.Bandwidth > 0 {
		a["max-bandwidth"] = t.Bandwidth
	}
	if t.BandwidthPostcopy > 0 {
		a["max-postcopy-bandwidth"] = t.BandwidthPostcopy
	}
	if t.MaxDowntime > 0 {
		a["downtime-limit"] = downtimeMS(t.MaxDowntime)
	}
	if len(a) == 0 {
		return nil
	}
	return fail(op, migrate.SideSource, h.do(ctx, "migrate-set-parameters", a), "")
}

// StartPostcopy asks a pre-copy to go over. QEMU then stops the guest and stands at pre-switchover; Perform returns and
// Switch does the rest, so that until Switch everything can still be taken back.
func (h *Host) StartPostcopy(ctx context.Context, name string) error {
	const op = "go over to post-copy"
	if err := h.find(name, migrate.SideSource); err != nil {
		return fail(op, migrate.SideSource, err, "")
	}
	return fail(op, migrate.SideSource, h.do(ctx, "migrate-start-postcopy", nil), "begin the migration with --postcopy, and ask once it is active")
}

// Cancel takes back a migration that Switch was not called for, whoever began it, and returns when the guest runs as
// before and the source is tidy. A Perform of this Host returns ErrCancelled first. It does nothing when nothing runs.
func (h *Host) Cancel(ctx context.Context, name string) error {
	const op = "cancel the migration"
	if err := h.find(name, migrate.SideSource); err != nil {
		return fail(op, migrate.SideSource, err, "")
	}
	h.mu.Lock()
	c, switched := h.copying, h.switched
	h.mu.Unlock()
	if switched {
		return fail(op, migrate.SideSource, fmt.Errorf("the switch has begun: %w", migrate.ErrNotSupported), "vmmigrate recover finishes it or takes it back")
	}
	if c != nil {
		c.cancel(migrate.ErrCancelled)
		select {
		case <-c.done:
		case <-ctx.Done():
			return fail(op, migrate.SideSource, ctx.Err(), "")
		}
	}
	return fail(op, migrate.SideSource, h.takeBack(ctx, offerCookie{Saved: h.savedOf(migrate.SideSource)}), "")
}

// Pause breaks a post-copy off, out of band, so that a link that hangs can be made anew.
func (h *Host) Pause(ctx context.Context, name string) error {
	const op = "break the post-copy off"
	if err := h.find(name, migrate.SideSource); err != nil {
		return fail(op, migrate.SideSource, err, "")
	}
	if err := h.urgent(ctx, "migrate-pause", nil); err != nil {
		if m, e := h.migration(ctx); e == nil && m.Status == statusPaused {
			return nil // it is paused already
		}
		return fail(op, migrate.SideSource, err, "")
	}
	return fail(op, migrate.SideSource, h.await(ctx, func(ctx context.Context) (bool, error) {
		m, err := h.migration(ctx)
		return m.Status == statusPaused || terminal(m.Status), err
	}, eventMigration), "")
}
