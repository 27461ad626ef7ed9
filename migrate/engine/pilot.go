package engine

import (
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Pilot decides, from the figures of a running pre-copy, when to accept a longer pause and when to go over to
// post-copy. It is pure: the same samples give the same moves. The zero value is not usable; see NewPilot.
//
// A round is judged when the next one starts, by what was dirty at its start:
//
//	shrink(n) = dirty(n) / dirty(n-1)
//
// dirty(n) being the largest remainder seen in round n. A guest that writes faster than the link carries has
// shrink ≥ 1 from the second round on; one that converges has it well below. This is the criterion of pre-copy's
// termination by writable working set (Clark et al., NSDI 2005, §4.2 and §5.3), with the remainder as the estimate.
type Pilot struct {
	cfg   PilotConfig
	round int64
	dirty map[int64]int64
	limit time.Duration
	step  int
	going bool // post-copy was asked for
	flat  int  // rounds in a row that did not shrink
}

// PilotConfig is what a Pilot steers by.
type PilotConfig struct {
	Strategy migrate.Strategy
	// MaxDowntime is the pause the user accepts; the ramp ends there.
	MaxDowntime time.Duration
	// Shrink is the ratio above which a round counts as not shrinking. 0 means 0.85.
	Shrink float64
	// Patience is the number of such rounds in a row before hybrid switches. 0 means 1.
	Patience int
	// MaxRounds ends hybrid's pre-copy whatever the ratio. 0 means 8.
	MaxRounds int64
	// Timeout forces the end of the copying: by a pause of any length, or by post-copy with TimeoutPostcopy. 0 is never.
	Timeout         time.Duration
	TimeoutPostcopy bool
}

// AnyDowntime is the limit that makes QEMU switch at once, however much is left; it is the largest that QEMU takes.
const AnyDowntime = 2000 * time.Second

// Ramp gives the share of MaxDowntime that is accepted at each step: a guest that converges pauses for less than the
// user allowed, one that does not is given more with every round that fails to shrink.
var ramp = [...]float64{0.25, 0.5, 0.75, 1}

// Sample is one reading of the running migration.
type Sample struct {
	// At is the time since the copying began.
	At     time.Duration
	Status string
	// Round counts pre-copy passes from 1; 0 means that RAM is not being sent yet.
	Round int64
	// Remaining is what is still to be sent in bytes; negative if not known.
	Remaining int64
	// Bandwidth in bytes per second; 0 if not known.
	Bandwidth int64
}

// SampleOf takes from a driver's figures what the Pilot steers by.
func SampleOf(s migrate.Stats) Sample {
	out := Sample{Status: s.Status, Remaining: -1}
	if s.RAMRemaining != nil {
		out.Remaining = *s.RAMRemaining
	}
	if s.Round != nil {
		out.Round = *s.Round
	}
	if s.Bandwidth != nil {
		out.Bandwidth = *s.Bandwidth
	}
	return out
}

// Move is one decision.
type Move struct {
	// Postcopy asks for the switch to post-copy.
	Postcopy bool
	// Downtime is a new limit of the pause; 0 leaves it.
	Downtime time.Duration
	// Why says it in words for the report.
	Why string
}

// NewPilot fills in the defaults.
func NewPilot(cfg PilotConfig) *Pilot {
	if cfg.Shrink == 0 {
		cfg.Shrink = 0.85
	}
	if cfg.Patience == 0 {
		cfg.Patience = 1
	}
	if cfg.MaxRounds == 0 {
		cfg.MaxRounds = 8
	}
	if cfg.MaxDowntime == 0 {
		cfg.MaxDowntime = DefaultMaxDowntime
	}
	p := &Pilot{cfg: cfg, dirty: map[int64]int64{}}
	p.limit = p.rampAt(0)
	return p
}

// DefaultMaxDowntime is the pause that is accepted if the user names none; it is QEMU's own default.
const DefaultMaxDowntime = 300 * time.Millisecond

// Downtime is the limit that is in force now.
func (p *Pilot) Downtime() time.Duration { return p.limit }

func (p *Pilot) rampAt(step int) time.Duration {
	d := time.Duration(float64(p.cfg.MaxDowntime) * ramp[step])
	return max(d.Round(time.Millisecond), time.Millisecond)
}

// Refused tells the pilot that the switch it asked for was refused, so that it asks again.
func (p *Pilot) Refused() { p.going = false }

// Step takes one sample and gives the moves it calls for, in order; usually none.
func (p *Pilot) Step(s Sample) []Move {
	if s.Round < 1 || s.Remaining < 0 || p.going || !activeStatus(s.Status) {
		return nil
	}
	if p.cfg.Strategy == migrate.StrategyPostcopy {
		p.going = true
		return []Move{{Postcopy: true, Why: "post-copy was asked for"}}
	}
	if p.cfg.Timeout > 0 && s.At >= p.cfg.Timeout {
		return p.force()
	}
	p.dirty[s.Round] = max(p.dirty[s.Round], s.Remaining)
	if s.Round <= p.round {
		return nil
	}
	p.round = s.Round
	return p.judge(s)
}

// force ends the copying because its time is up.
func (p *Pilot) force() []Move {
	p.going = true
	if p.cfg.TimeoutPostcopy && p.cfg.Strategy.Postcopy() {
		return []Move{{Postcopy: true, Why: fmt.Sprintf("%v are over: post-copy", p.cfg.Timeout)}}
	}
	p.limit = AnyDowntime
	return []Move{{Downtime: p.limit, Why: fmt.Sprintf("%v are over: the guest is suspended", p.cfg.Timeout)}}
}

// judge looks at the round that a new one has just closed.
func (p *Pilot) judge(s Sample) []Move {
	round := s.Round
	before, now := p.dirty[round-1], p.dirty[round]
	if before == 0 {
		return nil // the first round has nothing to be compared with
	}
	ratio := float64(now) / float64(before)
	if ratio >= p.cfg.Shrink {
		p.flat++
	} else {
		p.flat = 0
	}
	switch {
	case p.flat > 0 && p.step < len(ramp)-1 && s.Bandwidth > 0 && p.pause(s) <= p.cfg.MaxDowntime:
		return p.accept(s, ratio)
	case p.cfg.Strategy == migrate.StrategyHybrid && p.flat >= p.cfg.Patience:
		p.going = true
		return []Move{{Postcopy: true, Why: fmt.Sprintf("round %d starts with %.0f %% of what round %d started with: rounds stopped shrinking", round, ratio*100, round-1)}}
	case p.cfg.Strategy == migrate.StrategyHybrid && round > p.cfg.MaxRounds:
		p.going = true
		return []Move{{Postcopy: true, Why: fmt.Sprintf("%d rounds are enough", p.cfg.MaxRounds)}}
	case p.flat > 0 && p.step < len(ramp)-1:
		return p.accept(s, ratio)
	}
	return nil
}

// pause is how long the guest would stand still if it were stopped now.
func (p *Pilot) pause(s Sample) time.Duration {
	return time.Duration(float64(s.Remaining) / float64(s.Bandwidth) * float64(time.Second))
}

// accept goes up the ramp: a step, or as many as the rest needs.
func (p *Pilot) accept(s Sample, ratio float64) []Move {
	p.step++
	for s.Bandwidth > 0 && p.step < len(ramp)-1 && p.rampAt(p.step) < p.pause(s) {
		p.step++
	}
	p.limit = p.rampAt(p.step)
	return []Move{{Downtime: p.limit, Why: fmt.Sprintf("round %d did not shrink (%.0f %%): a pause of %v is accepted", s.Round, ratio*100, p.limit)}}
}

func activeStatus(status string) bool { return status == "active" || status == "" }
