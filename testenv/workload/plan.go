package workload

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// maxBurst is the most time that a plan makes up for: what was not written
// while the guest stood still is not owed.
const maxBurst = 50 * time.Millisecond

// Target says what a write goes to. The zero value is not a target.
type Target uint8

// The targets.
const (
	NoTarget Target = iota
	Page
	Block
)

// Op is one write: which page of the region or block of the disks is next.
type Op struct {
	Target Target
	Index  uint64
}

// Plan deals out the writes of a workload. Make it with NewPlan.
type Plan struct {
	spec   Spec
	rng    *rand.Rand
	pages  stream
	blocks stream
	disks  []extent // of which blocks
	cursor uint64
	last   time.Duration
	begun  bool
	// blockLast means that the latest write was to a block.
	blockLast bool
}

// extent is what is written to of one disk: its first block among those of all disks, and how
// many.
type extent struct{ first, count uint64 }

// stream is one flow of writes with its own pace.
type stream struct {
	count uint64  // how many pages or blocks there are to choose from
	owed  float64 // writes due and not yet dealt out
}

// NewPlan plans spec over a region of so many pages and disks of so many blocks
// each; a spec that wants more uses what is there. The blocks of all disks are
// numbered through, from the first disk's first block on. A seed gives the same
// plan each time. The error wraps ErrSpec: the spec is not valid, or there is
// nothing to write to.
func NewPlan(spec Spec, pages uint64, disks []uint64, seed uint64) (*Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	want := uint64(spec.Size) / PageSize
	p := &Plan{spec: spec, rng: rand.New(rand.NewPCG(seed, uint64(spec.Kind)))}
	if spec.Kind != BlockIO {
		p.pages.count = min(want, pages)
	}
	var first uint64
	for _, blocks := range disks {
		e := extent{first, blocks}
		if spec.Kind == BlockIO {
			e.count = min(want, blocks)
		}
		p.disks = append(p.disks, e)
		p.blocks.count += e.count
		first += blocks
	}
	if spec.Kind != BlockIO && spec.Kind != Idle && p.pages.count == 0 {
		return nil, fmt.Errorf("%w %v: the guest has no memory region", ErrSpec, spec.Kind)
	}
	if (spec.Kind == BlockIO || spec.Writes > 0) && p.blocks.count == 0 {
		return nil, fmt.Errorf("%w %v: the guest has no disk to write to", ErrSpec, spec.Kind)
	}
	return p, nil
}

// Spec is what is planned.
func (p *Plan) Spec() Spec { return p.spec }

// Advance tells the plan how long the guest has run, by a clock that never
// goes backwards and may jump, and returns how many writes are due now.
func (p *Plan) Advance(now time.Duration) int {
	now = max(now, 0)
	if !p.begun || now < p.last {
		p.begun, p.last = true, now
	}
	span := min(now-p.last, maxBurst)
	from := now - span
	p.last = now
	p.pages.owe(p.pageWrites(from, now))
	p.blocks.owe(p.blockWrites(span))
	return int(p.pages.owed) + int(p.blocks.owed)
}

// pageWrites is how many page writes fall into the time from..to, and the rate
// a second at its end.
func (p *Plan) pageWrites(from, to time.Duration) (writes, rate float64) {
	switch p.spec.Kind {
	case Idle, BlockIO:
		return 0, 0
	case Cycle:
		return p.cycleWrites(from, to)
	default:
		rate = float64(p.spec.Rate)
		return rate * (to - from).Seconds(), rate
	}
}

// cycleWrites adds up the phases that the time from..to touches.
func (p *Plan) cycleWrites(from, to time.Duration) (writes, rate float64) {
	var period time.Duration
	for _, ph := range p.spec.Phases {
		period += ph.Length
	}
	for at := from; ; {
		ph, left := phaseAt(p.spec.Phases, at%period)
		rate = float64(ph.Rate)
		if at+left > to {
			return writes + rate*(to-at).Seconds(), rate
		}
		writes += rate * left.Seconds()
		at += left
	}
}

// phaseAt finds the phase at a time within the period, and how much of it is left.
func phaseAt(phases []Phase, at time.Duration) (Phase, time.Duration) {
	for _, ph := range phases {
		if at < ph.Length {
			return ph, ph.Length - at
		}
		at -= ph.Length
	}
	return phases[0], phases[0].Length // not reached: at is within the period
}

func (p *Plan) blockWrites(span time.Duration) (writes, rate float64) {
	switch p.spec.Kind {
	case BlockIO:
		rate = float64(p.spec.Rate)
	case Mixed:
		rate = float64(p.spec.Writes)
	}
	return rate * span.Seconds(), rate
}

// owe adds writes. A backlog that was not dealt out is dropped down to one
// burst at the present rate; the part of a write that a slow stream has earned
// is kept.
func (s *stream) owe(writes, rate float64) {
	s.owed = min(s.owed+writes, max(rate*maxBurst.Seconds(), writes)+1)
}

// Next deals out one write that is due. The second result is false when
// nothing is. When both pages and blocks are due they take turns, so that
// neither waits for the other.
func (p *Plan) Next() (Op, bool) {
	page, block := p.pages.owed >= 1, p.blocks.owed >= 1
	switch {
	case block && !(page && p.blockLast):
		p.blockLast = true
		p.blocks.owed--
		return Op{Block, p.block()}, true
	case page:
		p.blockLast = false
		p.pages.owed--
		return Op{Page, p.page()}, true
	}
	return Op{}, false
}

// block chooses a block of any disk.
func (p *Plan) block() uint64 {
	i := p.rng.Uint64N(p.blocks.count)
	for _, e := range p.disks {
		if i < e.count {
			return e.first + i
		}
		i -= e.count
	}
	return 0 // not reached: the counts of all disks add up to blocks.count
}

// page chooses a page by the shape of the workload.
func (p *Plan) page() uint64 {
	n := p.pages.count
	switch p.spec.Kind {
	case Sequential:
		i := p.cursor
		p.cursor = (p.cursor + 1) % n
		return i
	case HotSet, Mixed:
		hot := share(n, p.spec.Hot)
		if hot == n || p.rng.Float64() < p.spec.Bias {
			return p.rng.Uint64N(hot)
		}
		return hot + p.rng.Uint64N(n-hot)
	case Cycle:
		return p.rng.Uint64N(share(n, p.spec.Hot))
	default:
		return p.rng.Uint64N(n)
	}
}

// share is that part of n pages, at least one and at most n.
func share(n uint64, part float64) uint64 {
	return min(max(uint64(float64(n)*part), 1), n)
}
