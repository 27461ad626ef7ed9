package precopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Harvester reads and re-arms the set of pages that were written since the last call, and tells how long that took. The
// first call gives every page that is no hole. On an error nothing is known of any page.
type Harvester interface {
	Harvest(ctx context.Context) (dirty ram.Set, took time.Duration, err error)
}

// Fetcher brings the pages of the set to the destination as they are now or later. It returns when all are there. On an
// error some may be there and some not; what it returns besides is counted.
type Fetcher interface {
	Fetch(ctx context.Context, pages ram.Set) (Fetched, error)
}

// Fetched are figures of one Fetch: pages that came with contents and pages that were zero and came without, bytes over
// the link, and the time it took.
type Fetched struct {
	Pages, ZeroPages, Bytes int64
	Took                    time.Duration
}

func (f *Fetched) add(g Fetched) {
	f.Pages += g.Pages
	f.ZeroPages += g.ZeroPages
	f.Bytes += g.Bytes
	f.Took += g.Took
}

// ErrNotConverging is wrapped by Run's error when pre-copy reached a limit and what is left does not fit into the pause.
// The guest runs on; the caller may switch all the same, call Run again, or give up.
var ErrNotConverging = errors.New("pre-copy does not converge")

// Config is what Rounds needs. Blocks, Harvester, Fetcher and Decider.Strategy have to be set.
type Config struct {
	Blocks    []ram.Block
	Harvester Harvester
	Fetcher   Fetcher
	Decider   DeciderConfig
	// Slice is how long a round copies, about, before it looks for pages that were written meanwhile. 0 is a second.
	Slice time.Duration
	// MaxHot bounds Result.Hot. 0 is 4096.
	MaxHot int
	// Begin is told of each round when it begins, with its number and what is known from the rounds before; Observe of
	// each round, the first harvest included, when it was decided on. Both run in Run's goroutine and must not block.
	Begin, Observe func(Round)
	Log            *slog.Logger
}

// Round is one pass over what was left, and what was decided after it. Number 0 is the first harvest alone.
type Round struct {
	Number int
	Fetched
	// Slices is how many calls of the Fetcher there were.
	Slices int
	// Harvest is how long the harvest at the round's end took.
	Harvest time.Duration
	// Dirtied were written during the round, Left may differ from what the destination has, and Volatile is the part of
	// Left that was written in each of the last rounds. In bytes.
	Dirtied, Left, Volatile int64
	// DirtyRate is Dirtied over the round's time, in bytes per second; 0 is not known. In Begin it is that of the round
	// before.
	DirtyRate int64
	Decision  Decision
}

// Result is how the rounds ended. The caller owns it.
type Result struct {
	// Left are the pages that the destination lacks or that may differ there.
	Left ram.Set
	// Hot lists pages of Left that were written before, latest and most often first.
	Hot     []PageRef
	Rounds  []Round
	Verdict Verdict
	Why     string
}

// Rounds copies the RAM of a running guest, round by round. It is not safe for use by several goroutines.
type Rounds struct {
	cfg     Config
	decider *Decider
	history *history
	left    ram.Set
	// harvested is set once the harvester was asked, begun once Run got past the first harvest.
	harvested, begun bool
	slice            int64 // bytes to fetch before the next harvest
	current          Round
	failed           error // why the last harvest failed
	rounds           []Round
}

const (
	defaultSlice  = time.Second
	defaultMaxHot = 4096
	// firstSlice is fetched to learn how fast fetching is.
	firstSlice = 64 << 20
)

