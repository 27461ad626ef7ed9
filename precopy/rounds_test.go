package precopy

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var twoBlocks = []ram.Block{{Name: "pc.ram", Size: 4000 * 4096, PageSize: 4096}, {Name: "huge", Size: 20 << 21, PageSize: 2 << 20}}

func newRounds(t *testing.T, g *guest, c DeciderConfig) *Rounds {
	t.Helper()
	r, err := New(Config{Blocks: g.blocks, Harvester: g, Fetcher: g, Decider: c})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func seeded(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Whatever the guest writes, whatever fails: a page that is not left is at the destination as it is here. And nothing
// goes twice that was not written in between.
func TestNothingIsLost(t *testing.T) {
	rng := seeded(t)
	strategies := []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyHybrid, migrate.StrategyPostcopy}
	for range 150 {
		synctest.Test(t, func(t *testing.T) {
			g := newGuest(rng, twoBlocks)
			g.fill(rng.Float64())
			g.rate = rng.Float64() * rng.Float64() * 300000
			g.pick = []func(*guest) (int, int){anywhere, within(1 + rng.IntN(1000)), around()}[rng.IntN(3)]
			faulty := rng.IntN(2) == 0
			if faulty {
				g.failFetch = chance(rng, 0.2)
				g.failHarvest = chance(rng, 0.1)
			}
			c := DeciderConfig{Strategy: strategies[rng.IntN(3)], MaxDowntime: time.Duration(1+rng.IntN(20)) * time.Millisecond, Timeout: time.Duration(rng.IntN(2)) * time.Second}
			r, err := New(Config{Blocks: g.blocks, Harvester: g, Fetcher: g, Decider: c, Slice: time.Duration(1+rng.IntN(50)) * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			r.slice = 1 << (12 + rng.IntN(14)) // small ones, too
			playThrough(t, g, r, faulty)
		})
		if t.Failed() {
			return
		}
	}
}

func chance(rng *rand.Rand, p float64) func(int) error {
	return func(int) error {
		if rng.Float64() < p {
			return errInjected
		}
		return nil
	}
}

func playThrough(t *testing.T, g *guest, r *Rounds, faulty bool) {
	t.Helper()
	for try := 0; ; try++ {
		res, err := r.Run(t.Context())
		if bad := g.check(res.Left); bad != nil {
			t.Fatalf("after run %d (%v): %v", try, err, bad)
		}
		if !faulty && g.fetched > g.written {
			t.Errorf("%d pages went over, %d writes were there", g.fetched, g.written)
		}
		if err != nil && !errors.Is(err, errInjected) && !errors.Is(err, ErrNotConverging) {
			t.Fatal(err)
		}
		checkHot(t, g, res)
		if err == nil || try > 5 {
			break
		}
	}
	g.rate = 0 // the guest stands still
	res, err := r.Final(t.Context())
	if err != nil && !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	g.dirty.Reset()
	if bad := g.check(res.Left); bad != nil {
		t.Fatalf("after the last harvest (%v): %v", err, bad)
	}
}

func checkHot(t *testing.T, g *guest, res Result) {
	t.Helper()
	seen := map[PageRef]bool{}
	for _, h := range res.Hot {
		if seen[h] || !res.Left[h.Block].Test(h.Page) {
			t.Fatalf("%+v is twice among the hot pages, or not left", h)
		}
		seen[h] = true
	}
}

// A guest that writes little converges with each strategy, and what goes is what is there and what was written again.
func TestAnIdleGuestConverges(t *testing.T) {
	for _, s := range []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyHybrid} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuest(seeded(t), twoBlocks)
			g.fill(0.5)
			g.rate = 1000
			filled := g.written
			r := newRounds(t, g, DeciderConfig{Strategy: s})
			res, err := r.Run(t.Context())
			if err != nil || res.Verdict != VerdictSwitch {
				t.Fatalf("%s: %v, %s (%s)", s, err, res.Verdict, res.Why)
			}
			if n := res.Left.Count(); n > 100 {
				t.Errorf("%s: %d pages left: %s", s, n, res.Why)
			}
			if g.fetched > filled+(g.written-filled) || g.fetched < filled-200 {
				t.Errorf("%s: %d pages went, %d were there, %d writes after", s, g.fetched, filled, g.written-filled)
			}
		})
	}
}

