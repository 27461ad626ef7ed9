package sampler

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// Source is a host that is asked.
type Source interface {
	migrate.Metered
	Close() error
}

// Config says what is looked at.
type Config struct {
	// Open connects to the host; it is called again when the connection was lost.
	Open func(context.Context) (Source, error)
	// Domains by name or UUID; none means all that run there.
	Domains []string
	// Interval of samples; 0 means a second.
	Interval time.Duration
	// NoDirty leaves the dirty metric out, for which QEMU has to work.
	NoDirty bool
	// Count opens a tracker of ours on a guest, which counts the pages that it writes in place of QEMU; nil has QEMU measure. A
	// guest for which it fails is measured by QEMU, and tried again later.
	Count func(ctx context.Context, g store.Guest) (Counter, error)
	// Busy tells whether a guest is being migrated, for all that the host does not tell itself; may be nil.
	Busy func(ctx context.Context, g store.Guest) bool
	// Emit takes samples, a host's guests together. Its error ends Run.
	Emit func(context.Context, []Sample) error
	// Log of what went wrong and is tried again; nil drops it.
	Log *slog.Logger
}

// Sample is what was seen of a guest in one interval; NaN is not known.
type Sample struct {
	Guest store.Guest
	// At is the begin of the interval, a multiple of Step.
	At   time.Time
	Step time.Duration
	// CPU is a share of the vCPUs, DiskWrites and Network are bytes per second.
	CPU, DiskWrites, Network float64
	// Window is a measurement of the dirty metric that ended; nil if none did.
	Window *Window
	// Migrating: the guest is being migrated, and nothing else is known.
	Migrating bool
}

// Window is distinct bytes that a guest wrote in some time.
type Window struct {
	At     time.Time
	Length time.Duration
	Bytes  float64
	Mode   string
}

// Batch is the sample as the store takes it. A window of one step is the dirty rate, too.
func (s Sample) Batch() store.Batch {
	b := store.Batch{Guest: s.Guest}
	add := func(m sample.Metric, at time.Time, v float64) {
		if !math.IsNaN(v) {
			b.Metrics = append(b.Metrics, sample.Series{Name: string(m), Unit: m.Unit(), Start: at, Step: s.Step, Values: []float64{v}})
		}
	}
	add(sample.MetricCPU, s.At, s.CPU)
	add(sample.MetricDiskWrites, s.At, s.DiskWrites)
	add(sample.MetricNetwork, s.At, s.Network)
	if w := s.Window; w != nil {
		if w.Length == s.Step {
			add(sample.MetricDirty, w.At.Truncate(s.Step), w.Bytes/s.Step.Seconds())
		}
		b.Windows = sample.Windows{{Name: string(sample.MetricDirty), Unit: "B", Start: w.At.Truncate(w.Length), Step: w.Length, Values: []float64{w.Bytes}}}
	}
	return b
}

// What is waited for at most between tries, and for one answer of the host.
const (
	longestPause  = 5 * time.Minute
	shortestPause = time.Second
	patience      = 20 * time.Second
)

// pause is how long to wait after so many failures in a row.
func pause(failures int) time.Duration {
	return min(longestPause, shortestPause<<min(failures, 16))
}

