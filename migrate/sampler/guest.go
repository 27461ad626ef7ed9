package sampler

import (
	"context"
	"math"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// guest is one of a host's, as it was seen last.
type guest struct {
	id              store.Guest
	cpu, disk, sent counter
	at              time.Time // of the last tick; zero when there is none that differences may be taken from
	dirty           dirty
	counted         counted
}

// mostMissed is how many intervals may lie between two looks for the difference to count for all of them.
const mostMissed = 3

// counter is one that goes up, as it was seen last.
type counter struct {
	n  int64
	at time.Time // zero if it was not seen
}

// rate is how fast it went up since it was seen last: per second. It is NaN where it is not known, where that is too long ago, and
// where it went back: then the guest was started anew.
func (c *counter) rate(n *int64, now time.Time, longest time.Duration) float64 {
	if n == nil {
		return math.NaN() // libvirt leaves out what it would have to wait for
	}
	last := *c
	*c = counter{*n, now}
	if d := now.Sub(last.at); !last.at.IsZero() && *n >= last.n && d > 0 && d <= longest {
		return float64(*n-last.n) / d.Seconds()
	}
	return math.NaN()
}

// sample gives the rates of the interval that has ended, and of those that were missed in a busy host.
func (g *guest) sample(u migrate.Usage, now time.Time, tick bool, step time.Duration) []Sample {
	if !tick {
		return nil
	}
	at := g.at
	g.at = now
	// A tick comes a little after its time, never before it.
	end := now.Truncate(step)
	if u.Migrating {
		g.at, g.cpu, g.disk, g.sent = time.Time{}, counter{}, counter{}, counter{}
		return []Sample{{Guest: g.id, At: end.Add(-step), Step: step, CPU: math.NaN(), DiskWrites: math.NaN(), Network: math.NaN(), Migrating: true}}
	}
	longest := mostMissed*step + step/2
	one := Sample{Guest: g.id, Step: step, CPU: math.NaN(), DiskWrites: g.disk.rate(u.DiskWritten, now, longest), Network: g.sent.rate(u.Sent, now, longest)}
	if busy := g.cpu.rate((*int64)(u.CPU), now, longest); u.VCPUs > 0 {
		one.CPU = min(1, busy/1e9/float64(u.VCPUs))
	}
	n := int(end.Sub(at.Truncate(step)) / step)
	if at.IsZero() || n < 1 || n > mostMissed {
		return nil
	}
	out := make([]Sample, 0, n)
	for i := range n {
		one.At = end.Add(-time.Duration(n-i) * step)
		out = append(out, one)
	}
	return out
}

// dirty is the measurements of one guest: where it is in the turn, and what is under way.
type dirty struct {
	turn     int
	started  time.Time // of what is under way; zero when nothing is
	window   time.Duration
	due      time.Time // when to look, or to try again
	failures int
}

// longest window that QEMU takes, about; doublings is how many windows there are beside the shortest.
const (
	longest   = time.Minute
	doublings = 5
)

// oftener is how much of the time windows of one interval get, for each part of the others: they are the series that cycles are
// found in.
const oftener = 4

// windowOf gives the window whose turn it is: of one interval, whole seconds, and now and then of 2, 4, 8 … of them.
func windowOf(turn int, interval time.Duration) time.Duration {
	one := max(time.Second, interval.Round(time.Second))
	cycle := 0
	for k := 1; k <= doublings && one<<k <= longest; k++ {
		cycle += oftener<<k + 1
	}
	if cycle == 0 {
		return min(one, longest)
	}
	turn %= cycle
	for k := 1; ; k++ {
		switch ones := oftener << k; {
		case turn < ones:
			return one
		case turn == ones:
			return one << k
		default:
			turn -= ones + 1
		}
	}
}

// lookAfter is how long after the end of a window QEMU has its result, at the soonest; lookAgain is when to ask next.
const (
	lookAfter = 40 * time.Millisecond
	lookAgain = 50 * time.Millisecond
)

// measure takes the result of a measurement, if there is one, and begins the next, if it is to go on.
func (r *runner) measure(ctx context.Context, g *guest, u migrate.Usage, now time.Time, goOn bool) *Window {
	d := &g.dirty
	if u.Migrating {
		*d = dirty{turn: d.turn, due: now.Add(shortestPause)}
		return nil
	}
	if now.Before(d.due) {
		return nil
	}
	var done *Window
	if !d.started.IsZero() {
		switch m := u.Dirty; {
		case m != nil && m.Done && m.Window == d.window:
			done = &Window{At: d.started, Length: m.Window, Bytes: float64(m.Bytes), Mode: m.Mode}
			d.turn++
			d.failures = 0
		case now.Sub(d.started) < d.window+patience:
			d.due = now.Add(lookAgain)
			return nil
		default: // somebody else measures, or it was lost
			d.failures++
		}
		d.started = time.Time{}
	}
	if !goOn {
		d.due = time.Time{}
		return done
	}
	d.window = windowOf(d.turn, r.c.Interval)
	if err := r.src.MeasureDirty(ctx, g.id.Name, d.window); err != nil {
		d.failures++
		d.due = now.Add(pause(d.failures))
		r.c.Log.Info("what the guest writes cannot be measured now", "guest", g.id.Name, "err", err, "again in", pause(d.failures))
		return done
	}
	d.started = time.Now()
	d.due = d.started.Add(d.window + lookAfter)
	return done
}
