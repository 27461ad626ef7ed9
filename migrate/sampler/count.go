package sampler

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Counter is a tracker of ours in one guest.
type Counter interface {
	// Written gives the pages written since the last call, at first since the counter was opened. The caller owns the set.
	Written(ctx context.Context) (Written, error)
	// Close takes it out of the guest.
	Close() error
}

// Written is what a guest wrote.
type Written struct {
	// Pages of Blocks.
	Pages  ram.Set
	Blocks []ram.Block
	// Mode is the kind of tracker.
	Mode string
}

// counted is the counter of one guest, with the windows that are under way: each page that was written within one counts once.
type counted struct {
	c        Counter // nil while there is none
	at       time.Time
	windows  [doublings]counting
	failures int
	again    time.Time // when to try to open one
}

// counting is a window of 2, 4, 8 … intervals that has not ended.
type counting struct {
	pages ram.Set
	n     int // intervals that are in it
}

// end takes the counter out of the guest.
func (d *counted) end(log *slog.Logger) {
	if d.c == nil {
		return
	}
	if err := d.c.Close(); err != nil {
		log.Info("a tracker could not be taken out of a guest", "err", err)
	}
	d.c, d.windows = nil, [doublings]counting{}
}

// firstAgain is how long QEMU measures, at least, before our tracker is tried again.
const firstAgain = 30 * time.Second

// fail ends the counter and says when to try again.
func (d *counted) fail(log *slog.Logger, guest string, err error) {
	d.end(log)
	d.failures++
	wait := max(firstAgain, pause(d.failures))
	if errors.Is(err, migrate.ErrBusy) { // a migration took its place: the guest is soon gone, or back
		wait = firstAgain
	}
	d.again = time.Now().Add(wait)
	log.Warn("what the guest writes cannot be counted by our tracker now; QEMU measures it", "guest", guest, "err", err, "again in", wait)
}

// count gives the windows that ended by now. It is not ok where QEMU has to measure.
func (r *runner) count(ctx context.Context, g *guest, u migrate.Usage, now time.Time, tick bool) (ended []Window, ok bool) {
	d := &g.counted
	switch {
	case u.Migrating:
		d.end(r.c.Log)
		return nil, true
	case d.c == nil && now.Before(d.again):
		return nil, false
	case d.c == nil && !g.dirty.started.IsZero():
		return nil, false // QEMU is at it still
	case !tick:
		return nil, true
	case d.c == nil:
		c, err := r.c.Count(ctx, g.id)
		if err != nil {
			d.fail(r.c.Log, g.id.Name, err)
			return nil, false
		}
		d.c, d.at = c, time.Now()
		return nil, true
	}
	w, err := d.c.Written(ctx)
	if err != nil {
		d.fail(r.c.Log, g.id.Name, err)
		return nil, false
	}
	d.failures = 0
	took := time.Since(d.at)
	d.at = d.at.Add(took)
	return d.add(w, now.Truncate(r.c.Interval), took, r.c.Interval), true
}

// tolerance is how far an interval may be off, as a part of it, for what was written in it to count: pages that are written again
// and again are not fewer by as much in a shorter time.
const tolerance = 5

// add takes in what was written in the interval before end, which took so long in truth.
func (d *counted) add(w Written, end time.Time, took, step time.Duration) []Window {
	if off := (took - step).Abs(); off > step/tolerance {
		d.windows = [doublings]counting{}
		return nil
	}
	begin := end.Add(-step)
	out := []Window{{At: begin, Length: step, Bytes: float64(w.Pages.Bytes(w.Blocks)), Mode: w.Mode}}
	for k := range d.windows {
		c, length := &d.windows[k], step<<(k+1)
		if c.n == 0 && !begin.Truncate(length).Equal(begin) {
			continue // windows of a length lie end to end, at its multiples
		}
		if c.n == 0 {
			c.pages = w.Pages.Clone()
		} else {
			c.pages.Or(w.Pages)
		}
		if c.n++; c.n == 2<<k {
			out = append(out, Window{At: end.Add(-length), Length: length, Bytes: float64(c.pages.Bytes(w.Blocks)), Mode: w.Mode})
			*c = counting{}
		}
	}
	return out
}