// Nobody writes: everything goes exactly once, holes not at all, and nothing is left.
func TestABytesOnceGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(seeded(t), twoBlocks)
		g.fill(0.3)
		r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyHybrid})
		res, err := r.Run(t.Context())
		if err != nil || !res.Left.Empty() || g.fetched != g.written || len(res.Rounds) != 2 {
			t.Fatalf("%v, %d left, %d of %d pages went, %d rounds: %s", err, res.Left.Count(), g.fetched, g.written, len(res.Rounds), res.Why)
		}
	})
}

// Post-copy fetches nothing, and leaves what is no hole.
func TestPostcopyLeavesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(seeded(t), twoBlocks)
		g.fill(0.3)
		r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyPostcopy})
		res, err := r.Run(t.Context())
		if err != nil || len(g.calls) != 0 || int64(res.Left.Count()) != g.written || res.Verdict != VerdictSwitch {
			t.Fatalf("%v, %d fetches, %d of %d pages left", err, len(g.calls), res.Left.Count(), g.written)
		}
	})
}

// A hot set that is written faster than it can be fetched: hybrid leaves it and switches, pre-copy says that it does not
// converge; the hot pages are named first.
func TestAHotSet(t *testing.T) {
	const hot = 800
	start := func(t *testing.T, s migrate.Strategy) (*guest, *Rounds) {
		g := newGuest(seeded(t), twoBlocks)
		g.fill(1)
		g.rate, g.pick = 400000, within(hot)
		return g, newRounds(t, g, DeciderConfig{Strategy: s, MaxDowntime: time.Millisecond})
	}
	synctest.Test(t, func(t *testing.T) {
		g, r := start(t, migrate.StrategyHybrid)
		res, err := r.Run(t.Context())
		if err != nil || res.Left.Count() > hot+10 {
			t.Fatalf("hybrid: %v, %d pages left: %s", err, res.Left.Count(), res.Why)
		}
		if last := res.Rounds[len(res.Rounds)-1]; last.Volatile < hot/2*4096 || last.DirtyRate == 0 {
			t.Errorf("%d bytes are said to be volatile, written at %d a second", last.Volatile, last.DirtyRate)
		}
		if len(res.Hot) < hot/2 || slices.ContainsFunc(res.Hot, func(p PageRef) bool { return p.Block != 0 || p.Page >= hot }) {
			t.Errorf("%d hot pages, first %v", len(res.Hot), res.Hot[:min(5, len(res.Hot))])
		}
		if most := int64(4020 + 2*hot); g.fetched > most {
			t.Errorf("%d pages went, want at most %d", g.fetched, most)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, r := start(t, migrate.StrategyPrecopy)
		res, err := r.Run(t.Context())
		if !errors.Is(err, ErrNotConverging) || res.Verdict != VerdictNoProgress || res.Why == "" {
			t.Fatalf("pre-copy: %v, %s: %s", err, res.Verdict, res.Why)
		}
		// Run again it takes as many rounds as before to give up.
		before := len(res.Rounds)
		if res, err = r.Run(t.Context()); !errors.Is(err, ErrNotConverging) || len(res.Rounds) < before+5 {
			t.Errorf("again: %v after %d more rounds", err, len(res.Rounds)-before)
		}
	})
}

// Pages that were written lately go after those that were not.
func TestCalmPagesGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(seeded(t), twoBlocks)
		g.fill(1)
		r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyPrecopy})
		for range volatileRounds {
			set := ram.NewSet(g.blocks)
			set[0].SetRange(0, 10)
			r.history.add(set)
		}
		set := ram.NewSet(g.blocks)
		set[0].SetRange(0, 10)
		set[1].SetRange(0, 3) // once
		r.history.add(set)
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		last := g.calls[len(g.calls)-1]
		if last.Count() != 10 || last[0].CountRange(0, 10) != 10 {
			t.Errorf("%d pages went last, want the 10 volatile ones", last.Count())
		}
		for _, c := range g.calls[:len(g.calls)-1] {
			if c[0].CountRange(0, 10) != 0 {
				t.Error("a volatile page went with calm ones")
			}
		}
	})
}

