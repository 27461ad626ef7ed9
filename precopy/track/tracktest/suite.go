//go:build linux

package tracktest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy/track"
)

// Suite is a kind of tracker and what it can watch.
type Suite struct {
	Kind     string
	Memories []Memory
	// Exact: a harvest has no page that was not written.
	Exact bool
}

// Run runs all tests over all kinds of memory.
func (s Suite) Run(t *testing.T) {
	for _, m := range s.Memories {
		t.Run(string(m), func(t *testing.T) {
			for name, test := range map[string]func(*testing.T, *bench){
				"FirstHarvest": s.firstHarvest, "WhatWasWritten": s.written, "KernelWrites": s.kernelWrites, "Discards": s.discards,
				"TheCopyIsEqual": s.copyIsEqual, "UnionCovers": s.unionCovers, "Cancelled": s.cancelled, "TheProcessDies": s.dies, "Close": s.closes,
			} {
				t.Run(name, func(t *testing.T) { test(t, s.open(t, m)) })
			}
		})
	}
}

// bench is a child and a tracker of it, and the copy that the harvests lead to.
type bench struct {
	*Process
	memory  Memory
	tracker track.Tracker
	pages   int
	copy    []byte
}

func (s Suite) open(t *testing.T, m Memory) *bench {
	t.Helper()
	pages := int64(2048)
	if m == Huge || m == HugeUnknown {
		pages = 8
	}
	b := &bench{Process: Start(t, m, pages), memory: m, pages: int(pages)}
	b.Do(t, "fill", pages/4, pages/2)
	b.tracker = b.arm(t, s.Kind)
	b.copy = make([]byte, b.Region.Block.Size)
	return b
}

func (b *bench) arm(t *testing.T, kind string) track.Tracker {
	t.Helper()
	tr, err := track.Open(t.Context(), kind, b.PID, []track.Region{b.Region})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if tr.Name() != kind {
		t.Errorf("it calls itself %q", tr.Name())
	}
	return tr
}

// harvest also copies what it says, as a migration would.
func (b *bench) harvest(t *testing.T) *ram.Bitmap {
	t.Helper()
	set, err := b.tracker.Harvest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	size := b.Region.Block.PageSize
	for lo, hi := range set[0].Runs() {
		part := b.copy[int64(lo)*size : int64(hi)*size]
		b.read(t, part, int64(lo)*size)
		if w, ok := b.tracker.(track.Witness); ok {
			w.Sent(0, int64(lo)*size, part)
		}
	}
	return set[0]
}

// same holds the copy to the memory.
func (b *bench) same(t *testing.T) {
	t.Helper()
	now, size := b.Contents(t), int(b.Region.Block.PageSize)
	if bytes.Equal(now, b.copy) {
		return
	}
	wrong := 0
	for p := range b.pages {
		if !bytes.Equal(now[p*size:(p+1)*size], b.copy[p*size:(p+1)*size]) {
			if wrong++; wrong <= 8 {
				t.Errorf("page %d of the copy is not what the memory holds", p)
			}
		}
	}
	t.Fatalf("%d pages are stale", wrong)
}

// The first harvest has every page that holds data, and not those that are holes, where that is known.
func (s Suite) firstHarvest(t *testing.T, b *bench) {
	first := b.harvest(t)
	if n := first.CountRange(b.pages/4, b.pages/2); n != b.pages/4 {
		t.Errorf("%d of %d pages with data are in it", n, b.pages/4)
	}
	knowsHoles := b.Region.File != nil
	if n := first.Count(); knowsHoles && n != b.pages/4 || !knowsHoles && n != b.pages {
		t.Errorf("it has %d pages of %d", n, b.pages)
	}
	b.same(t)
	if n := b.harvest(t).Count(); s.Exact && n != 0 {
		t.Errorf("then nothing was written, and %d pages are told", n)
	}
}

// A harvest has what was written since the last one, into pages with data and into holes, and it arms again.
func (s Suite) written(t *testing.T, b *bench) {
	b.harvest(t)
	for round := range 4 {
		data, hole := b.pages/4+round, b.pages/2+round%(b.pages/2)
		b.Do(t, "touch", data, round+1)
		b.Do(t, "touch", hole, round+1)
		got := b.harvest(t)
		if !got.Test(data) || !got.Test(hole) {
			t.Fatalf("round %d: page %d: %t, page %d: %t", round, data, got.Test(data), hole, got.Test(hole))
		}
		if n := got.Count(); s.Exact && n != 2 {
			t.Errorf("round %d: two pages were written, %d are told", round, n)
		}
		b.same(t)
	}
	b.Do(t, "look", 0, b.pages) // reading is not writing
	if n := b.harvest(t).Count(); s.Exact && n != 0 && b.file == nil {
		t.Errorf("%d pages were only read, and are told", n)
	}
	b.same(t)
}

