package prepage

import (
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Run is a run of neighbouring pages of one block: Lo up to, but not with, Hi.
type Run struct {
	Block, Lo, Hi int
}

// Pages is how many pages the run has.
func (r Run) Pages() int { return r.Hi - r.Lo }

// Ref names one page.
type Ref struct {
	Block, Page int
}

// Names are the policies that New knows, the simplest first.
func Names() []string {
	return []string{"none", "linear", "bubble", "bubble-up", "stride", "hotset"}
}

// Policy is the plan of one post-copy: it knows which pages nobody has asked the source for yet, and which of them are
// to be asked for next. It does no I/O and knows no time: the same calls give the same answers.
//
// A page is in one of three states. It starts as left when it is missing; Fault and Next hand it out, each page once;
// Placed and Discarded end its way, from either state, for good. Return takes back what was handed out and never came.
// An order, which is what the policies differ in, only reads the books: it can neither lose a page nor give one twice.
//
// A Policy is not safe for use by several goroutines.
type Policy struct {
	name    string
	order   order
	left    books
	out     books
	drained bool
	misled  int // choices of the order that were none: a fault of the order, which costs no page
}

// order is what the policies differ in: which of the pages left come next.
type order interface {
	// fault learns from a demand fault.
	fault(block, page int)
	// next chooses neighbouring pages of left, between 1 and limit of them, or says that it has no opinion.
	next(left books, limit int) (Run, bool)
}

// books is a set of pages of the guest, one tree for each block.
type books []*tree

// New makes the plan for the missing pages of the blocks, in the order that the name stands for; an empty name is
// hotset. Hot lists pages to bring first, best first, as far as they are missing; only hotset looks at it. The set and
// the list are read and not kept. An unknown name, a set that does not fit the blocks, and a hot page outside of them
// are refused.
func New(name string, blocks []ram.Block, missing ram.Set, hot []Ref) (*Policy, error) {
	if name == "" {
		name = "hotset"
	}
	if err := missing.Fits(blocks); err != nil {
		return nil, fmt.Errorf("plan of pre-paging: %w", err)
	}
	for _, h := range hot {
		if h.Block < 0 || h.Block >= len(blocks) || h.Page < 0 || h.Page >= blocks[h.Block].Pages() {
			return nil, fmt.Errorf("plan of pre-paging: there is no page %d of block %d", h.Page, h.Block)
		}
	}
	p := &Policy{name: name}
	switch name {
	case "none":
		p.order = none{}
	case "linear":
		p.order = linear{}
	case "bubble":
		p.order = newBubbles(true)
	case "bubble-up":
		p.order = newBubbles(false)
	case "stride":
		p.order = newStrides()
	case "hotset":
		p.order = newHotset(blocks, hot)
	default:
		return nil, fmt.Errorf("there is no pre-paging policy %q; there are %s", name, strings.Join(Names(), ", "))
	}
	for i, b := range missing {
		p.left = append(p.left, treeOf(b))
		p.out = append(p.out, newTree(blocks[i].Pages()))
	}
	return p, nil
}

// Name is the policy's name.
func (p *Policy) Name() string { return p.name }

// Fault tells of a demand fault. It returns true when the page was left: it is now handed out, and the caller asks the
// source for it, ahead of all that Next gave. False means that the page is under way already, placed or discarded; it
// may be asked for again all the same, since placing a page twice does no harm.
//
// Every fault is to be told, also of a page that is under way: the order learns from it.
func (p *Policy) Fault(block, page int) bool {
	p.order.fault(block, page)
	if !p.left[block].has(page) {
		return false
	}
	p.hand(Run{block, page, page + 1})
	return true
}

// Next hands out the neighbouring pages to fetch next, at most limit of them and at least one. It returns false when no
// page is left to hand out, or when the policy does not want to ask for more by itself: that is none before Drain.
func (p *Policy) Next(limit int) (Run, bool) {
	if limit < 1 {
		return Run{}, false
	}
	run, ok := p.order.next(p.left, limit)
	if !ok {
		if _, wait := p.order.(none); wait && !p.drained {
			return Run{}, false
		}
		run, ok = p.left.lowest(limit)
	}
	if ok && !p.left.hold(run, limit) {
		p.misled++
		run, ok = p.left.lowest(limit)
	}
	if ok {
		p.hand(run)
	}
	return run, ok
}

// hand moves pages that are left to those handed out.
func (p *Policy) hand(r Run) {
	p.left[r.Block].clearRange(r.Lo, r.Hi)
	p.out[r.Block].setRange(r.Lo, r.Hi)
}

// Return takes back pages that were handed out and that the source has not sent. Those of them that were placed or
// discarded meanwhile stay so; pages that were never handed out are not touched.
func (p *Policy) Return(r Run) {
	out := p.out[r.Block]
	for lo := out.up(r.Lo); lo >= 0 && lo < r.Hi; lo = out.up(lo) {
		hi := out.runUp(lo, r.Hi-lo)
		out.clearRange(lo, hi)
		p.left[r.Block].setRange(lo, hi)
	}
}

// Placed tells that the pages lo up to, but not with, hi of the block are in the guest's RAM, whoever asked for them.
func (p *Policy) Placed(block, lo, hi int) { p.done(block, lo, hi) }

// Discarded tells that the guest has thrown the pages lo up to, but not with, hi of the block away: the source has
// nothing to say about them any more.
func (p *Policy) Discarded(block, lo, hi int) { p.done(block, lo, hi) }

func (p *Policy) done(block, lo, hi int) {
	p.left[block].clearRange(lo, hi)
	p.out[block].clearRange(lo, hi)
}

// Drain says that only the rest is wanted, in whatever order: from now on none hands out pages, too. The other policies
// do so anyway.
func (p *Policy) Drain() { p.drained = true }

// Left is the number of pages that are not handed out.
func (p *Policy) Left() int { return p.left.count() }

// Remaining is the number of pages that are neither placed nor discarded, handed out or not.
func (p *Policy) Remaining() int { return p.left.count() + p.out.count() }

func (b books) count() int {
	n := 0
	for _, t := range b {
		n += t.count
	}
	return n
}

// hold is whether the run is between 1 and limit pages, all of them in the set.
func (b books) hold(r Run, limit int) bool {
	return r.Block >= 0 && r.Block < len(b) && r.Lo >= 0 && r.Lo < r.Hi && r.Hi <= b[r.Block].pages &&
		r.Pages() <= limit && b[r.Block].runUp(r.Lo, r.Pages()) == r.Hi
}

// lowest is the first run of the first block that has pages.
func (b books) lowest(limit int) (Run, bool) {
	for i, t := range b {
		if t.count > 0 {
			return b.runUp(i, t.up(0), limit), true
		}
	}
	return Run{}, false
}

// runUp is the run that starts with the page.
func (b books) runUp(block, page, limit int) Run {
	return Run{block, page, b[block].runUp(page, limit)}
}

// runDown is the run that ends with the page.
func (b books) runDown(block, page, limit int) Run {
	return Run{block, b[block].runDown(page, limit), page + 1}
}

// none asks for nothing by itself.
type none struct{}

func (none) fault(int, int)              {}
func (none) next(books, int) (Run, bool) { return Run{}, false }

// linear goes from the first page to the last and hears no fault.
type linear struct{}

func (linear) fault(int, int)                         {}
func (linear) next(left books, limit int) (Run, bool) { return left.lowest(limit) }

// toFront moves element i of s to its front.
func toFront[E any](s []E, i int) {
	e := s[i]
	copy(s[1:i+1], s[:i])
	s[0] = e
}
