package qemuhost

import (
	"context"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Stats reads the figures of the running or just ended migration.
func (h *Host) Stats(ctx context.Context, name string) (migrate.Stats, error) {
	const op = "read the migration's figures"
	if err := h.find(name, ""); err != nil {
		return migrate.Stats{}, migrate.Fail(op, "", err, "")
	}
	m, err := qmp.QueryMigrate(ctx, h.c)
	if err != nil {
		return migrate.Stats{}, migrate.Fail(op, "", err, "")
	}
	s := statsOf(m)
	js, err := h.mirrorJobs(ctx)
	if err != nil {
		return migrate.Stats{}, migrate.Fail(op, "", err, "")
	}
	h.account(js)
	h.diskFigures(&s)
	return s, nil
}

// statsOf translates query-migrate. What QEMU does not tell stays absent.
func statsOf(m qmp.MigrationInfo) migrate.Stats {
	s := migrate.Stats{Status: string(m.Status), Error: why(m), Downtime: ms(m.Downtime), SetupTime: ms(m.SetupTime),
		ExpectedDowntime: ms(m.ExpectedDowntime), Throttle: m.CPUThrottlePercentage}
	if untouched(m.Status) {
		s.Status = "none"
	}
	if t := ms(m.TotalTime); t != nil {
		s.Elapsed = *t
	}
	r := m.RAM
	if r == nil {
		return s
	}
	rate, speed := r.DirtyPagesRate*r.PageSize, int64(r.Mbps*1e6/8)
	s.RAMTotal, s.RAMRemaining, s.RAMSent = &r.Total, &r.Remaining, &r.Transferred
	s.NormalPages, s.ZeroPages, s.PageSize = &r.Normal, &r.Duplicate, &r.PageSize
	s.Round, s.Faults = &r.DirtySyncCount, &r.PostcopyRequests
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
	if t == (migrate.Tuning{}) {
		return nil
	}
	h.tuning.Lock()
	defer h.tuning.Unlock()
	held := h.holding(t)
	var a qmp.MigrationParameters
	if t.Bandwidth > 0 && !held {
		a.MaxBandwidth = new(uint64(t.Bandwidth))
	}
	if t.BandwidthPostcopy > 0 {
		a.MaxPostcopyBandwidth = new(uint64(t.BandwidthPostcopy))
	}
	if t.BandwidthDisk > 0 {
		if err := h.setCap(ctx, t.BandwidthDisk); err != nil {
			return fail(op, migrate.SideSource, err, "")
		}
	}
	if t.MaxDowntime > 0 && !held {
		a.DowntimeLimit = new(uint64(downtimeMS(t.MaxDowntime)))
	}
	if a.MaxBandwidth == nil && a.MaxPostcopyBandwidth == nil && a.DowntimeLimit == nil {
		return nil
	}
	return fail(op, migrate.SideSource, qmp.SetMigrateParameters(ctx, h.c, a), "")
}

// StartPostcopy asks a pre-copy to go over. QEMU then stops the guest and stands at pre-switchover; Perform returns and
// Switch does the rest, so that until Switch everything can still be taken back.
func (h *Host) StartPostcopy(ctx context.Context, name string) error {
	const op = "go over to post-copy"
	if err := h.find(name, migrate.SideSource); err != nil {
		return fail(op, migrate.SideSource, err, "")
	}
	return fail(op, migrate.SideSource, qmp.MigrateStartPostcopy(ctx, h.c), "begin the migration with --postcopy, and ask once it is active")
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
	if err := qmp.MigratePause(ctx, h.c); err != nil {
		if m, e := qmp.QueryMigrate(ctx, h.c); e == nil && m.Status == qmp.MigrationPostcopyPaused {
			return nil // it is paused already
		}
		return fail(op, migrate.SideSource, err, "")
	}
	return fail(op, migrate.SideSource, h.await(ctx, func(ctx context.Context) (bool, error) {
		m, err := qmp.QueryMigrate(ctx, h.c)
		return m.Status == qmp.MigrationPostcopyPaused || terminal(m.Status), err
	}, eventMigration), "")
}