// What the kernel writes for the process counts.
func (s Suite) kernelWrites(t *testing.T, b *bench) {
	b.harvest(t)
	lo, hi := b.pages/4+1, b.pages/2+2
	b.Do(t, "kernel", lo, hi)
	got := b.harvest(t)
	if n := got.CountRange(lo, hi); n != hi-lo {
		t.Errorf("the kernel wrote %d pages, %d are told", hi-lo, n)
	}
	b.same(t)
}

// Pages that were thrown away read as zeros, and the copy has to.
func (s Suite) discards(t *testing.T, b *bench) {
	command := "remove"
	if b.memory == Anonymous || b.memory == Transparent {
		command = "discard"
	}
	b.Do(t, "fill", 0, b.pages)
	b.harvest(t)
	b.harvest(t)
	b.Do(t, command, b.pages/4, b.pages/2) // 2 MiB of small pages: a whole page table
	b.harvest(t)
	b.same(t)
	b.Do(t, command, 0, 1)
	b.Do(t, "touch", 1, 7)
	b.harvest(t)
	b.same(t)
	b.Do(t, "look", 0, b.pages)
	b.Do(t, "fill", b.pages/4, b.pages/4+1) // written again where it was thrown away
	b.harvest(t)
	b.same(t)
}

// Whatever is written while harvests and copies go on, in the end the copy is equal.
func (s Suite) copyIsEqual(t *testing.T, b *bench) {
	seed := time.Now().UnixNano() & 0xffffff
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	b.Do(t, "start", 2, seed)
	for range 5 {
		b.harvest(t)
	}
	b.Do(t, "stop")
	b.harvest(t)
	b.same(t)
	for range 6 { // and without writers in between, to the page
		b.Do(t, "write", rng.IntN(50), rng.IntN(1<<20))
		b.harvest(t)
		b.same(t)
	}
}

// The union of harvests covers every page that changed, also with threads that write all the time.
func (s Suite) unionCovers(t *testing.T, b *bench) {
	b.harvest(t)
	before, union := b.Contents(t), ram.NewBitmap(b.pages)
	b.Do(t, "start", 2, 99)
	for range 5 {
		union.Or(b.harvest(t))
	}
	b.Do(t, "stop")
	union.Or(b.harvest(t))
	after, size := b.Contents(t), int(b.Region.Block.PageSize)
	for p := range b.pages {
		if !union.Test(p) && !bytes.Equal(before[p*size:(p+1)*size], after[p*size:(p+1)*size]) {
			t.Fatalf("page %d changed and no harvest told it", p)
		}
	}
}

// An ended context is an error with every page, and what comes after it is right again.
func (s Suite) cancelled(t *testing.T, b *bench) {
	b.harvest(t)
	b.Do(t, "touch", b.pages/2+1, 9)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	set, err := b.tracker.Harvest(ctx)
	if !errors.Is(err, context.Canceled) || set.Count() != b.pages {
		t.Fatalf("%v with %d of %d pages", err, set.Count(), b.pages)
	}
	b.harvest(t)
	b.same(t)
}

// When the process has ended nothing is known, and closing is no error.
func (s Suite) dies(t *testing.T, b *bench) {
	b.harvest(t)
	b.Kill()
	for range 2 {
		set, err := b.tracker.Harvest(t.Context())
		if !errors.Is(err, track.ErrGone) || set.Count() != b.pages {
			t.Fatalf("%v with %d of %d pages", err, set.Count(), b.pages)
		}
	}
	if err := b.tracker.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// After Close the process runs as before, and another tracker can be armed.
func (s Suite) closes(t *testing.T, b *bench) {
	b.Do(t, "start", 2, 5)
	b.harvest(t)
	before := descriptors(t, b.PID)
	for range 2 {
		if err := b.tracker.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
	if set, err := b.tracker.Harvest(t.Context()); !errors.Is(err, track.ErrClosed) || set.Count() != b.pages {
		t.Errorf("harvest after close: %v with %d pages", err, set.Count())
	}
	b.Do(t, "stop")
	if after := descriptors(t, b.PID); after > before || userfaults(t, b.PID) != 0 {
		t.Errorf("the process has %d descriptors after Close, %d before, %d userfaultfds", after, before, userfaults(t, b.PID))
	}
	b.Do(t, "fill", 0, b.pages)
	b.tracker = b.arm(t, s.Kind)
	b.harvest(t)
	b.Do(t, "write", 10, 3)
	b.harvest(t)
	b.same(t)
}
