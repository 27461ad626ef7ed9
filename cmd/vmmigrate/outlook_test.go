package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
)

// seenGuest is a guest that was seen for an hour: busy for 70 of 120 s, or as busy all the time.
func seenGuest(t *testing.T, end time.Time, cyclic bool) outlook {
	t.Helper()
	s := sample.Series{Name: string(sample.MetricDirty), Unit: "B/s", Start: end.Add(-time.Hour), Step: time.Second}
	for i := range 3600 {
		v := 200e6
		if cyclic && i%120 >= 70 {
			v = 5e6
		}
		s.Values = append(s.Values, v)
	}
	r, err := cycle.Detect(s, cycle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := forecast.NewCurve(forecast.Sources{Dirty: s, Cycles: r})
	if err != nil {
		t.Fatal(err)
	}
	return outlook{dirty: s, curve: c, cycles: r}
}

func gigabit(strategies ...migrate.Strategy) task {
	t := task{guest: forecast.Guest{RAM: 2 << 30}, link: forecast.Link{Bandwidth: assumedLink}, params: migrate.Params{MaxDowntime: 300 * time.Millisecond}}
	for _, s := range strategies {
		t.ways = append(t.ways, forecast.Way{Engine: forecast.EngineNBD, Strategy: string(s)})
	}
	return t
}

// With --when cycle a guest is moved when it is quiet, one without a cycle or without samples now.
func TestCyclicAdvice(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		look func(context.Context, string, string) (outlook, error)
		wait bool
		says string
	}{
		"cycle":      {func(context.Context, string, string) (outlook, error) { return seenGuest(t, now, true), nil }, true, "wait"},
		"no cycle":   {func(context.Context, string, string) (outlook, error) { return seenGuest(t, now, false), nil }, false, "now"},
		"no samples": {func(context.Context, string, string) (outlook, error) { return outlook{}, sample.ErrNoSamples }, false, "nothing was recorded"},
	} {
		a := &cyclic{task: gigabit(migrate.StrategyPrecopy, migrate.StrategyHybrid), deadline: now.Add(time.Hour), look: c.look}
		start, why, err := a.advise(t.Context(), now)
		if err != nil {
			t.Fatal(name, err)
		}
		if in := start.Sub(now); (in > 0) != c.wait || in > 2*time.Minute || !strings.Contains(why, c.says) {
			t.Errorf("%s: in %s, %s", name, in, why)
		}
		if c.wait && (start.Sub(now) < 60*time.Second || start.Sub(now) > 110*time.Second) {
			t.Errorf("%s: it waits %s, and the guest is quiet from 70 s on", name, start.Sub(now))
		}
	}
}

// It looks again now and then, not each time that it is asked; where it cannot, that is an error and the last advice holds.
func TestCyclicAdviceIsRenewed(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	looks, bad := 0, errors.New("the file is gone")
	a := &cyclic{task: gigabit(migrate.StrategyHybrid), deadline: now.Add(time.Hour), look: func(context.Context, string, string) (outlook, error) {
		if looks++; looks == 2 {
			return outlook{}, bad
		}
		return seenGuest(t, now, true), nil
	}}
	first, _, err := a.advise(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	if again, _, err := a.advise(t.Context(), now.Add(time.Second)); err != nil || !again.Equal(first) || looks != 1 {
		t.Errorf("%s, %v, %d looks", again, err, looks)
	}
	if _, _, err := a.advise(t.Context(), now.Add(renewEvery)); !errors.Is(err, bad) {
		t.Error(err)
	}
	if again, _, err := a.advise(t.Context(), now.Add(renewEvery)); err != nil || !again.Equal(first) || looks != 3 {
		t.Errorf("%s, %v, %d looks", again, err, looks)
	}
}

func TestTaskOf(t *testing.T) {
	res := check.Result{Engine: migrate.EngineNBD, Work: &check.Work{RAMBytes: 1 << 30, Disks: []check.DiskWork{{Moves: 5}, {Moves: 6}}}, Params: migrate.Params{Bandwidth: 1000},
		Strategies: []check.Choice{{Strategy: migrate.StrategyPrecopy, Possible: true, Certain: true}, {Strategy: migrate.StrategyHybrid, Possible: false}, {Strategy: migrate.StrategyPostcopy, Possible: true}}}
	got, err := taskOf(t.Context(), res, nil, "", 0)
	if err != nil || got.guest.RAM != 1<<30 || got.guest.Disks != 11 || !got.assumed || got.link.Bandwidth != 1000 || len(got.ways) != 1 || got.ways[0].Strategy != "precopy" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = taskOf(t.Context(), res, nil, "", 900); err != nil || got.assumed || got.link.Bandwidth != 900 {
		t.Errorf("%+v, %v", got, err)
	}
	if got := got.only(migrate.StrategyPostcopy); len(got.ways) != 1 || got.ways[0].Strategy != "postcopy" || got.ways[0].Engine != "nbd" {
		t.Errorf("%+v", got.ways)
	}
	if _, err := taskOf(t.Context(), check.Result{}, nil, "", 0); err == nil {
		t.Error("there is nothing to move, and no error")
	}
}