// Run looks at the guests of one host until ctx ends, and returns nil then. A host that is lost is connected to again.
func Run(ctx context.Context, c Config) error {
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.Interval < 100*time.Millisecond {
		return errors.New("an interval below 100 ms would be felt by the guests")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for failures := 0; ctx.Err() == nil; failures++ {
		src, err := c.Open(ctx)
		if err == nil {
			r := &runner{c: c, src: src, guests: map[string]*guest{}}
			err = r.run(ctx)
			if r.answered {
				failures = 0
			}
			err = errors.Join(err, src.Close())
		}
		var stop *emitError
		if errors.As(err, &stop) {
			return stop.err
		}
		if ctx.Err() != nil {
			return nil
		}
		c.Log.Warn("the host is lost and will be tried again", "err", err, "in", pause(failures))
		sleep(ctx, pause(failures))
	}
	return nil
}

// emitError is one of Emit, which no other connection helps.
type emitError struct{ err error }

func (e *emitError) Error() string { return e.err.Error() }

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// runner is a connection to a host.
type runner struct {
	c        Config
	src      Source
	guests   map[string]*guest // by UUID
	answered bool
}

// run looks again and again. It fails when the host does several times in a row.
func (r *runner) run(ctx context.Context) error {
	defer func() {
		for _, g := range r.guests {
			g.counted.end(r.c.Log)
		}
	}()
	failures := 0
	next := time.Now().Truncate(r.c.Interval).Add(r.c.Interval)
	for {
		until := next
		if due, ok := r.due(); ok && due.Before(next) {
			until = due
		}
		sleep(ctx, time.Until(until))
		if ctx.Err() != nil {
			return nil
		}
		tick := !time.Now().Before(next)
		err := r.look(ctx, tick)
		var stop *emitError
		switch {
		case errors.As(err, &stop):
			return err
		case err != nil:
			if failures++; failures >= 3 || errors.Is(err, migrate.ErrLinkLost) {
				return err
			}
			r.c.Log.Info("the host could not be asked", "err", err)
		default:
			failures, r.answered = 0, true
		}
		if now := time.Now(); tick || err != nil {
			next = now.Truncate(r.c.Interval).Add(r.c.Interval)
		}
	}
}

// due is when the first measurement is to be looked at.
func (r *runner) due() (time.Time, bool) {
	var first time.Time
	for _, g := range r.guests {
		if d := g.dirty.due; !d.IsZero() && (first.IsZero() || d.Before(first)) {
			first = d
		}
	}
	return first, !first.IsZero()
}

// look asks the host once. At a tick rates are told, in between only measurements that are due.
func (r *runner) look(ctx context.Context, tick bool) error {
	asked, stop := context.WithTimeout(ctx, patience)
	defer stop()
	all, err := r.src.Usage(asked, r.c.Domains...)
	if err != nil {
		return err
	}
	now := time.Now()
	var out []Sample
	seen := map[string]bool{}
	for _, u := range all {
		g := r.guest(u)
		seen[g.id.UUID] = true
		u.Migrating = u.Migrating || r.c.Busy != nil && r.c.Busy(asked, g.id)
		out = append(out, g.sample(u, now, tick, r.c.Interval)...)
		for _, w := range r.windows(ctx, g, u, now, tick) {
			out = append(out, Sample{Guest: g.id, At: w.At.Truncate(r.c.Interval), Step: r.c.Interval, CPU: math.NaN(), DiskWrites: math.NaN(), Network: math.NaN(), Window: &w})
		}
	}
	for id, g := range r.guests {
		if !seen[id] {
			g.counted.end(r.c.Log)
			delete(r.guests, id)
		}
	}
	if len(out) == 0 {
		return nil
	}
	if err := r.c.Emit(ctx, out); err != nil {
		return &emitError{err}
	}
	return nil
}

// windows gives the measurements of the dirty metric that ended.
func (r *runner) windows(ctx context.Context, g *guest, u migrate.Usage, now time.Time, tick bool) []Window {
	if r.c.NoDirty {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	goOn := true
	if r.c.Count != nil {
		if list, ok := r.count(ctx, g, u, now, tick); ok {
			g.dirty = dirty{turn: g.dirty.turn} // QEMU measures nothing: there is nothing to be woken for
			return list
		}
		goOn = now.Before(g.counted.again) // else our tracker's turn is next
	}
	if w := r.measure(ctx, g, u, now, goOn); w != nil {
		return []Window{*w}
	}
	return nil
}

// guest finds who counters are of. A guest without a UUID goes by its name.
func (r *runner) guest(u migrate.Usage) *guest {
	id := store.Guest{UUID: u.UUID, Name: u.Name}
	if id.UUID == "" {
		id.UUID = "name/" + u.Name
	}
	g := r.guests[id.UUID]
	if g == nil {
		g = &guest{}
		r.guests[id.UUID] = g
	}
	g.id = id
	return g
}
