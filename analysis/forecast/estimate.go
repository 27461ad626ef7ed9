package forecast

import (
	"fmt"
	"math"
	"time"
)

// What rounds are judged by; the engines' own figures.
const (
	shrink       = 0.85 // from this share of the last round on, a round counts as flat
	roundsHybrid = 8
	roundsMost   = 30
	roundsQEMU   = 60
	slice        = 0.025 // seconds for which QEMU sends before it looks at what is left, on average
)

// ramp is what share of the accepted pause native pre-copy begins with, and goes to with each round that is flat.
var ramp = [...]float64{0.25, 0.5, 0.75, 1}

// outcome is a migration played through once.
type outcome struct {
	duration, pause, bytes, slow float64
	converged                    bool
	rounds                       int
}

// play is a migration that is played through: a guest that writes so much, a link that carries so much.
type play struct {
	way        Way
	guest      Guest
	bandwidth  float64
	still      float64
	rtt        float64
	pause      float64
	throttle   bool
	over       Overhead
	start      time.Time
	dirtied    func(from time.Time, window time.Duration) float64
	diskWrites func(from time.Time, window time.Duration) float64
}

// from is the time so many seconds after the start.
func (p *play) from(at float64) time.Time { return p.start.Add(seconds(at)) }

func (p *play) dirty(at, window float64) float64 {
	return min(max(p.dirtied(p.from(at), seconds(window)), 0), float64(p.guest.RAM))
}

func (p *play) run() outcome {
	o := outcome{converged: true}
	at := p.disks(&o, p.over.Setup.Seconds())
	o.pause = p.over.Pause.Seconds() + 2*p.rtt
	if p.guest.Disks > 0 {
		o.pause += p.over.DiskPause.Seconds()
	}
	switch p.way.Strategy {
	case StrategyPostcopy:
		at = p.page(&o, at, p.guest.once())
	case StrategyHybrid:
		if p.way.Engine == EngineNative {
			at = p.qemu(&o, at)
		} else {
			at = p.hybrid(&o, at)
		}
	default:
		if p.way.Engine == EngineNative {
			at = p.qemu(&o, at)
		} else {
			at = p.precopy(&o, at)
		}
	}
	o.duration = at + o.pause + p.over.End.Seconds()
	return o
}

// disks are copied before RAM, and what the guest writes to them meanwhile goes as well.
func (p *play) disks(o *outcome, at float64) float64 {
	if p.guest.Disks == 0 {
		return at
	}
	left := float64(p.guest.Disks)
	for range roundsMost {
		took := left / p.bandwidth
		o.bytes += left
		left = max(p.diskWrites(p.from(at), seconds(took)), 0)
		at += took
		if left < 1<<20 {
			break
		}
	}
	return at
}

// round sends so much beside what the guest's disks are written, and says how long that takes.
func (p *play) round(o *outcome, at, bytes float64) float64 {
	if p.guest.Disks > 0 {
		took := bytes / p.bandwidth
		writes := min(max(p.diskWrites(p.from(at), seconds(took)), 0), bytes)
		o.bytes += writes
		return (bytes + writes) / p.bandwidth
	}
	return bytes / p.bandwidth
}

// page fetches what is missing at the destination, where the guest runs already.
func (p *play) page(o *outcome, at, left float64) float64 {
	took := left / p.bandwidth
	o.bytes += left
	o.slow += took
	return at + took
}

// first is the time of the first round, which also looks at all pages.
func (p *play) first(o *outcome, at, bytes float64) float64 {
	return max(p.round(o, at, bytes), float64(p.guest.RAM)/p.over.Scan)
}

// hybrid goes on while rounds shrink; what is left then is paged in.
func (p *play) hybrid(o *outcome, at float64) float64 {
	left := p.guest.once()
	for o.rounds < roundsHybrid {
		took := p.next(o, at, left)
		after := p.dirty(at, took)
		at += took
		flat := after >= shrink*left
		left = after
		if flat || left/p.bandwidth < 0.01 {
			break
		}
	}
	return p.page(o, at, left)
}

