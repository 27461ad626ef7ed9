package precopy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// guest is a simulated guest with its tracker and its destination: every page has a version, a fetch takes time, and
// meanwhile the guest writes.
type guest struct {
	rng    *rand.Rand
	blocks []ram.Block
	// now and there are the versions here and at the destination; zero is a page that was never written.
	now, there [][]uint64
	dirty      ram.Set
	// perPage is the time to fetch a page; writes a second go to pages that pick names.
	perPage time.Duration
	rate    float64
	pick    func(*guest) (block, page int)
	owed    float64

	written, fetched int64 // pages, each time they were
	calls            []ram.Set
	failFetch        func(call int) error
	failHarvest      func(call int) error
	harvests         int
}

func newGuest(rng *rand.Rand, blocks []ram.Block) *guest {
	g := &guest{rng: rng, blocks: blocks, dirty: ram.NewSet(blocks), perPage: 10 * time.Microsecond, pick: anywhere}
	for _, b := range blocks {
		g.now = append(g.now, make([]uint64, b.Pages()))
		g.there = append(g.there, make([]uint64, b.Pages()))
	}
	return g
}

func anywhere(g *guest) (int, int) {
	b := g.rng.IntN(len(g.blocks))
	return b, g.rng.IntN(g.blocks[b].Pages())
}

// within picks from the first n pages of block 0.
func within(n int) func(*guest) (int, int) {
	return func(g *guest) (int, int) { return 0, g.rng.IntN(n) }
}

// around goes over block 0 page by page.
func around() func(*guest) (int, int) {
	next := 0
	return func(g *guest) (int, int) {
		next = (next + 1) % g.blocks[0].Pages()
		return 0, next
	}
}

func (g *guest) write(b, p int) {
	g.now[b][p]++
	g.dirty[b].Set(p)
	g.written++
}

// fill writes a share of all pages.
func (g *guest) fill(share float64) {
	for b := range g.now {
		for p := range g.now[b] {
			if g.rng.Float64() < share {
				g.write(b, p)
			}
		}
	}
}

// run lets the guest write for so long.
func (g *guest) run(d time.Duration) {
	for g.owed += g.rate * d.Seconds(); g.owed >= 1; g.owed-- {
		g.write(g.pick(g))
	}
}

func (g *guest) Harvest(ctx context.Context) (ram.Set, time.Duration, error) {
	g.harvests++
	took := 100 * time.Microsecond
	g.run(took)
	out := g.dirty
	g.dirty = ram.NewSet(g.blocks)
	if err := ctx.Err(); err != nil {
		out.Fill()
		return out, took, err
	}
	if g.failHarvest != nil {
		if err := g.failHarvest(g.harvests); err != nil {
			return nil, took, err // what was written is lost
		}
	}
	return out, took, nil
}

func (g *guest) Fetch(ctx context.Context, pages ram.Set) (Fetched, error) {
	g.calls = append(g.calls, pages.Clone())
	var f Fetched
	var fail error
	if g.failFetch != nil {
		fail = g.failFetch(len(g.calls))
	}
	stop := int64(g.rng.IntN(pages.Count() + 1))
	for b, set := range pages {
		for lo, hi := range set.Runs() {
			for p := lo; p < hi; p++ {
				if fail != nil && f.Pages == stop {
					return f, fail
				}
				g.there[b][p] = g.now[b][p]
				f.Pages++
				f.Bytes += g.blocks[b].PageSize
				f.Took += g.perPage
				g.fetched++
				g.run(g.perPage)
			}
		}
	}
	time.Sleep(f.Took) // in a bubble: moves the clock that the rounds go by
	return f, ctx.Err()
}

// check tells of a page that is not in left although the destination has something else.
func (g *guest) check(left ram.Set) error {
	if err := left.Fits(g.blocks); err != nil {
		return err
	}
	for b := range g.now {
		for p, v := range g.now[b] {
			if !left[b].Test(p) && !g.dirty[b].Test(p) && g.there[b][p] != v {
				return fmt.Errorf("block %d page %d has version %d there and %d here, and is not left", b, p, g.there[b][p], v)
			}
		}
	}
	return nil
}

// left is how many pages differ.
func (g *guest) left() (n int) {
	for b := range g.now {
		for p, v := range g.now[b] {
			if g.there[b][p] != v {
				n++
			}
		}
	}
	return n
}

var errInjected = errors.New("injected")
