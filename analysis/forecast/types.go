package forecast

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Range is what is expected, and between what it is likely to be. Low ≤ Expected ≤ High.
type Range struct{ Low, Expected, High float64 }

func (r Range) scale(by float64) Range { return Range{r.Low * by, r.Expected * by, r.High * by} }

// Span is a Range of times.
type Span struct{ Low, Expected, High time.Duration }

func spanOf(r Range) Span { return Span{seconds(r.Low), seconds(r.Expected), seconds(r.High)} }

// Range gives it in seconds.
func (s Span) Range() Range { return Range{s.Low.Seconds(), s.Expected.Seconds(), s.High.Seconds()} }

// forever stands for times that nobody waits for; sums of a few of them fit a time.Duration.
const forever = 1e9

func seconds(s float64) time.Duration {
	return time.Duration(math.Round(min(max(s, 0), forever) * float64(time.Second)))
}

// Curve is what a guest is expected to write.
type Curve interface {
	// Dirtied is the distinct bytes of RAM written within a window that begins at from.
	Dirtied(from time.Time, window time.Duration) Range
	// DiskWrites is the bytes written to disks within it, every write counted.
	DiskWrites(from time.Time, window time.Duration) Range
}

// Guest is what would travel.
type Guest struct {
	// RAM is all of it; NonZero is the part that is not zero, 0 where that is not known.
	RAM, NonZero int64
	// Least is what of it is other than zero at the least, where NonZero is no more than a bound; 0 is NonZero.
	Least int64
	// Disks is the bytes of disks that would be copied.
	Disks int64
}

// once is what a single pass over the guest's RAM sends.
func (g Guest) once() float64 {
	if g.NonZero > 0 {
		return float64(min(g.NonZero, g.RAM))
	}
	return float64(g.RAM)
}

// least is that guest with no more RAM in use than there has to be.
func (g Guest) least() Guest {
	if g.Least > 0 {
		g.NonZero = min(g.Least, int64(g.once()))
	}
	return g
}

// Link is the way between both hosts.
type Link struct {
	// Bandwidth in bytes per second.
	Bandwidth float64
	// Still is what it carries while the guest stands still, where that is more, since the guest's processors do the sending then;
	// 0 is Bandwidth.
	Still float64
	RTT   time.Duration
	// Spread is by what share the bandwidth may be lower or higher; 0 is DefaultSpread.
	Spread float64
}

// DefaultSpread is how far the bandwidth of a link strays where nobody says.
const DefaultSpread = 0.05

func (l Link) spread() float64 {
	if l.Spread > 0 {
		return min(l.Spread, 0.9)
	}
	return DefaultSpread
}

// The engines and strategies that can be forecast.
const (
	EngineNative     = "native"
	EngineNBD        = "nbd"
	StrategyPrecopy  = "precopy"
	StrategyPostcopy = "postcopy"
	StrategyHybrid   = "hybrid"
)

// Way is how a guest is migrated.
type Way struct{ Engine, Strategy string }

func (w Way) String() string { return w.Engine + "/" + w.Strategy }

// Ways are all of them.
func Ways() []Way {
	var out []Way
	for _, engine := range []string{EngineNative, EngineNBD} {
		for _, strategy := range []string{StrategyPrecopy, StrategyPostcopy, StrategyHybrid} {
			out = append(out, Way{engine, strategy})
		}
	}
	return out
}

// Overhead is what a migration costs besides moving bytes. Zero fields take what was measured in the lab (see the README).
type Overhead struct {
	// Setup is from the command to the first byte of RAM: definitions, the destination's QEMU, agents.
	Setup time.Duration
	// End is from the last byte to the end of the command.
	End time.Duration
	// Pause is the part of the pause that is there however little is left: device state, round trips.
	Pause time.Duration
	// InFlight is bytes that were handed to the network before the pause of a pre-copy, and go within it.
	InFlight float64
	// DiskPause is added to it where disks travel.
	DiskPause time.Duration
	// Scan is bytes of RAM per second that are looked at to find zero pages.
	Scan float64
}

func (o Overhead) of(w Way) Overhead {
	d := Overhead{Setup: 430 * time.Millisecond, End: 310 * time.Millisecond, Pause: 12 * time.Millisecond, InFlight: 2.2e6, DiskPause: 25 * time.Millisecond, Scan: 8 << 30}
	if w.Engine == EngineNBD {
		d.Setup, d.End = 530*time.Millisecond, 350*time.Millisecond
		d.Pause, d.InFlight = 20*time.Millisecond, 0.8e6
	}
	pick(&d.Setup, o.Setup)
	pick(&d.End, o.End)
	pick(&d.Pause, o.Pause)
	pick(&d.DiskPause, o.DiskPause)
	if o.InFlight > 0 {
		d.InFlight = o.InFlight
	}
	if o.Scan > 0 {
		d.Scan = o.Scan
	}
	return d
}

func pick(to *time.Duration, v time.Duration) {
	if v > 0 {
		*to = v
	}
}

// DefaultMaxDowntime is the pause that is accepted when none is named.
const DefaultMaxDowntime = 300 * time.Millisecond

// Limits is what the user accepts.
type Limits struct {
	// MaxDowntime is the longest pause; 0 is DefaultMaxDowntime.
	MaxDowntime time.Duration
	// Throttle lets a guest be slowed down that writes faster than the link carries (native pre-copy).
	Throttle bool
	Overhead Overhead
}

func (l Limits) pause() float64 {
	if l.MaxDowntime > 0 {
		return l.MaxDowntime.Seconds()
	}
	return DefaultMaxDowntime.Seconds()
}

// Cost is what a migration is expected to cost.
type Cost struct {
	Way
	Start time.Time
	// Duration is from the command to its end, Downtime the pause.
	Duration, Downtime Span
	// Bytes travel for RAM and disks.
	Bytes Range
	// SlowFor is how long the guest runs on pages that are still away, or throttled.
	SlowFor Span
	// Converges is how likely the rounds come to an end that fits the accepted pause: 1 for strategies that need not.
	Converges float64
	// Rounds of RAM that are expected.
	Rounds int
	// Why says it in words.
	Why string
}

var (
	// ErrWay is given for a way that is not one of Ways.
	ErrWay = errors.New("not a way to migrate that can be forecast")
	// ErrGuest is given for sizes and links that cannot be.
	ErrGuest = errors.New("cannot be forecast")
)

// Check says what makes a forecast impossible.
func Check(w Way, g Guest, l Link) error {
	switch {
	case w.Engine != EngineNative && w.Engine != EngineNBD:
		return fmt.Errorf("engine %q: %w", w.Engine, ErrWay)
	case w.Strategy != StrategyPrecopy && w.Strategy != StrategyPostcopy && w.Strategy != StrategyHybrid:
		return fmt.Errorf("strategy %q: %w", w.Strategy, ErrWay)
	case g.RAM <= 0 || g.NonZero < 0 || g.Least < 0 || g.Disks < 0:
		return fmt.Errorf("a guest of %d bytes of RAM, %d not zero, %d of disks: %w", g.RAM, g.NonZero, g.Disks, ErrGuest)
	case !(l.Bandwidth >= 1) || math.IsInf(l.Bandwidth, 0) || l.RTT < 0:
		return fmt.Errorf("a link of %g bytes/s and %s: %w", l.Bandwidth, l.RTT, ErrGuest)
	}
	return nil
}
