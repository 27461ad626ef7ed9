package advise

import (
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Request is a migration that is wanted.
type Request struct {
	// Now, and the time by which it has to have ended. No deadline (zero) lets it wait for one cycle at most.
	Now, Deadline time.Time
	Guest         forecast.Guest
	Link          forecast.Link
	// Curve is what the guest is expected to write; see forecast.NewCurve.
	Curve forecast.Curve
	// Cycles is what was detected; none is no cycle.
	Cycles cycle.Result
	// Ways that can be gone; empty is all.
	Ways   []forecast.Way
	Limits forecast.Limits
	// MayThrottle and MayPostcopy permit ways that slow the guest down, and such that need the source until all is there.
	MayThrottle, MayPostcopy bool
	// Past are earlier runs of this guest.
	Past []forecast.Past
	// Seen is the dirty metric up to now; only NaiveBayes wants it.
	Seen sample.Series
	// Weights say what counts how much; the zero value is DefaultWeights.
	Weights Weights
}

// Weights say what a second or a byte counts, so that ways and starts can be compared.
type Weights struct {
	// Duration, Downtime and Slow are per second of each, Traffic per second that the link is busy.
	Duration, Downtime, Slow, Traffic float64
}

// DefaultWeights count a second of pause like twenty of migration, and one on missing pages like half a one.
func DefaultWeights() Weights { return Weights{Duration: 1, Downtime: 20, Slow: 0.5, Traffic: 1} }

// unfit is by how much worse a migration counts whose rounds do not come to an end that fits the accepted pause.
const unfit = 2

// Score is what a forecast counts: the less the better, in seconds of migration.
func (w Weights) Score(p forecast.Point, l forecast.Link) float64 {
	if w == (Weights{}) {
		w = DefaultWeights()
	}
	score := w.Duration*p.Duration + w.Downtime*p.Downtime + w.Slow*p.SlowFor + w.Traffic*p.Bytes/l.Bandwidth
	if !p.Converges {
		score *= unfit
	}
	return score
}

// Advice is when to start, and how.
type Advice struct {
	Start time.Time
	Way   forecast.Way
	// Cost is of that start, Now of starting at once in the way that is best for that.
	Cost, Now forecast.Cost
	// Wait tells that Start is later than the request.
	Wait bool
	// Reason is one sentence.
	Reason string
	// Policy names who says so.
	Policy string
}

// Policy is a way to choose a start.
type Policy interface {
	Name() string
	Advise(Request) (Advice, error)
}

var (
	// ErrNoWay is given where no way to migrate is left.
	ErrNoWay = errors.New("no way to migrate is permitted")
	// ErrRequest is given for a request that makes no sense.
	ErrRequest = errors.New("cannot be advised on")
)

// planner is a request that was looked through.
type planner struct {
	Request
	ways        []forecast.Way
	corrections []forecast.Correction
	// step and period of the curve; a period of 0 is no cycle.
	step, period time.Duration
}

// stepper is what a curve may tell of itself.
type stepper interface {
	Step() time.Duration
	Period() time.Duration
}

func newPlanner(r Request) (*planner, error) {
	p := &planner{Request: r, step: time.Second}
	if r.Now.IsZero() || r.Curve == nil {
		return nil, fmt.Errorf("a request without a time or a curve: %w", ErrRequest)
	}
	ways := r.Ways
	if len(ways) == 0 {
		ways = forecast.Ways()
	}
	for _, w := range ways {
		if err := forecast.Check(w, r.Guest, r.Link); err != nil {
			return nil, err
		}
		if r.MayPostcopy || w.Strategy == forecast.StrategyPrecopy {
			p.ways = append(p.ways, w)
			p.corrections = append(p.corrections, forecast.NewCorrection(w, r.Past))
		}
	}
	if len(p.ways) == 0 {
		return nil, ErrNoWay
	}
	p.Limits.Throttle = r.MayThrottle
	if s, ok := r.Curve.(stepper); ok {
		p.step, p.period = max(s.Step(), time.Millisecond), s.Period()
	} else if len(r.Cycles.Cycles) > 0 {
		p.period = r.Cycles.Cycles[0].Period
		p.step = max(p.period/120, time.Millisecond)
	}
	if len(r.Cycles.Cycles) == 0 {
		p.period = 0
	}
	return p, nil
}

// choice is a start with the way that is best then.
type choice struct {
	start time.Time
	way   int
	point forecast.Point
	score float64
}

// best is the way that counts least at a start. It compares expected values only.
func (p *planner) best(start time.Time) choice {
	out := choice{start: start, way: -1}
	for i, w := range p.ways {
		point := p.corrections[i].Point(forecast.Expect(start, w, p.Guest, p.Link, p.Curve, p.Limits))
		if score := p.Weights.Score(point, p.Link); out.way < 0 || score < out.score {
			out = choice{start, i, point, score}
		}
	}
	return out
}

// cost is the whole forecast of a choice.
func (p *planner) cost(c choice) forecast.Cost {
	return p.corrections[c.way].Apply(forecast.Estimate(c.start, p.ways[c.way], p.Guest, p.Link, p.Curve, p.Limits))
}

// inTime tells whether a cost keeps the deadline by the high end of its forecast.
func (p *planner) inTime(c forecast.Cost) bool {
	return p.Deadline.IsZero() || !c.Start.Add(c.Duration.High).After(p.Deadline)
}

// last is the latest start that is worth a look.
func (p *planner) last() time.Time {
	if p.Deadline.IsZero() {
		return p.Now.Add(p.period)
	}
	return p.Deadline
}

// advice is a start taken as it is; one that is in danger of passing the deadline becomes now.
func (p *planner) advice(name string, now, c choice, reason string) Advice {
	out := Advice{Start: c.start, Way: p.ways[c.way], Cost: p.cost(c), Policy: name, Reason: reason}
	out.Now = out.Cost
	if c.start.After(p.Now) {
		out.Now, out.Wait = p.cost(now), true
	}
	if out.Wait && !p.inTime(out.Cost) {
		return Advice{Start: p.Now, Way: p.ways[now.way], Cost: out.Now, Now: out.Now, Policy: name,
			Reason: "start now: a migration that waits until " + clock(c.start) + " may not have ended by " + clock(p.Deadline)}
	}
	return out
}
