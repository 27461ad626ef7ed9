package worker

import (
	"context"
	"errors"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy/track"
)

// dirtyLog is what a guest wrote since it was opened. Asking takes nothing away: each question harvests the tracker and adds
// that to what is known.
type dirtyLog struct {
	blocks []ram.Block

	mu      sync.Mutex
	tracker track.Tracker
	all     ram.Set
	// fresh is what take has not given yet; lost says that it is not known.
	fresh ram.Set
	lost  error
}

// openDirtyLog begins now: nothing is dirty yet.
func openDirtyLog(ctx context.Context, pid int, v *view) (*dirtyLog, error) {
	t, err := trackers(ctx, pid, v)
	if err != nil {
		return nil, err
	}
	d := &dirtyLog{blocks: v.blocks(), tracker: t, all: ram.NewSet(v.blocks()), fresh: ram.NewSet(v.blocks())}
	if _, err := t.Harvest(ctx); err != nil { // it arms; what was there before is no news
		return nil, errors.Join(err, t.Close())
	}
	return d, nil
}

// look gives the pages that were written so far: all of them, from then on, once a harvest has failed.
func (d *dirtyLog) look(ctx context.Context) (ram.Set, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.harvest(ctx)
	return d.all.Clone(), err
}

// take gives the pages written since the last take. It fails if that is not known, for this harvest failed or one of look.
func (d *dirtyLog) take(ctx context.Context) (ram.Set, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.harvest(ctx)
	fresh, lost := d.fresh, d.lost
	if err == nil {
		d.fresh, d.lost = ram.NewSet(d.blocks), nil
	}
	if lost != nil { // by this harvest or by one of look
		return nil, lost
	}
	return fresh, nil
}

// harvest adds what was written to both books.
func (d *dirtyLog) harvest(ctx context.Context) error {
	now, err := d.tracker.Harvest(ctx)
	if err != nil {
		d.lost = err
	}
	if now.Fits(d.blocks) != nil { // unknown is dirty
		now = ram.NewSet(d.blocks)
		now.Fill()
	}
	d.all.Or(now)
	d.fresh.Or(now)
	return err
}

func (d *dirtyLog) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tracker.Close()
}

// trackedDevice is a ramDevice with a dirty bitmap.
type trackedDevice struct {
	ramDevice
	log *dirtyLog
}

// DirtyExtents tells what was written since the exports were opened.
func (d trackedDevice) DirtyExtents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	set, err := d.log.look(ctx)
	if err != nil {
		return nil, err
	}
	var out runs
	err = d.m.each(off, length, func(p *part, at, from, n int64) error {
		b, end := set[p.index], at+n
		for at < end {
			page := int(at / p.PageSize)
			next, flags := b.Next(page), uint32(0)
			if b.Test(page) {
				next, flags = b.NextClear(page), nbd.StatusDirty
			}
			to := end
			if next >= 0 {
				to = min(end, int64(next)*p.PageSize)
			}
			if err := out.add(to-at, flags); err != nil {
				return err
			}
			at = to
		}
		return nil
	})
	return out.list(err)
}