// New checks the configuration. Nothing is harvested or fetched before Run.
func New(cfg Config) (*Rounds, error) {
	if len(cfg.Blocks) == 0 || cfg.Harvester == nil || cfg.Fetcher == nil {
		return nil, errors.New("pre-copy: blocks, a harvester and a fetcher are needed")
	}
	for _, b := range cfg.Blocks {
		if err := b.Check(); err != nil {
			return nil, fmt.Errorf("pre-copy: %w", err)
		}
	}
	d, err := NewDecider(cfg.Decider)
	if err != nil {
		return nil, err
	}
	if cfg.Slice <= 0 {
		cfg.Slice = defaultSlice
	}
	if cfg.MaxHot <= 0 {
		cfg.MaxHot = defaultMaxHot
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	r := &Rounds{cfg: cfg, decider: d, history: newHistory(cfg.Blocks), left: ram.NewSet(cfg.Blocks), slice: firstSlice}
	r.left.Fill() // nothing is known yet
	return r, nil
}

// Run copies until the Decider says switch, and returns with the guest still running. The result is valid with an error,
// too: ErrNotConverging, the error of a fetch, or that of ctx, after which Run may be called again. It goes on from what
// is left; the limits on rounds and time count anew.
func (r *Rounds) Run(ctx context.Context) (Result, error) {
	began := time.Now()
	clock := func() time.Duration { return time.Since(began) }
	r.decider.restart()
	first := r.next()
	dirtied := ram.NewSet(r.cfg.Blocks)
	if err := r.harvest(ctx, dirtied); err != nil {
		return r.result(Decision{}), err
	}
	if r.begun && r.failed == nil {
		r.history.add(dirtied) // the first harvest says nothing of who writes what
	}
	r.begun = true
	for {
		d := r.decide(r.current.Number-first, clock())
		switch d.Verdict {
		case VerdictSwitch:
			return r.result(d), nil
		case VerdictNoProgress:
			return r.result(d), r.noProgress(d)
		}
		r.next()
		if r.cfg.Begin != nil {
			r.cfg.Begin(r.current)
		}
		if err := r.round(ctx, d.Verdict == VerdictGoOnLeaving, clock); err != nil {
			r.rounds = append(r.rounds, r.current)
			return r.result(Decision{}), err
		}
	}
}

// next begins a round and gives its number.
func (r *Rounds) next() int {
	n := 0
	if r.begun {
		n = r.current.Number + 1
	}
	r.current = Round{Number: n, Left: r.current.Left, Volatile: r.current.Volatile, DirtyRate: r.current.DirtyRate}
	return n
}

func (r *Rounds) noProgress(d Decision) error {
	if r.failed != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotConverging, d.Why, r.failed)
	}
	return fmt.Errorf("%w: %s", ErrNotConverging, d.Why)
}

// Final harvests once more, for when the guest stands still after Run, and says what is left then. If the harvest fails
// that is everything, and the error says why. Pages that the caller fetched itself after Run are not known to it.
func (r *Rounds) Final(ctx context.Context) (Result, error) {
	dirtied := ram.NewSet(r.cfg.Blocks)
	err := r.harvest(ctx, dirtied)
	if err == nil {
		err = r.failed
	}
	if err == nil {
		r.history.add(dirtied)
	}
	return r.result(Decision{}), err
}

// decide closes the current round, one of so many since Run began.
func (r *Rounds) decide(round int, spent time.Duration) Decision {
	c := &r.current
	calm := r.left.Clone()
	calm.AndNot(r.history.volatile)
	c.Left = r.left.Bytes(r.cfg.Blocks)
	o := Observation{Round: round, Elapsed: spent, Left: c.Left, Calm: calm.Bytes(r.cfg.Blocks),
		Sent: c.Bytes, Took: c.Took, Harvest: c.Harvest}
	c.Volatile = o.Left - o.Calm
	if r.failed != nil {
		o.Failed = r.failed.Error()
	}
	c.Decision = r.decider.Step(o)
	r.rounds = append(r.rounds, *c)
	r.cfg.Log.Debug("pre-copy round", "round", c.Number, "pages", c.Pages, "zero", c.ZeroPages, "bytes", c.Bytes, "took", c.Took,
		"dirtied", c.Dirtied, "left", c.Left, "volatile", c.Volatile, "verdict", c.Decision.Verdict.String(), "why", c.Decision.Why)
	if r.cfg.Observe != nil {
		r.cfg.Observe(*c)
	}
	return c.Decision
}

// result is how things stand.
func (r *Rounds) result(d Decision) Result {
	return Result{Left: r.left.Clone(), Hot: r.history.hottest(r.left, r.cfg.MaxHot), Rounds: append([]Round(nil), r.rounds...),
		Verdict: d.Verdict, Why: d.Why}
}
