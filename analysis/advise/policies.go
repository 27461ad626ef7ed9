package advise

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Policies are all of them, to be simulated beside each other: the oracle takes its truth from there.
func Policies(seed uint64) []Policy {
	return []Policy{Immediate{}, RandomDelay{Seed: seed}, LocalMinimum{}, NaiveBayes{}, Cycle{}, Oracle{}}
}

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
	// Classify gives cycles, and for each step whether it suits; nil is cycle.DetectALMA as it is.
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
	if r.Seen.Known() == 0 {
		return p.advice(n.Name(), now, now, "start now: nothing was seen"), nil
	}
	classify := n.Classify
	if classify == nil {
		classify = func(s sample.Series) (cycle.Result, []bool, error) { return cycle.DetectALMA(s, cycle.ALMAOptions{}) }
	}
	found, suits, err := classify(r.Seen)
	switch {
	case err != nil:
		return Advice{}, fmt.Errorf("naive Bayes: %w", err)
	case len(found.Cycles) == 0 || r.Seen.Step <= 0 || found.Cycles[0].Period < r.Seen.Step:
		return p.advice(n.Name(), now, now, "start now: no cycle"), nil
	}
	last := lastCycle{suits, int(found.Cycles[0].Period / r.Seen.Step), r.Seen.Index(r.Now)}
	for i := range last.period {
		at := r.Now.Add(time.Duration(i) * r.Seen.Step)
		if !last.at(i) || at.After(p.last()) {
			continue
		}
		if c := p.best(at); last.run(i, int(forecastTime(c.point.Duration)/r.Seen.Step)) {
			return p.advice(n.Name(), now, c, "start at the next moment that suited in the last cycle, for as long as it takes"), nil
		}
	}
	return p.advice(n.Name(), now, now, "start now: no moment suited in the last cycle for as long as it takes"), nil
}

// lastCycle looks suitable moments up at the same part of the last cycle; now is the step that is asked in.
type lastCycle struct {
	suits       []bool
	period, now int
}

func (l lastCycle) at(ahead int) bool {
	i := l.now + ahead
	if over := i - len(l.suits) + 1; over > 0 {
		i -= (over + l.period - 1) / l.period * l.period
	}
	return i >= 0 && i < len(l.suits) && l.suits[i]
}

// run tells whether so many steps suited, but for a tenth: noise makes single ones look otherwise.
func (l lastCycle) run(ahead, steps int) bool {
	off := 0
	for k := range min(steps, l.period) {
		if !l.at(ahead + k) {
			off++
		}
	}
	return 10*off <= steps
}

// Oracle knows the future: what others are measured against.
type Oracle struct{ Truth forecast.Curve }

// Name implements Policy.
func (Oracle) Name() string { return "oracle" }

// starts is how many an oracle tries at most.
const starts = 400

// Advise implements Policy.
func (o Oracle) Advise(r Request) (Advice, error) {
	if o.Truth == nil {
		return Advice{}, fmt.Errorf("an oracle without the truth: %w", ErrRequest)
	}
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
