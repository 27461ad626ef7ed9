package advise

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Immediate starts at once.
type Immediate struct{}

// Name implements Policy.
func (Immediate) Name() string { return "immediate" }

// Advise implements Policy.
func (i Immediate) Advise(r Request) (Advice, error) {
	p, err := newPlanner(r)
	if err != nil {
		return Advice{}, err
	}
	now := p.best(r.Now)
	return p.advice(i.Name(), now, now, "start now: nothing is waited for"), nil
}

// RandomDelay starts at a random moment up to the deadline: what happens to those who do not look. The same seed and request
// give the same moment.
type RandomDelay struct{ Seed uint64 }

// Name implements Policy.
func (RandomDelay) Name() string { return "random delay" }

// Advise implements Policy.
func (d RandomDelay) Advise(r Request) (Advice, error) {
	p, err := newPlanner(r)
	if err != nil {
		return Advice{}, err
	}
	now := p.best(r.Now)
	room := p.last().Sub(r.Now) - p.cost(now).Duration.High
	if room <= 0 {
		return p.advice(d.Name(), now, now, "start now: there is no time to wait"), nil
	}
	random := rand.New(rand.NewPCG(d.Seed, uint64(r.Now.UnixNano())))
	c := p.best(r.Now.Add(time.Duration(random.Float64() * float64(room))))
	return p.advice(d.Name(), now, c, fmt.Sprintf("wait %s: a moment picked at random", long(c.start.Sub(r.Now)))), nil
}

// LocalMinimum waits until what the guest writes stops falling.
type LocalMinimum struct{}

// Name implements Policy.
func (LocalMinimum) Name() string { return "local minimum" }

// Advise implements Policy.
func (l LocalMinimum) Advise(r Request) (Advice, error) {
	p, err := newPlanner(r)
	if err != nil {
		return Advice{}, err
	}
	now := p.best(r.Now)
	at, writes := r.Now, r.Curve.Dirtied(r.Now, p.step).Expected
	for p.period > 0 {
		next := at.Add(p.step)
		then := r.Curve.Dirtied(next, p.step).Expected
		if then >= writes || !next.Before(p.last()) {
			break
		}
		at, writes = next, then
	}
	return p.advice(l.Name(), now, p.best(at), "start where what the guest writes stops falling"), nil
}

// NaiveBayes is ALMA's way: moments are told suitable or not by a classifier, and the next one that was suitable at the same part
// of the last cycle is taken.
type NaiveBayes struct {
	// Classify gives cycles, and for each step whether it suits.
	Classify func(sample.Series) (cycle.Result, []bool, error)
}

// Name implements Policy.
func (NaiveBayes) Name() string { return "naive Bayes" }

// Advise implements Policy.
func (n NaiveBayes) Advise(r Request) (Advice, error) {
	p, err := newPlanner(r)
	if err != nil {
		return Advice{}, err
	}
	now := p.best(r.Now)
	found, suits, err := n.Classify(r.Seen)
	switch {
	case err != nil:
		return Advice{}, fmt.Errorf("naive Bayes: %w", err)
	case len(found.Cycles) == 0 || r.Seen.Step <= 0 || found.Cycles[0].Period < r.Seen.Step:
		return p.advice(n.Name(), now, now, "start now: no cycle"), nil
	}
	period := int(found.Cycles[0].Period / r.Seen.Step)
	first := r.Seen.Index(r.Now)
	for i := range period {
		past := first + i
		for past >= len(suits) {
			past -= period
		}
		if past >= 0 && suits[past] {
			at := r.Now.Add(time.Duration(i) * r.Seen.Step)
			if at.After(p.last()) {
				break
			}
			return p.advice(n.Name(), now, p.best(at), "start at the next moment that suited in the last cycle"), nil
		}
	}
	return p.advice(n.Name(), now, now, "start now: no moment suited in the last cycle"), nil
}

// Oracle knows the future: what others are measured against.
type Oracle struct{ Truth forecast.Curve }

// Name implements Policy.
func (Oracle) Name() string { return "oracle" }

// starts is how many an oracle tries at most.
const starts = 400

// Advise implements Policy.
func (o Oracle) Advise(r Request) (Advice, error) {
	r.Curve, r.Past = o.Truth, nil
	p, err := newPlanner(r)
	if err != nil {
		return Advice{}, err
	}
	now := p.best(r.Now)
	c, room := now, p.last().Sub(r.Now)
	step := max(p.step, room/starts)
	for wait := step; wait < room; wait += step {
		then := p.best(r.Now.Add(wait))
		if then.score < c.score && wait.Seconds()+then.point.Duration <= room.Seconds() {
			c = then
		}
	}
	return p.advice(o.Name(), now, c, "start at the best of all moments"), nil
}