// next is a round that sends so much.
func (p *play) next(o *outcome, at, bytes float64) (took float64) {
	took = p.round(o, at, bytes)
	if o.rounds == 0 {
		took = p.first(o, at, bytes)
	}
	o.bytes += bytes
	o.rounds++
	return took
}

// precopy is agents': it goes on until the rest fits the accepted pause.
func (p *play) precopy(o *outcome, at float64) float64 {
	left, flat := p.guest.once(), 0
	for o.rounds < roundsMost && flat < patience {
		took := p.next(o, at, left)
		after := p.dirty(at, took)
		at += took
		if flat++; after < shrink*left {
			flat = 0
		}
		left = after
		if left/p.bandwidth <= p.fits(flat, o.pause) {
			return p.stop(o, at, left)
		}
	}
	o.converged = false
	return p.stop(o, at, left)
}

// qemu is pre-copy by QEMU, and hybrid as long as that is pre-copy. QEMU looks anew at what was written as soon as the rest that
// it knows of fits the accepted pause, and stops the guest if all fits then: so the pause is mostly used up, however little the
// guest writes. The share of the pause that is accepted is ours, and grows with rounds that do not shrink.
func (p *play) qemu(o *outcome, at float64) float64 {
	left, step, slowed := p.guest.once(), 0, 1.0
	hybrid := p.way.Strategy == StrategyHybrid
	for o.rounds < roundsQEMU && !(hybrid && o.rounds > roundsHybrid) {
		if left <= ramp[step]*p.pause*p.bandwidth {
			return p.stop(o, at, left)
		}
		keeps := min(max(ramp[step]*p.pause-slice, 0)*p.bandwidth, left)
		took := p.next(o, at, left-keeps)
		after := min(keeps+p.dirty(at, took)*slowed, float64(p.guest.RAM))
		at += took
		if slowed < 1 {
			o.slow += took
		}
		flat := o.rounds > 1 && after >= shrink*left
		left = after
		if flat && hybrid && left > p.pause*p.bandwidth {
			return p.page(o, at, left)
		}
		if flat {
			step = max(min(step+1, len(ramp)-1), p.rampFor(left))
		}
		if p.throttle && flat {
			slowed = max(0.01, slowed-0.1)
		}
	}
	if hybrid {
		return p.page(o, at, left)
	}
	o.converged = false
	return p.stop(o, at, left)
}

// stop sends the rest within the pause.
func (p *play) stop(o *outcome, at, left float64) float64 {
	o.bytes += left
	o.pause += (left + p.over.InFlight) / p.still
	return at
}

// patience is how many flat rounds in a row agents' pre-copy takes before it gives up; QEMU's goes on.
const patience = 5

// fits is the rest that is accepted by agents, as time: what the pause costs anyway counts, and while rounds shrink a quarter is
// taken.
func (p *play) fits(flat int, fixed float64) float64 {
	if flat > 0 {
		return p.pause - fixed
	}
	return (p.pause - fixed) / 4
}

// rampFor is the first step at which so much fits, else the last.
func (p *play) rampFor(left float64) int {
	for i, share := range ramp {
		if left/p.bandwidth <= share*p.pause {
			return i
		}
	}
	return len(ramp) - 1
}

// Estimate says what a migration that starts then would cost. What cannot be forecast (see Check) costs forever, and Why says so.
func Estimate(start time.Time, w Way, g Guest, l Link, c Curve, lim Limits) Cost {
	cost := Cost{Way: w, Start: start}
	if err := Check(w, g, l); err != nil {
		cost.Why = err.Error()
		cost.Duration, cost.Downtime = Span{High: seconds(forever)}, Span{High: seconds(forever)}
		return cost
	}
	low := newPlay(start, w, g.least(), l, lim, 1+l.spread(), pickOf(c, 0)).run()
	mid := newPlay(start, w, g, l, lim, 1, pickOf(c, 1)).run()
	high := newPlay(start, w, g, l, lim, 1-l.spread(), pickOf(c, 2)).run()
	of := func(f func(outcome) float64, give, share float64) Range {
		return wrap(f(low), f(mid), f(high), give+share*f(mid))
	}
	cost.Duration = spanOf(of(func(o outcome) float64 { return o.duration }, 0.15, 0.1))
	cost.Downtime = spanOf(of(func(o outcome) float64 { return o.pause }, 0.010, 0.5))
	cost.Bytes = of(func(o outcome) float64 { return o.bytes }, 0, 0.05)
	cost.SlowFor = spanOf(of(func(o outcome) float64 { return o.slow }, 0, 0))
	cost.Converges = converges(low, mid, high)
	cost.Rounds = mid.rounds
	cost.Why = why(cost, mid, lim)
	return cost
}

