package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/advise"
	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// assumedLink is what a link is taken to carry in bytes per second where nothing is known: 1 Gbit/s.
const assumedLink = 1e9 / 8

// outlook is what is known of a guest, for questions of when and how to move it.
type outlook struct {
	dirty  sample.Series
	curve  forecast.Curve
	cycles cycle.Result
}

// lookOut reads what was recorded of a guest, by UUID or name. ErrNoSamples if there is nothing.
func lookOut(ctx context.Context, dir, guest string) (outlook, error) {
	var o outlook
	db, err := store.OpenReadOnly(ctx, filepath.Join(dir, samplesFile))
	if errors.Is(err, store.ErrAbsent) {
		return o, sample.ErrNoSamples
	}
	if err != nil {
		return o, err
	}
	defer db.Close()
	k, err := db.Find(ctx, guest)
	if errors.Is(err, store.ErrNoGuest) {
		return o, sample.ErrNoSamples
	}
	if err != nil {
		return o, err
	}
	o.dirty, err = db.Series(ctx, k.UUID, sample.MetricDirty, store.Query{})
	if err != nil && !errors.Is(err, store.ErrNoGuest) {
		return o, err
	}
	if o.dirty.Len() == 0 {
		return o, sample.ErrNoSamples
	}
	writes, err := db.Series(ctx, k.UUID, sample.MetricDiskWrites, store.Query{})
	if err != nil && !errors.Is(err, store.ErrNoGuest) { // it has no disks
		return o, err
	}
	windows, err := db.Windows(ctx, k.UUID, store.Query{})
	if err != nil {
		return o, err
	}
	if o.cycles, err = cycle.Detect(o.dirty, cycle.Options{}); err != nil {
		return o, err
	}
	o.curve, err = forecast.NewCurve(forecast.Sources{Dirty: o.dirty, Windows: windows, DiskWrites: writes, Cycles: o.cycles})
	return o, err
}

// task is a migration that is thought about.
type task struct {
	guest forecast.Guest
	link  forecast.Link
	ways  []forecast.Way
	// assumed tells that the link's bandwidth is a guess.
	assumed bool
	params  migrate.Params
	past    past
}

// taskOf is the migration that check has looked at, of the guest with that UUID. db may be nil; link in bytes per second is the
// user's word, 0 for none.
func taskOf(ctx context.Context, res check.Result, db *journal.Journal, uuid string, link int64) (task, error) {
	t := task{params: res.Params}
	if res.Work == nil || res.Engine == "" {
		return t, fmt.Errorf("nothing is known that could be moved: %w", advise.ErrNoWay)
	}
	t.past = pastOf(ctx, db, res, uuid)
	t.guest.RAM, t.guest.NonZero = res.Work.RAMBytes, min(t.past.nonZero, res.Work.RAMBytes)
	for _, d := range res.Work.Disks {
		t.guest.Disks += d.Moves
	}
	t.link.Bandwidth = float64(link)
	if link == 0 {
		t.link.Bandwidth, t.link.Still = t.past.link, t.past.still
	}
	if t.link.Bandwidth == 0 {
		t.link.Bandwidth, t.assumed = assumedLink, true
	}
	if cap := float64(res.Params.Bandwidth); cap > 0 {
		t.link.Bandwidth = min(t.link.Bandwidth, cap)
	}
	for _, c := range res.Strategies {
		if c.Possible && c.Certain {
			t.ways = append(t.ways, forecast.Way{Engine: string(res.Engine), Strategy: string(c.Strategy)})
		}
	}
	if len(t.ways) == 0 {
		return t, fmt.Errorf("no strategy is certain to be possible: %w", advise.ErrNoWay)
	}
	return t, nil
}

// only leaves the strategy that was asked for, unless that is open.
func (t task) only(s migrate.Strategy) task {
	if s != migrate.StrategyAuto && s != "" {
		t.ways = []forecast.Way{{Engine: t.ways[0].Engine, Strategy: string(s)}}
	}
	return t
}

// request asks for advice on it at the time now.
func (t task) request(o outlook, now, deadline time.Time) advise.Request {
	return advise.Request{Now: now, Deadline: deadline, Guest: t.guest, Link: t.link, Curve: o.curve, Cycles: o.cycles, Ways: t.ways, Past: t.past.runs, Seen: o.dirty,
		Limits: forecast.Limits{MaxDowntime: t.params.MaxDowntime, Throttle: t.params.AutoConverge}, MayThrottle: t.params.AutoConverge, MayPostcopy: true}
}

// cyclic is the adviser of --when cycle. It is asked often, and looks again every renewEvery.
type cyclic struct {
	dir      string
	guest    string // UUID, or name
	task     task
	deadline time.Time
	look     func(ctx context.Context, dir, guest string) (outlook, error)

	made, last time.Time // when the advice was made, and when it was looked at last
	advice     advise.Advice
	known      outlook
}

// cyclicOf is the adviser for an order that check has looked at.
func cyclicOf(ctx context.Context, db *journal.Journal, o order, hosts pair, res check.Result) (*cyclic, error) {
	d, err := hosts.src.Domain(ctx, o.Domain)
	if err != nil {
		return nil, err
	}
	t, err := taskOf(ctx, res, db, d.UUID, 0)
	if err != nil {
		return nil, err
	}
	t = t.bounded(ctx, hosts.src, o.Domain)
	return &cyclic{dir: o.StateDir, guest: cmp.Or(d.UUID, o.Domain), task: t.only(o.Params.Strategy), deadline: o.When.Deadline, look: lookOut}, nil
}

const renewEvery = 10 * time.Second

func (c *cyclic) advise(ctx context.Context, now time.Time) (time.Time, string, error) {
	if !c.last.IsZero() && now.Sub(c.last) < renewEvery {
		return c.advice.Start, c.why(), nil
	}
	seen, err := c.look(ctx, c.dir, c.guest)
	switch {
	case errors.Is(err, sample.ErrNoSamples) && c.made.IsZero():
		c.advice, err = advise.Advice{Start: now, Reason: "start now: nothing was recorded of the guest (vmmigrate watch --daemon)"}, nil
	case err != nil:
		return time.Time{}, "", err
	case c.made.IsZero():
		c.known = seen
		c.advice, err = advise.Cycle{}.Advise(c.task.request(seen, now, c.deadline))
	default:
		c.advice, _, err = advise.Renew(c.advice, c.task.request(c.known, now, c.deadline), since(seen.dirty, c.made))
	}
	if err != nil {
		return time.Time{}, "", err
	}
	if c.last = now; c.made.IsZero() {
		c.made = now
	}
	return c.advice.Start, c.why(), nil
}

// since is what was seen after a time.
func since(s sample.Series, t time.Time) sample.Series {
	if s.Step <= 0 {
		return s
	}
	return s.Slice(min(max(s.Index(t), 0), s.Len()), s.Len())
}

func (c *cyclic) why() string {
	if c.task.assumed {
		return c.advice.Reason + "; the link is taken to carry 1 Gbit/s"
	}
	return c.advice.Reason
}
