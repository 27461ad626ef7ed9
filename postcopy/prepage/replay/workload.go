package replay

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Workload makes traces of a guest that was never run: one block, threads that touch its pages in a pattern. The same
// workload gives the same trace.
type Workload struct {
	// Pages is the size of the guest's RAM, Set how many of them it uses; a Set of 0 is a quarter.
	Pages, Set int
	// Touches is how often each of Threads touches memory at all; what a trace holds of it are the first touches.
	Touches, Threads int
	// Think is the time between two touches of one thread, of the same page or of another.
	Think time.Duration
	// Seed is what chance begins with.
	Seed uint64
}

// pattern gives the pages that a thread touches, one after the other, in [0, set).
type pattern func(rng *rand.Rand, thread, set int) func() int

// Sequential walks through the set, each thread through a part of its own.
func (w Workload) Sequential() *Trace {
	return w.trace(func(_ *rand.Rand, thread, set int) func() int {
		part := set / w.threads()
		at := thread*part - 1
		return func() int {
			at++
			return thread*part + (at-thread*part)%part
		}
	})
}

// Strided walks through the set in steps of 24 pages and begins anew a page further, as one does along the columns of a
// matrix.
func (w Workload) Strided() *Trace {
	return w.trace(func(_ *rand.Rand, thread, set int) func() int {
		at, from := 0, thread*set/w.threads()
		return func() int {
			page := (from + at) % set
			if at += 24; at >= set {
				at = at%24 + 1
			}
			return page
		}
	})
}

// Random touches the set evenly.
func (w Workload) Random() *Trace {
	return w.trace(func(rng *rand.Rand, _, set int) func() int {
		return func() int { return rng.IntN(set) }
	})
}

// Zipf touches few pages of the set often and most of them rarely; hot pages lie in clusters of 8, as objects of one age
// do in a heap.
func (w Workload) Zipf() *Trace { return w.trace(w.zipf) }

const cluster = 8

func (w Workload) zipf(rng *rand.Rand, _, set int) func() int {
	clusters := max(2, set/cluster)
	z := rand.NewZipf(rng, 1.1, 8, uint64(clusters-1))
	place := rand.New(rand.NewPCG(w.Seed, 1)).Perm(clusters) // the same for all threads
	return func() int { return min(set-1, place[z.Uint64()]*cluster+rng.IntN(cluster)) }
}

// Mixed is a guest with some of everything: each thread does a while of one pattern, then of another.
func (w Workload) Mixed() *Trace {
	return w.trace(func(rng *rand.Rand, thread, set int) func() int {
		heap := w.zipf(rng, thread, set/2)
		scan, left, kind := 0, 0, 0
		return func() int {
			if left--; left < 0 {
				left, kind = 50+rng.IntN(400), rng.IntN(4)
				scan = rng.IntN(set / 2)
			}
			switch kind {
			case 0, 1:
				return heap()
			case 2:
				scan++
				return set/2 + scan%(set/2)
			default:
				return rng.IntN(set)
			}
		}
	})
}

func (w Workload) threads() int { return max(1, w.Threads) }

// trace lets the threads run: for a while at the source, for the hot pages, then on at the destination.
func (w Workload) trace(p pattern) *Trace {
	blocks := []ram.Block{{Name: "pc.ram", Size: int64(w.Pages) * 4096, PageSize: 4096}}
	t := &Trace{Blocks: blocks, Missing: ram.NewSet(blocks)}
	t.Missing.Fill()
	set := w.Set
	if set == 0 {
		set = w.Pages / 4
	}
	base := (w.Pages - set) / 2
	rng := rand.New(rand.NewPCG(w.Seed, 0))
	var step []func() int
	for i := range w.threads() {
		step = append(step, p(rng, i, set))
	}
	written := make([]int, w.Pages)
	for now := range w.Touches / 2 {
		for _, next := range step {
			if page := base + next(); rng.IntN(3) == 0 {
				written[page] = now + 1
			}
		}
	}
	t.Hot = hottest(written)
	seen := ram.NewBitmap(w.Pages)
	for now := range w.Touches {
		for i, next := range step {
			if page := base + next(); !seen.Test(page) {
				seen.Set(page)
				t.Faults = append(t.Faults, Fault{time.Duration(now) * w.Think, i, prepage.Ref{Page: page}})
			}
		}
	}
	return t
}

// hottest lists the pages that were written, the last first.
func hottest(written []int) []prepage.Ref {
	var hot []prepage.Ref
	for page, at := range written {
		if at > 0 {
			hot = append(hot, prepage.Ref{Page: page})
		}
	}
	slices.SortStableFunc(hot, func(a, b prepage.Ref) int { return written[b.Page] - written[a.Page] })
	return hot
}
