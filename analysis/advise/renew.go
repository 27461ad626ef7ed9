package advise

import (
	"fmt"
	"math"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// What Renew takes for a guest that does not do what was expected.
const (
	fewestSeen = 8    // samples; of fewer nothing is said
	astray     = 0.35 // share of samples far from what was expected; chance alone gives a tenth or so
	latest     = 12   // samples, of which astrayNow of them tell of another phase before the whole does
	astrayNow  = 0.75
	settled    = 0.25 // and what another phase has to bring it down to
	shifts     = 48   // phases that are tried, up to half a cycle either way
)

// Renew looks, while a start is waited for, at whether the guest does what the advice expects. r is the request with Now moved on
// and with the curve that the advice was made from; seen is the dirty metric (bytes per second) since. Where the cycle comes earlier
// or later than expected, the start moves with it; where the guest does something else altogether, there is nothing to wait for. An
// advice whose time has come, or that still holds, comes back as it was.
func Renew(old Advice, r Request, seen sample.Series) (Advice, bool, error) {
	p, err := newPlanner(r)
	switch {
	case err != nil:
		return old, false, err
	case !old.Wait || !r.Now.Before(old.Start):
		return old, false, nil
	case !r.Deadline.IsZero() && r.Now.Add(old.Cost.Duration.High).After(r.Deadline):
		now := p.best(r.Now)
		return p.advice(old.Policy, now, now, "start now: the deadline "+clock(r.Deadline)+" leaves no more time"), true, nil
	}
	seen = p.since(seen)
	give := p.give()
	share, known := off(r.Curve, seen, 0, give)
	now, _ := off(r.Curve, seen.Last(latest*seen.Step), 0, give)
	if known < fewestSeen || share < astray && now < astrayNow {
		return old, false, nil
	}
	if by, ok := p.drifted(seen, share); ok {
		return p.moved(old, by)
	}
	if share < astray {
		return old, false, nil
	}
	return p.changed(old, seen)
}

// since is what of it was seen within a cycle: how the guest was long ago is of no matter.
func (p *planner) since(seen sample.Series) sample.Series {
	if seen.Step <= 0 || p.period <= 0 {
		return seen
	}
	return seen.Last(p.period)
}

// give is what a guest may write more or less per second without that meaning anything: a tenth of what it writes on average.
func (p *planner) give() float64 {
	const points = 32
	sum, span := 0.0, max(p.period, points*p.step)
	for i := range points {
		sum += p.Curve.Dirtied(p.Now.Add(span*time.Duration(i)/points), p.step).Expected
	}
	return 0.1 * sum / points / p.step.Seconds()
}

// off is the share of the samples that are far from what is expected when all comes later by shift, and how many are known.
func off(c forecast.Curve, seen sample.Series, shift time.Duration, give float64) (float64, int) {
	known, far, step := 0, 0, seen.Step.Seconds()
	for i, v := range seen.Values {
		if math.IsNaN(v) {
			continue
		}
		known++
		e := c.Dirtied(seen.At(i).Add(-shift), seen.Step)
		if v < 0.75*e.Low/step-give || v > 1.33*e.High/step+give {
			far++
		}
	}
	if known == 0 {
		return 0, 0
	}
	return float64(far) / float64(known), known
}

// drifted finds by how much later the cycle comes, if that explains what is seen. Of equals the least.
func (p *planner) drifted(seen sample.Series, share float64) (time.Duration, bool) {
	if p.period == 0 {
		return 0, false
	}
	best, at, give := share, time.Duration(0), p.give()
	for k := 1; k <= shifts; k++ {
		by := p.period * time.Duration(k) / (2 * shifts)
		for _, shift := range []time.Duration{-by, by} {
			if s, _ := off(p.Curve, seen, shift, give); s < best-0.02 {
				best, at = s, shift
			}
		}
	}
	return at, best <= settled && best <= share/2
}

// shifted is a curve of which all comes later.
type shifted struct {
	forecast.Curve
	by           time.Duration
	step, period time.Duration
}

func (s shifted) Step() time.Duration   { return s.step }
func (s shifted) Period() time.Duration { return s.period }

func (s shifted) Dirtied(from time.Time, window time.Duration) forecast.Range {
	return s.Curve.Dirtied(from.Add(-s.by), window)
}

func (s shifted) DiskWrites(from time.Time, window time.Duration) forecast.Range {
	return s.Curve.DiskWrites(from.Add(-s.by), window)
}

// moved asks anew with the cycle where it really is. A start that would move by next to nothing stays.
func (p *planner) moved(old Advice, by time.Duration) (Advice, bool, error) {
	r := p.Request
	r.Curve = shifted{p.Curve, by, p.step, p.period}
	out, err := Cycle{}.Advise(r)
	if err != nil {
		return old, false, err
	}
	if d := out.Start.Sub(old.Start); d.Abs() <= max(2*p.step, p.period/50) {
		return old, false, nil
	}
	way := "later"
	if by < 0 {
		way = "earlier"
	}
	out.Reason = fmt.Sprintf("%s (the cycle comes %s %s than expected)", out.Reason, long(by.Abs()), way)
	return out, true, nil
}

// changed is for a guest that does something else than before: the curve is what it does now, and there is no cycle.
func (p *planner) changed(old Advice, seen sample.Series) (Advice, bool, error) {
	c, err := forecast.NewCurve(forecast.Sources{Dirty: seen})
	if err != nil {
		return old, false, fmt.Errorf("renew: %w", err)
	}
	expected, saw, n := 0.0, 0.0, 0.0
	for i, v := range seen.Values {
		if !math.IsNaN(v) {
			expected += p.Curve.Dirtied(seen.At(i), seen.Step).Expected / seen.Step.Seconds()
			saw, n = saw+v, n+1
		}
	}
	r := p.Request
	r.Curve, r.Cycles.Cycles = c, nil
	q, err := newPlanner(r)
	if err != nil {
		return old, false, err
	}
	now := q.best(r.Now)
	return q.advice(old.Policy, now, now, fmt.Sprintf("start now: the guest no longer follows its cycle, it writes %s/s where %s/s were expected", bytes(saw/n), bytes(expected/n))), true, nil
}
