package postcopy

import (
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Prepager says which missing pages to fetch next: prepage.Policy is one. The pager calls it from one goroutine at a time
// and keeps its own books: a plan that names a page twice, or one that is not missing, costs time and no page.
type Prepager interface {
	// Fault tells of a demand fault on a missing page; the pager fetches it, whatever the answer.
	Fault(block, page int) bool
	// Next hands out the next run of at most limit pages, or nothing for now.
	Next(limit int) (prepage.Run, bool)
	// Return takes back pages that were handed out and did not come.
	Return(r prepage.Run)
	// Placed and Discarded tell that nothing has to be fetched any more for the pages lo up to, but not with, hi.
	Placed(block, lo, hi int)
	Discarded(block, lo, hi int)
}

// books knows the state of every page of one address space. It is pure: no I/O, no clock and no lock.
//
//	            fault, nextBulk              placed, zero at the source, already there
//	missing ──────────────────> under way ─────────────────────────────────────────────> local
//	   ^                            │                                                       ^
//	   └───── giveBack: no link ────┘      discard, from either state: the guest wants zeros ─┘
//
// A page under way has one fetch, whoever asks for it. A local page that faults is one that the guest has discarded, or
// that was zeros at the source: it gets zeros at once.
type books struct {
	blocks  []ram.Block
	missing ram.Set // to be fetched, under way or not
	flying  ram.Set // under way; a page can be discarded meanwhile, and is flying and not missing then
	left    int     // missing pages
	waits   map[ref]wait
	plan    Prepager
	tally   tally
}

type ref struct{ block, page int }

// wait is a fault on a page under way. Since is the pager's clock when the fault was read.
type wait struct {
	since  time.Duration
	joined bool // the page was under way already
}

// tally counts what became of pages. All but total add up to total in the end.
type tally struct{ total, demanded, prepaged, zero, present, discarded int64 }

func (t tally) settled() int64 { return t.demanded + t.prepaged + t.zero + t.present + t.discarded }

func newBooks(blocks []ram.Block, missing ram.Set, plan Prepager) *books {
	n := missing.Count()
	return &books{blocks: blocks, missing: missing.Clone(), flying: ram.NewSet(blocks), left: n,
		waits: map[ref]wait{}, plan: plan, tally: tally{total: int64(n)}}
}

// verdict is what a fault asks for.
type verdict uint8

const (
	giveZeros verdict = iota + 1
	fetchIt
	underWay
)

// fault takes note of a fault on a page.
func (b *books) fault(block, page int, now time.Duration) verdict {
	if !b.missing[block].Test(page) {
		return giveZeros
	}
	r := ref{block, page}
	_, waited := b.waits[r]
	if waited {
		return underWay
	}
	b.plan.Fault(block, page)
	flies := b.flying[block].Test(page)
	b.waits[r] = wait{now, flies}
	if flies {
		return underWay
	}
	b.flying[block].Set(page)
	return fetchIt
}

// nextBulk gives a run of at most limit bytes, and at least one page, that is under way from now on.
func (b *books) nextBulk(limit int64) (part, bool) {
	for {
		run, ok := b.plan.Next(b.pagesOf(limit))
		if !ok {
			return part{}, false
		}
		if p := b.take(run, limit); p.lo < p.hi {
			return p, true
		}
	}
}

// around takes the neighbours of a page under way along, as far as they are missing and not under way: those of the
// aligned range of that many bytes.
func (b *books) around(block, page int, bytes int64) part {
	pt := part{block, page, page + 1}
	n := int(bytes / b.blocks[block].PageSize)
	if n < 2 {
		return pt
	}
	missing, flying := b.missing[block], b.flying[block]
	first := page - page%n
	last := min(first+n, b.blocks[block].Pages())
	for pt.lo > first && missing.Test(pt.lo-1) && !flying.Test(pt.lo-1) {
		pt.lo--
	}
	for pt.hi < last && missing.Test(pt.hi) && !flying.Test(pt.hi) {
		pt.hi++
	}
	flying.SetRange(pt.lo, pt.hi)
	return pt
}

// pagesOf is how many pages of the smallest size the bytes are.
func (b *books) pagesOf(bytes int64) int {
	size := b.blocks[0].PageSize
	for _, bl := range b.blocks {
		size = min(size, bl.PageSize)
	}
	return int(max(1, bytes/size))
}

// take marks the first pages of the run that can be fetched, as many as the limit allows, and returns the rest.
func (b *books) take(run prepage.Run, limit int64) part {
	missing, flying := b.missing[run.Block], b.flying[run.Block]
	lo := run.Lo
	for lo < run.Hi && (!missing.Test(lo) || flying.Test(lo)) {
		lo++
	}
	most := min(run.Hi, lo+int(max(1, limit/b.blocks[run.Block].PageSize)))
	hi := lo
	for hi < most && missing.Test(hi) && !flying.Test(hi) {
		hi++
	}
	flying.SetRange(lo, hi)
	if hi < run.Hi {
		b.plan.Return(prepage.Run{Block: run.Block, Lo: hi, Hi: run.Hi})
	}
	return part{run.Block, lo, hi}
}

// fate is what is to be done with a page that has come.
type fate uint8

const (
	dropIt    fate = iota + 1 // the guest has discarded it meanwhile
	leaveHole                 // it is zeros, and nobody waits for it
	placeZero                 // it is zeros, and somebody waits for it
	placeData
)

// sort says what is to be done with the pages from lo on, and up to which page the same is to be done.
func (b *books) sort(p part, holes *holeReader) (fate, int) {
	f, end := b.fateOf(p.block, p.lo, holes), p.lo+1
	for f != placeZero && end < p.hi && b.fateOf(p.block, end, holes) == f {
		end++
	}
	return f, end
}

func (b *books) fateOf(block, page int, holes *holeReader) fate {
	if !b.missing[block].Test(page) {
		return dropIt
	}
	if !holes.covers(page) {
		return placeData
	}
	if len(b.waits) > 0 {
		if _, waited := b.waits[ref{block, page}]; waited {
			return placeZero
		}
	}
	return leaveHole
}

// how tells by which way pages became local.
type how uint8

const (
	wasFetched how = iota + 1
	wasZero
	wasPresent
)

// settle takes note that pages under way are local now. It calls served with each fault that is answered.
func (b *books) settle(p part, h how, served func(wait)) {
	n := p.hi - p.lo
	b.missing[p.block].ClearRange(p.lo, p.hi)
	b.flying[p.block].ClearRange(p.lo, p.hi)
	b.left -= n
	b.plan.Placed(p.block, p.lo, p.hi)
	asked := int64(0)
	for page := p.lo; page < p.hi && len(b.waits) > 0; page++ {
		r := ref{p.block, page}
		if w, ok := b.waits[r]; ok {
			delete(b.waits, r)
			asked++
			served(w)
		}
	}
	switch h {
	case wasZero:
		b.tally.zero += int64(n)
	case wasPresent:
		b.tally.present += int64(n)
	default:
		b.tally.demanded += asked
		b.tally.prepaged += int64(n) - asked
	}
}

// drop ends the way of pages that are not missing any more.
func (b *books) drop(p part) { b.flying[p.block].ClearRange(p.lo, p.hi) }

// giveBack takes note that pages under way will not come. It calls wanted with each of them that somebody waits for: these
// stay under way, and the caller has to fetch them. The others go back to the plan.
func (b *books) giveBack(p part, wanted func(ref)) {
	for page := p.lo; page < p.hi; page++ {
		r := ref{p.block, page}
		if !b.flying[p.block].Test(page) {
			continue
		}
		if _, waited := b.waits[r]; waited {
			wanted(r)
			continue
		}
		b.flying[p.block].Clear(page)
		if b.missing[p.block].Test(page) {
			b.plan.Return(prepage.Run{Block: p.block, Lo: page, Hi: page + 1})
		}
	}
}

// discard takes note that the guest has thrown pages away: they are zeros from now on. It calls waited with each of them that
// somebody waits for.
func (b *books) discard(p part, waited func(ref, wait)) {
	missing := b.missing[p.block]
	n := missing.CountRange(p.lo, p.hi)
	missing.ClearRange(p.lo, p.hi)
	b.left -= n
	b.tally.discarded += int64(n)
	b.plan.Discarded(p.block, p.lo, p.hi)
	for page := p.lo; page < p.hi && len(b.waits) > 0; page++ {
		r := ref{p.block, page}
		if w, ok := b.waits[r]; ok {
			delete(b.waits, r)
			waited(r, w)
		}
	}
}

// holeReader walks over the holes of one fetch, page by page.
type holeReader struct {
	holes    []ram.Extent
	pageSize int64
}

// covers tells whether a page is zeros as a whole. Pages have to be asked for in ascending order; a page may be asked for
// again.
func (h *holeReader) covers(page int) bool {
	lo := int64(page) * h.pageSize
	for len(h.holes) > 0 && h.holes[0].End() <= lo {
		h.holes = h.holes[1:]
	}
	end := lo
	for _, e := range h.holes {
		if e.Offset > end {
			break
		}
		if end = max(end, e.End()); end >= lo+h.pageSize {
			return true
		}
	}
	return false
}
