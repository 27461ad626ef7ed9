package prepage

import (
	"math/rand/v2"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

func testBlocks() []ram.Block {
	return []ram.Block{{Name: "pc.ram", Size: 3000 * 4096, PageSize: 4096}, {Name: "huge", Size: 9 * 2 << 20, PageSize: 2 << 20},
		{Name: "nothing missing", Size: 64 * 4096, PageSize: 4096}}
}

// someMissing takes random runs of the first two blocks.
func someMissing(rng *rand.Rand, blocks []ram.Block) ram.Set {
	missing := ram.NewSet(blocks)
	for range 40 {
		b := missing[rng.IntN(2)]
		lo := rng.IntN(b.Len())
		b.SetRange(lo, min(b.Len(), lo+1+rng.IntN(100)))
	}
	return missing
}

func someHot(rng *rand.Rand, blocks []ram.Block) []Ref {
	var hot []Ref
	for range 200 {
		b := rng.IntN(len(blocks))
		hot = append(hot, Ref{b, rng.IntN(blocks[b].Pages())})
	}
	return hot
}

// The state of a page as the one who drives a policy sees it.
const (
	there = iota // placed, discarded, or never missing
	left
	under // handed out
)

// driver plays at random whatever a pager may do with a policy, and knows what has to come of it.
type driver struct {
	*testing.T
	rng    *rand.Rand
	p      *Policy
	pages  [][]int
	flying []Run
}

// Whatever order faults, requests, failures, placements and discards come in, each missing page is handed out once, is
// handed out again only after it was returned, and in the end none is left.
func TestEachPageOnce(t *testing.T) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(25) {
				rng := rand.New(rand.NewPCG(seed, 7))
				blocks := testBlocks()
				missing := someMissing(rng, blocks)
				p, err := New(name, blocks, missing, someHot(rng, blocks))
				if err != nil {
					t.Fatal(err)
				}
				d := &driver{T: t, rng: rng, p: p}
				for i, b := range missing {
					d.pages = append(d.pages, make([]int, blocks[i].Pages()))
					for lo, hi := range b.Runs() {
						d.mark(Run{i, lo, hi}, left)
					}
				}
				d.play(400)
				d.finish()
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

func (d *driver) mark(r Run, state int) {
	for i := r.Lo; i < r.Hi; i++ {
		d.pages[r.Block][i] = state
	}
}

func (d *driver) count(states ...int) int {
	n := 0
	for _, b := range d.pages {
		for _, s := range b {
			for _, want := range states {
				if s == want {
					n++
				}
			}
		}
	}
	return n
}

// play does random things.
func (d *driver) play(steps int) {
	walk := Ref{}
	for step := range steps {
		switch d.rng.IntN(8) {
		case 0:
			walk = Ref{d.rng.IntN(3), 0}
			walk.Page = d.rng.IntN(len(d.pages[walk.Block]))
			d.fault(walk)
		case 1, 2:
			walk.Page = (walk.Page + 1 + d.rng.IntN(2)*4) % len(d.pages[walk.Block])
			d.fault(walk)
		case 3, 4:
			d.ask(1 + d.rng.IntN(64))
		case 5, 6:
			d.land()
		case 7:
			d.discard()
		}
		if step%20 != 0 {
			continue
		}
		if got, want := d.p.Left(), d.count(left); got != want {
			d.Fatalf("%d pages left, not %d", got, want)
		}
		if got, want := d.p.Remaining(), d.count(left, under); got != want {
			d.Fatalf("%d pages remain, not %d", got, want)
		}
	}
}

func (d *driver) fault(r Ref) {
	was := d.pages[r.Block][r.Page]
	if mine := d.p.Fault(r.Block, r.Page); mine != (was == left) {
		d.Fatalf("fault of page %v in state %d: %t", r, was, mine)
	}
	if was == left {
		d.fly(Run{r.Block, r.Page, r.Page + 1})
	}
}

func (d *driver) fly(r Run) {
	d.mark(r, under)
	d.flying = append(d.flying, r)
}

func (d *driver) ask(limit int) bool {
	run, ok := d.p.Next(limit)
	if !ok {
		if d.p.Left() > 0 && d.p.Name() != "none" {
			d.Fatalf("%d pages are left and none is given", d.p.Left())
		}
		return false
	}
	if run.Pages() < 1 || run.Pages() > limit {
		d.Fatalf("%+v of at most %d pages", run, limit)
	}
	for i := run.Lo; i < run.Hi; i++ {
		if d.pages[run.Block][i] != left {
			d.Fatalf("page %d of %+v is in state %d", i, run, d.pages[run.Block][i])
		}
	}
	d.fly(run)
	return true
}

// land ends one request: it comes, whole or in part, or it fails.
func (d *driver) land() {
	if len(d.flying) == 0 {
		return
	}
	i := d.rng.IntN(len(d.flying))
	run := d.flying[i]
	d.flying = append(d.flying[:i], d.flying[i+1:]...)
	cut := run.Hi
	if d.rng.IntN(3) == 0 {
		cut = run.Lo + d.rng.IntN(run.Pages()+1)
	}
	d.p.Placed(run.Block, run.Lo, cut)
	d.mark(Run{run.Block, run.Lo, cut}, there)
	for page := cut; page < run.Hi; page++ {
		if d.pages[run.Block][page] == under {
			d.pages[run.Block][page] = left
		}
	}
	// What was placed and what belongs to others is named as well: it must not come back.
	d.p.Return(Run{run.Block, run.Lo, run.Hi})
}

func (d *driver) discard() {
	block := d.rng.IntN(3)
	lo := d.rng.IntN(len(d.pages[block]))
	hi := min(len(d.pages[block]), lo+1+d.rng.IntN(30))
	d.p.Discarded(block, lo, hi)
	d.mark(Run{block, lo, hi}, there)
}

// finish asks for all that is left and lets it land.
func (d *driver) finish() {
	d.p.Drain()
	for d.p.Remaining() > 0 {
		if !d.ask(100) && len(d.flying) == 0 {
			d.Fatalf("%d pages remain and nothing is under way", d.p.Remaining())
		}
		for len(d.flying) > 0 {
			d.land()
		}
	}
	if d.p.misled != 0 {
		d.Fatalf("%d choices of pages that are not left", d.p.misled)
	}
	if n := d.count(left, under); n != 0 {
		d.Fatalf("%d pages were lost", n)
	}
}

// A page that is under way in a large request, is asked for again by a fault and arrives, does not come back to life
// when the large request fails.
func TestReturnKnowsWhatCame(t *testing.T) {
	blocks := testBlocks()
	missing := ram.NewSet(blocks)
	missing[0].SetRange(0, 10)
	p, err := New("linear", blocks, missing, nil)
	if err != nil {
		t.Fatal(err)
	}
	run, _ := p.Next(8)
	if p.Fault(0, 3) {
		t.Error("a page under way is handed out twice")
	}
	p.Placed(0, 3, 4)
	p.Discarded(0, 5, 6)
	p.Return(run)
	if p.Left() != 8 || p.Remaining() != 8 {
		t.Errorf("%d left, %d remain, of 8", p.Left(), p.Remaining())
	}
	if p.Fault(0, 3) || p.Fault(0, 5) || !p.Fault(0, 4) {
		t.Error("what came is asked for again")
	}
}

func TestNoneWaitsForDrain(t *testing.T) {
	blocks := testBlocks()
	missing := ram.NewSet(blocks)
	missing[0].SetRange(5, 20)
	p, err := New("none", blocks, missing, nil)
	if err != nil {
		t.Fatal(err)
	}
	if run, ok := p.Next(4); ok {
		t.Fatalf("%+v before Drain", run)
	}
	p.Fault(0, 6)
	p.Drain()
	if run, ok := p.Next(4); !ok || run != (Run{0, 5, 6}) {
		t.Errorf("%+v, %t after Drain", run, ok)
	}
}

func TestNewRefuses(t *testing.T) {
	blocks := testBlocks()
	missing := ram.NewSet(blocks)
	if _, err := New("magic", blocks, missing, nil); err == nil {
		t.Error("an unknown policy is taken")
	}
	if _, err := New("linear", blocks[:2], missing, nil); err == nil {
		t.Error("a set of other blocks is taken")
	}
	for _, h := range []Ref{{3, 0}, {-1, 0}, {0, -1}, {0, 3000}, {1, 9}} {
		if _, err := New("linear", blocks, missing, []Ref{h}); err == nil {
			t.Errorf("hot page %v is taken", h)
		}
	}
	if p, err := New("", blocks, missing, nil); err != nil || p.Name() != "hotset" {
		t.Errorf("no name: %v", err)
	}
}
