package precopy

import (
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// DeciderConfig is what a Decider steers by. Zero fields take the default that is named.
type DeciderConfig struct {
	// Strategy is precopy, postcopy or hybrid.
	Strategy migrate.Strategy
	// MaxDowntime is the pause the user accepts; 0 is 300 ms, QEMU's own default. Only precopy needs it: what hybrid
	// leaves does not lengthen the pause.
	MaxDowntime time.Duration
	// SwitchCost is the part of the pause that is there however little RAM is left: device state, round trips.
	SwitchCost time.Duration
	// Shrink is the ratio of what is left after a round to what was left before it from which a round counts as flat.
	// 0 is 0.85.
	Shrink float64
	// Patience is the number of flat rounds in a row that end the rounds. 0 is 1 for hybrid, 5 for precopy.
	Patience int
	// MaxRounds ends them whatever the ratio. 0 is 8 for hybrid, 30 for precopy (Xen's 29 and the last).
	MaxRounds int
	// Timeout ends them whatever is left, and cuts a long round short. 0 is never.
	Timeout time.Duration
}

// Verdict is what to do next. Its zero value is invalid.
type Verdict uint8

// The verdicts. Leaving means that the next round leaves volatile pages for after the switch.
const (
	VerdictGoOn Verdict = iota + 1
	VerdictGoOnLeaving
	VerdictSwitch
	VerdictNoProgress
)

var verdictNames = [...]string{"", "go on", "go on, leaving volatile pages", "switch", "no progress"}

func (v Verdict) String() string {
	if int(v) < len(verdictNames) && v != 0 {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// Observation is how things stand after a round; Round 0 is after the first harvest. Sizes in bytes.
type Observation struct {
	Round   int
	Elapsed time.Duration
	// Left may differ from what the destination has; Calm is the part of it that hybrid's next round would send.
	Left, Calm int64
	// Sent came over the link in the last round, which took Took to fetch; the harvest at its end took Harvest.
	Sent          int64
	Took, Harvest time.Duration
	// Failed says why the last harvest failed; Left is everything then. Empty: it did not.
	Failed string
}

// Decision is a verdict with its reason.
type Decision struct {
	Verdict Verdict
	// Pause is what the switch would cost now, as far as it is known: a harvest, SwitchCost, and with precopy what is
	// left over the measured bandwidth. 0 is not known.
	Pause time.Duration
	Why   string
}

// Decider decides after each round whether another one is worth it. It is pure: the same observations give the same
// decisions. It is not safe for use by several goroutines.
//
// A round is judged by what it left: ratio = left(n) / left(n-1). A guest that writes faster than the link carries
// stays at 1 or above; one that converges is well below. Where the bandwidth changed by more than a quarter between two
// rounds, as when its cap is moved, the ratio says nothing of the guest and the round is not held against it.
type Decider struct {
	cfg       DeciderConfig
	before    int64 // what was left when the last round began; 0: not known
	bandwidth float64
	moved     bool // the bandwidth of the last round was another one than that before
	flat      int
	failures  int
}

// DefaultMaxDowntime is the pause that is accepted when none is named.
const DefaultMaxDowntime = 300 * time.Millisecond

// NewDecider fills in the defaults. It refuses a strategy that it does not know.
func NewDecider(cfg DeciderConfig) (*Decider, error) {
	patience, rounds := 1, 8
	switch cfg.Strategy {
	case migrate.StrategyPrecopy:
		patience, rounds = 5, 30
	case migrate.StrategyHybrid, migrate.StrategyPostcopy:
	default:
		return nil, fmt.Errorf("pre-copy: strategy %q is not one of precopy, postcopy, hybrid", cfg.Strategy)
	}
	if cfg.MaxDowntime <= 0 {
		cfg.MaxDowntime = DefaultMaxDowntime
	}
	if cfg.Shrink <= 0 {
		cfg.Shrink = 0.85
	}
	if cfg.Patience <= 0 {
		cfg.Patience = patience
	}
	if cfg.MaxRounds <= 0 {
		cfg.MaxRounds = rounds
	}
	return &Decider{cfg: cfg}, nil
}

// Bandwidth is bytes per second over the link in the last round that was long enough to tell; 0 is not known.
func (d *Decider) Bandwidth() int64 { return int64(d.bandwidth) }

// restart forgets how the rounds went, not how fast the link is.
func (d *Decider) restart() { d.before, d.flat, d.failures = 0, 0, 0 }

// TimeUp tells whether the rounds have to end now, also in the middle of one.
func (d *Decider) TimeUp(elapsed time.Duration) bool {
	return d.cfg.Timeout > 0 && elapsed >= d.cfg.Timeout
}

// Step takes how things stand and says what to do next.
func (d *Decider) Step(o Observation) Decision {
	d.measure(o)
	switch d.cfg.Strategy {
	case migrate.StrategyPostcopy:
		return Decision{Verdict: VerdictSwitch, Pause: d.cfg.SwitchCost + o.Harvest, Why: "post-copy: nothing is copied before the switch"}
	case migrate.StrategyHybrid:
		d.judge(o, o.Calm)
		return d.hybrid(o)
	}
	d.judge(o, o.Left)
	return d.precopy(o)
}

// Below these a round says more about latency than about bandwidth.
const (
	tellingBytes = 1 << 20
	tellingTime  = 50 * time.Millisecond
)

func (d *Decider) measure(o Observation) {
	d.moved = false
	if o.Sent <= 0 || o.Took <= 0 || d.bandwidth > 0 && o.Sent < tellingBytes && o.Took < tellingTime {
		return
	}
	now := float64(o.Sent) / o.Took.Seconds()
	d.moved = d.bandwidth > 0 && (now < 0.75*d.bandwidth || now > 1.25*d.bandwidth)
	d.bandwidth = now
}

// judge counts flat rounds. left is what the strategy wants to see shrink.
func (d *Decider) judge(o Observation, left int64) {
	switch {
	case o.Failed != "":
		d.failures++
		d.before = 0 // what is left is made up
		return
	case d.before > 0 && float64(left) < d.cfg.Shrink*float64(d.before):
		d.flat = 0
	case d.before > 0 && !d.moved:
		d.flat++
	}
	d.failures, d.before = 0, left
}

// travel is how long so many bytes take; false if the bandwidth is not known.
func (d *Decider) travel(bytes int64) (time.Duration, bool) {
	if bytes == 0 {
		return 0, true
	}
	if d.bandwidth <= 0 {
		return 0, false
	}
	return time.Duration(min(float64(bytes)/d.bandwidth*float64(time.Second), float64(1<<62))), true
}

func (d *Decider) hybrid(o Observation) Decision {
	out := Decision{Verdict: VerdictSwitch, Pause: d.cfg.SwitchCost + o.Harvest}
	rest, known := d.travel(o.Calm)
	switch {
	case o.Failed != "":
		out.Why = "the tracker failed, everything counts as dirty and goes after the switch: " + o.Failed
	case o.Left == 0:
		out.Why = "nothing is left"
	case d.TimeUp(o.Elapsed):
		out.Why = fmt.Sprintf("%v are over, %s left", d.cfg.Timeout, size(o.Left))
	case o.Round == 0:
		out.Verdict, out.Why = VerdictGoOn, fmt.Sprintf("first round: %s", size(o.Left))
	case o.Calm == 0:
		out.Why = fmt.Sprintf("all that is left, %s, is dirtied round after round", size(o.Left))
	case d.flat >= d.cfg.Patience:
		out.Why = fmt.Sprintf("rounds stopped shrinking, %s left", size(o.Left))
	case o.Round >= d.cfg.MaxRounds:
		out.Why = fmt.Sprintf("%d rounds are enough, %s left", d.cfg.MaxRounds, size(o.Left))
	case known && rest <= min(max(o.Harvest, time.Millisecond), 10*time.Millisecond):
		out.Why = fmt.Sprintf("another round costs more than it saves, %s left", size(o.Left))
	case o.Calm < o.Left:
		out.Verdict = VerdictGoOnLeaving
		out.Why = fmt.Sprintf("%s to send, %s dirtied round after round stay for after the switch", size(o.Calm), size(o.Left-o.Calm))
	default:
		out.Verdict, out.Why = VerdictGoOn, fmt.Sprintf("%s to send", size(o.Left))
	}
	return out
}

func (d *Decider) precopy(o Observation) Decision {
	fixed := d.cfg.SwitchCost + o.Harvest
	rest, known := d.travel(o.Left)
	pause := fixed + rest
	fits := known && pause <= d.cfg.MaxDowntime
	out := Decision{Verdict: VerdictSwitch}
	if known {
		out.Pause = pause
	}
	switch {
	case o.Failed != "":
		return d.broken(o)
	case o.Left == 0:
		out.Why = "nothing is left"
	case fits && rest <= (d.cfg.MaxDowntime-fixed)/4:
		out.Why = fmt.Sprintf("%s left make a pause of %v, well within %v", size(o.Left), brief(pause), d.cfg.MaxDowntime)
	case fits && d.over(o) != "":
		out.Why = fmt.Sprintf("%s left make a pause of %v, and %s", size(o.Left), brief(pause), d.over(o))
	case fits && d.flat > 0:
		out.Why = fmt.Sprintf("%s left make a pause of %v, and rounds stopped shrinking", size(o.Left), brief(pause))
	case d.over(o) != "":
		out.Verdict, out.Why = VerdictNoProgress, d.over(o)+": "+d.wants(o, fixed, known, pause)
	case d.flat >= d.cfg.Patience:
		out.Verdict = VerdictNoProgress
		out.Why = fmt.Sprintf("%d rounds in a row did not shrink: %s", d.flat, d.wants(o, fixed, known, pause))
	case o.Round == 0:
		out.Verdict, out.Why = VerdictGoOn, fmt.Sprintf("first round: %s", size(o.Left))
	default:
		out.Verdict, out.Why = VerdictGoOn, fmt.Sprintf("%s to send", size(o.Left))
	}
	return out
}

// broken is for a harvest that failed: once may be chance, twice is not.
func (d *Decider) broken(o Observation) Decision {
	if d.failures > 1 {
		return Decision{Verdict: VerdictNoProgress, Why: "the tracker failed twice in a row: " + o.Failed}
	}
	return Decision{Verdict: VerdictGoOn, Why: "the tracker failed, everything counts as dirty: " + o.Failed}
}

// over says which limit of the rounds is reached, if any.
func (d *Decider) over(o Observation) string {
	switch {
	case d.TimeUp(o.Elapsed):
		return fmt.Sprintf("%v are over", d.cfg.Timeout)
	case o.Round >= d.cfg.MaxRounds:
		return fmt.Sprintf("%d rounds were not enough", o.Round)
	}
	return ""
}

// wants says what stands between here and a switch.
func (d *Decider) wants(o Observation, fixed time.Duration, known bool, pause time.Duration) string {
	switch {
	case fixed >= d.cfg.MaxDowntime:
		return fmt.Sprintf("the switch alone takes %v, and %v are allowed", brief(fixed), d.cfg.MaxDowntime)
	case !known:
		return fmt.Sprintf("%s are left, and the bandwidth is not known", size(o.Left))
	}
	return fmt.Sprintf("%s left at %s/s make a pause of %v, and %v are allowed", size(o.Left), size(int64(d.bandwidth)), brief(pause), d.cfg.MaxDowntime)
}

func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

func brief(d time.Duration) time.Duration {
	if d > 10*time.Millisecond {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
