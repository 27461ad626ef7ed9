package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/check"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// foretellTime is how long a migration may be held up for a forecast.
const foretellTime = 3 * time.Second

// foretell forecasts a migration that begins now, for its report: by each strategy of its engine. Nil where neither samples nor a
// past of the guest are there; then the first figures of the copy have to do.
func foretell(ctx context.Context, db *journal.Journal, o order, hosts pair, res check.Result, log *slog.Logger) map[migrate.Strategy]migrate.ReportPrediction {
	ctx, stop := context.WithTimeout(ctx, foretellTime)
	defer stop()
	d, err := hosts.src.Domain(ctx, o.Domain)
	if err != nil {
		return nil // the migration says so
	}
	t, err := taskOf(ctx, res, db, d.UUID, 0)
	if err != nil {
		return nil
	}
	seen, err := lookOut(ctx, o.StateDir, d.UUID)
	if errors.Is(err, sample.ErrNoSamples) {
		seen, err = t.past.outlook(time.Now())
	}
	if err != nil {
		if !errors.Is(err, sample.ErrNoSamples) {
			log.Info("forecast the migration", "migration", o.ID, "err", err)
		}
		return nil
	}
	t = t.bounded(ctx, hosts.src, o.Domain)
	return t.foretell(seen, time.Now())
}

// outlook is a guest of which nothing is known but what it wrote when it was moved last.
func (p past) outlook(now time.Time) (o outlook, err error) {
	if p.dirty == 0 {
		return o, sample.ErrNoSamples
	}
	o.dirty = sample.Series{Name: string(sample.MetricDirty), Start: now.Add(-time.Second), Step: time.Second, Values: []float64{p.dirty}}
	o.curve, err = forecast.NewCurve(forecast.Sources{Dirty: o.dirty})
	return o, err
}

// foretell forecasts the task by each of its ways.
func (t task) foretell(seen outlook, now time.Time) map[migrate.Strategy]migrate.ReportPrediction {
	r := t.request(seen, now, time.Time{})
	out := map[migrate.Strategy]migrate.ReportPrediction{}
	for _, w := range t.ways {
		model := forecast.Estimate(now, w, t.guest, t.told(), seen.curve, r.Limits)
		out[migrate.Strategy(w.Strategy)] = predictionOf(model, forecast.Correct(model, t.past.runs))
	}
	return out
}

// guessSpread is by what share a link's bandwidth that is a guess may be off.
const guessSpread = 0.75

// told is the link as a range tells of it: where its bandwidth is a guess, the range is wide.
func (t task) told() forecast.Link {
	l := t.link
	if t.assumed {
		l.Spread = guessSpread
	}
	return l
}

func predictionOf(model, c forecast.Cost) migrate.ReportPrediction {
	point := func(duration, downtime time.Duration, bytes float64) *migrate.ReportPoint {
		pause := inMS(downtime)
		return &migrate.ReportPoint{TotalMS: inMS(duration), DowntimeMS: &pause, SentBytes: int64(bytes)}
	}
	return migrate.ReportPrediction{
		ReportPoint: *point(c.Duration.Expected, c.Downtime.Expected, c.Bytes.Expected),
		Low:         point(c.Duration.Low, c.Downtime.Low, c.Bytes.Low),
		High:        point(c.Duration.High, c.Downtime.High, c.Bytes.High),
		Model:       point(model.Duration.Expected, model.Downtime.Expected, model.Bytes.Expected),
	}
}

func inMS(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// leastInUse is what share of a guest's RAM is in use at the least, where nobody knows.
const leastInUse = 0.2

// bounded is for a guest of which no past run tells how much of its RAM is other than zero: it is no more than what the
// hypervisor's process takes of its host's memory, and may be much less.
func (t task) bounded(ctx context.Context, h migrate.Host, domain string) task {
	if t.guest.NonZero > 0 {
		return t
	}
	t.guest.Least = int64(leastInUse * float64(t.guest.RAM))
	if m, ok := h.(migrate.Metered); ok {
		if all, err := m.Usage(ctx, domain); err == nil && len(all) == 1 && all[0].Resident != nil {
			t.guest.NonZero = min(*all[0].Resident, t.guest.RAM)
		}
	}
	return t
}