// wrap makes a range of three runs; a run with more writes may stop earlier and so cost less. give is the least half width.
func wrap(a, mid, b, give float64) Range {
	return Range{max(min(a, mid, b)-give, 0), mid, max(a, mid, b) + give}
}

func converges(low, mid, high outcome) float64 {
	share := 0.0
	for _, c := range []struct {
		o outcome
		w float64
	}{{low, 0.25}, {mid, 0.5}, {high, 0.25}} {
		if c.o.converged {
			share += c.w
		}
	}
	return share
}

// picked are a curve's two sides at one end of their ranges.
type picked struct {
	dirtied, diskWrites func(time.Time, time.Duration) float64
}

func pickOf(c Curve, end int) picked {
	if f, ok := c.(*Folded); ok && end == 1 {
		return picked{f.dirtied, f.diskWrites}
	}
	at := func(r Range) float64 { return [...]float64{r.Low, r.Expected, r.High}[end] }
	return picked{
		func(t time.Time, w time.Duration) float64 { return at(c.Dirtied(t, w)) },
		func(t time.Time, w time.Duration) float64 { return at(c.DiskWrites(t, w)) },
	}
}

func newPlay(start time.Time, w Way, g Guest, l Link, lim Limits, bandwidth float64, c picked) *play {
	return &play{
		way: w, guest: g, bandwidth: l.Bandwidth * bandwidth, still: max(l.Still, l.Bandwidth) * bandwidth, rtt: l.RTT.Seconds(), pause: lim.pause(), throttle: lim.Throttle,
		over: lim.Overhead.of(w), start: start, dirtied: c.dirtied, diskWrites: c.diskWrites,
	}
}

// Point is a forecast without ranges.
type Point struct {
	Duration, Downtime, SlowFor float64 // seconds
	Bytes                       float64
	Converges                   bool
}

// Expect is Estimate's expected values alone, at a third of the work, for those who try many starts. The way, guest and link
// have to pass Check.
func Expect(start time.Time, w Way, g Guest, l Link, c Curve, lim Limits) Point {
	o := newPlay(start, w, g, l, lim, 1, pickOf(c, 1)).run()
	return Point{o.duration, o.pause, o.slow, o.bytes, o.converged}
}

// Expected gives the expected values of a cost.
func (c Cost) Expected() Point {
	return Point{c.Duration.Expected.Seconds(), c.Downtime.Expected.Seconds(), c.SlowFor.Expected.Seconds(), c.Bytes.Expected, c.Converges >= 0.5}
}

func why(c Cost, o outcome, lim Limits) string {
	switch {
	case c.Strategy == StrategyPostcopy:
		return fmt.Sprintf("each page goes once, and the guest runs on missing pages for %s", brief(c.SlowFor.Expected))
	case c.Strategy == StrategyHybrid && o.slow == 0:
		return fmt.Sprintf("%d rounds, and the rest fits the pause", o.rounds)
	case c.Strategy == StrategyHybrid:
		return fmt.Sprintf("%d rounds, and the guest runs on missing pages for %s", o.rounds, brief(c.SlowFor.Expected))
	case !o.converged:
		return fmt.Sprintf("after %d rounds what is left needs a pause of %s, and %s are accepted", o.rounds, brief(c.Downtime.Expected), brief(seconds(lim.pause())))
	}
	return fmt.Sprintf("%d rounds until the rest fits a pause of %s", o.rounds, brief(seconds(lim.pause())))
}

func brief(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second)
	case d >= time.Second:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

// finite is whether a value may be used.
func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