// A page that is written while it waits for its slice goes once.
func TestAPageWrittenWhileItWaitsGoesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(seeded(t), twoBlocks[:1])
		g.fill(1)
		g.rate = 20000
		g.pick = func(g *guest) (int, int) { return 0, 3000 + g.rng.IntN(1000) } // fetched last
		r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyHybrid})
		r.slice, r.cfg.Slice = 500*4096, 5*time.Millisecond
		res, err := r.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first := res.Rounds[1]
		if first.Slices < 4 || first.Pages > 3990 {
			t.Errorf("the first round fetched %d pages in %d slices; some were written before their turn", first.Pages, first.Slices)
		}
		if bad := g.check(res.Left); bad != nil {
			t.Error(bad)
		}
	})
}

// The end of ctx ends the rounds before the next fetch, with all that is not there left.
func TestCancelEndsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(seeded(t), twoBlocks)
		g.fill(1)
		ctx, cancel := context.WithCancel(t.Context())
		g.failFetch = func(call int) error {
			if call == 2 {
				cancel()
			}
			return nil
		}
		r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyHybrid})
		r.slice, r.cfg.Slice = 100*4096, time.Millisecond
		res, err := r.Run(ctx)
		if !errors.Is(err, context.Canceled) || len(g.calls) != 2 {
			t.Fatalf("%v after %d fetches", err, len(g.calls))
		}
		if bad := g.check(res.Left); bad != nil {
			t.Error(bad)
		}
		// And it goes on where it was.
		fetched := g.fetched
		res, err = r.Run(t.Context())
		if err != nil || !res.Left.Empty() || g.left() != 0 || g.fetched-fetched >= 4020 {
			t.Errorf("then %v, %d left, %d more pages", err, res.Left.Count(), g.fetched-fetched)
		}
	})
}

// A first harvest that was cut off is not had again: everything stays left.
func TestCancelDuringTheFirstHarvest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(seeded(t), twoBlocks)
		g.fill(1)
		r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyHybrid})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if res, err := r.Run(ctx); !errors.Is(err, context.Canceled) || res.Left.Count() != 4020 {
			t.Fatalf("%v, %d left", err, res.Left.Count())
		}
		if _, err := r.Run(t.Context()); err != nil || g.left() != 0 {
			t.Fatalf("then %v, %d pages differ", err, g.left())
		}
	})
}

// A harvest that fails leaves everything, also when it is the first, the last, or in the middle of a round.
func TestAFailedHarvestLeavesEverything(t *testing.T) {
	for call := 1; call <= 6; call++ {
		synctest.Test(t, func(t *testing.T) {
			g := newGuest(seeded(t), twoBlocks)
			g.fill(0.5)
			g.rate = 1000
			g.failHarvest = func(n int) error {
				if n == call {
					return errInjected
				}
				return nil
			}
			r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyHybrid})
			r.slice, r.cfg.Slice = 1000*4096, 10*time.Millisecond
			res, err := r.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if g.harvests < call {
				t.Skipf("only %d harvests", g.harvests)
			}
			if res.Left.Count() != 4020 {
				t.Errorf("harvest %d failed, %d pages left: %s", call, res.Left.Count(), res.Why)
			}
		})
	}
}

func TestFinalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(seeded(t), twoBlocks)
		r := newRounds(t, g, DeciderConfig{Strategy: migrate.StrategyHybrid})
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.failHarvest = func(int) error { return errInjected }
		if res, err := r.Final(t.Context()); !errors.Is(err, errInjected) || res.Left.Count() != 4020 {
			t.Errorf("%v, %d pages left", err, res.Left.Count())
		}
	})
}

func TestNewRefuses(t *testing.T) {
	g := newGuest(seeded(t), twoBlocks)
	good := Config{Blocks: g.blocks, Harvester: g, Fetcher: g, Decider: DeciderConfig{Strategy: migrate.StrategyHybrid}}
	for what, spoil := range map[string]func(*Config){
		"no blocks": func(c *Config) { c.Blocks = nil }, "no harvester": func(c *Config) { c.Harvester = nil },
		"no fetcher": func(c *Config) { c.Fetcher = nil }, "no strategy": func(c *Config) { c.Decider.Strategy = "" },
		"an odd block": func(c *Config) { c.Blocks = []ram.Block{{Name: "a", Size: 5000, PageSize: 4096}} },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
