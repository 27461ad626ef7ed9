package advise

import (
	"time"
)

// Cycle is the policy that waits for the part of the guest's cycle that suits.
type Cycle struct {
	// Gain is the least share of what starting now costs that waiting has to save; 0 is DefaultGain.
	Gain float64
	// Doubt is how much of the high end's distance to what is expected has to be saved on top; 0 is DefaultDoubt.
	Doubt float64
}

// What Cycle waits for where nothing else is said.
const (
	DefaultGain  = 0.05
	DefaultDoubt = 0.1
	leastGain    = 0.25 // seconds of score
	coarse       = 128  // starts that are tried first
	fine         = 8    // and between two of them, around the best
	same         = 0.01 // of two starts that differ by less the earlier is taken
)

// Name implements Policy.
func (Cycle) Name() string { return "cycle" }

// Advise implements Policy.
func (c Cycle) Advise(r Request) (Advice, error) {
	p, err := newPlanner(r)
	if err != nil {
		return Advice{}, err
	}
	now := p.best(r.Now)
	if p.period == 0 {
		return p.advice(c.Name(), now, now, p.noCycle()), nil
	}
	room := min(p.last().Sub(r.Now), p.period+p.step)
	for range 4 {
		then := p.search(now, room)
		if then.start.Equal(r.Now) {
			break
		}
		cost := p.cost(then)
		if !p.inTime(cost) {
			room = p.Deadline.Sub(r.Now) - cost.Duration.High
			continue
		}
		if gain, asked := now.score-then.score, c.asked(p, now, then); gain <= asked {
			return p.advice(c.Name(), now, now, p.notWorth(now, then)), nil
		}
		return p.advice(c.Name(), now, then, p.worth(now, then)), nil
	}
	return p.advice(c.Name(), now, now, p.goodNow()), nil
}

// asked is what has to be gained for a wait to be worth it.
func (c Cycle) asked(p *planner, now, then choice) float64 {
	gain, doubt := c.Gain, c.Doubt
	if gain == 0 {
		gain = DefaultGain
	}
	if doubt == 0 {
		doubt = DefaultDoubt
	}
	cost := p.cost(then)
	high := cost.Expected()
	high.Duration, high.Downtime = cost.Duration.High.Seconds(), cost.Downtime.High.Seconds()
	high.Bytes, high.SlowFor = cost.Bytes.High, cost.SlowFor.High.Seconds()
	return max(gain*now.score, leastGain) + doubt*(p.Weights.Score(high, p.Link)-then.score)
}

// search tries starts within so much time, and finely around the best; of equals the earliest.
func (p *planner) search(now choice, room time.Duration) choice {
	step := max(p.step, room/coarse)
	best := p.scan(now, now.start.Add(step), room, step)
	for step > p.step && best.start.After(now.start) {
		near := max(p.step, step/fine)
		from := best.start.Add(-step)
		if from.Before(now.start) {
			from = now.start
		}
		best = p.scan(best, from, min(room, best.start.Sub(now.start)+step), near)
		step = near
	}
	return best
}

// scan tries starts from one on until so long after now. Of those that are the same as the least it takes the first.
func (p *planner) scan(best choice, from time.Time, room time.Duration, step time.Duration) choice {
	var tried []choice
	least := best.score
	for at := from; at.Sub(p.Now) <= room && step > 0; at = at.Add(step) {
		c := p.best(at)
		if !p.Deadline.IsZero() && at.Sub(p.Now).Seconds()+c.point.Duration > p.Deadline.Sub(p.Now).Seconds() {
			continue
		}
		tried = append(tried, c)
		least = min(least, c.score)
	}
	if best.start.Equal(p.Now) && best.score <= least*(1+same) {
		return best
	}
	for _, c := range tried {
		if c.score <= least*(1+same) {
			return c
		}
	}
	return best
}
