package prepage

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// all makes a policy for one block of which all pages are missing.
func all(t testing.TB, name string, pages int, hot ...int) *Policy {
	t.Helper()
	blocks := []ram.Block{{Name: "pc.ram", Size: int64(pages) * 4096, PageSize: 4096}}
	missing := ram.NewSet(blocks)
	missing.Fill()
	var refs []Ref
	for _, h := range hot {
		refs = append(refs, Ref{0, h})
	}
	p, err := New(name, blocks, missing, refs)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// given is what Next gives, one number for each page, in n calls.
func given(p *Policy, n, limit int) string {
	var out []string
	for range n {
		run, ok := p.Next(limit)
		if !ok {
			out = append(out, "end")
			break
		}
		if run.Pages() == 1 {
			out = append(out, fmt.Sprint(run.Lo))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", run.Lo, run.Hi-1))
		}
	}
	return strings.Join(out, " ")
}

func expect(t *testing.T, p *Policy, n, limit int, want string) {
	t.Helper()
	if got := given(p, n, limit); got != want {
		t.Errorf("%s gives\n%s, not\n%s", p.Name(), got, want)
	}
}

func TestLinear(t *testing.T) {
	p := all(t, "linear", 10)
	p.Fault(0, 4)
	p.Discarded(0, 7, 8)
	expect(t, p, 9, 3, "0-2 3 5-6 8-9 end")
}

func TestBubbleGrowsBothWays(t *testing.T) {
	p := all(t, "bubble", 1000)
	p.Fault(0, 100)
	expect(t, p, 4, 1, "101 99 102 98")
	p.Placed(0, 103, 105)
	expect(t, p, 3, 4, "105-108 94-97 109-112")
	p.Fault(0, 999) // a second pivot, which has no way up
	expect(t, p, 4, 2, "997-998 92-93 995-996 113-114")
}

func TestBubbleUp(t *testing.T) {
	p := all(t, "bubble-up", 100)
	p.Fault(0, 95)
	expect(t, p, 4, 3, "96-98 99 0-2 3-5")
}

// A fault near a bubble moves it and makes no second one.
func TestBubbleMoves(t *testing.T) {
	p := all(t, "bubble", 1000)
	p.Fault(0, 100)
	expect(t, p, 2, 4, "101-104 96-99")
	p.Fault(0, 120)
	expect(t, p, 4, 4, "121-124 116-119 125-128 112-115")
}

// Two bubbles that meet leave the edge to one of them.
func TestBubblesMeet(t *testing.T) {
	p := all(t, "bubble-up", 400)
	p.Fault(0, 100)
	p.Fault(0, 200)
	given(p, 2, 99) // 201-299, 101-199
	expect(t, p, 3, 10, "300-309 310-319 320-329")
	bubbles := p.order.(*bubbles)
	if n := len(bubbles.all); n != 2 || bubbles.all[1].upOpen {
		t.Errorf("%d bubbles: %+v", n, bubbles.all)
	}
}

// The eighth place that faults ends the bubble that had no fault for the longest time.
func TestBubblesAreFew(t *testing.T) {
	p := all(t, "bubble-up", 10000)
	for i := range pivots + 1 {
		p.Fault(0, 1000*i)
	}
	expect(t, p, 8, 1, "7001 6001 5001 4001 3001 2001 1001 7002")
}

func TestStride(t *testing.T) {
	p := all(t, "stride", 2000)
	for i := range 6 {
		p.Fault(0, 100+24*i)
	}
	expect(t, p, 4, 16, "244 268 292 316")
	p.Fault(0, 340) // two steps ahead of what was fetched: the same walk, which is ahead of it from here
	expect(t, p, 2, 16, "364 388")
	down := all(t, "stride", 2000)
	for i := range 6 {
		down.Fault(0, 1000-i)
	}
	expect(t, down, 2, 16, "979-994 963-978")
}

// Faults without a common step are the bubbles'.
func TestStrideNeedsAMajority(t *testing.T) {
	p := all(t, "stride", 2000)
	for _, page := range []int{100, 110, 130, 131, 170, 175} {
		p.Fault(0, page)
	}
	expect(t, p, 2, 1, "176 174")
}

// Odd faults among those of a walk do not end it.
func TestStrideSurvivesNoise(t *testing.T) {
	p := all(t, "stride", 100000)
	for i := range 20 {
		p.Fault(0, 1000+40*i)
		if i%5 == 2 {
			p.Fault(0, 50000+777*i)
		}
	}
	expect(t, p, 3, 16, "1800 1840 1880")
}

func TestHotsetFirst(t *testing.T) {
	p := all(t, "hotset", 1000, 500, 50, 51, 501, 49, 700)
	expect(t, p, 1, 16, "500-501")
	p.Fault(0, 300)
	expect(t, p, 7, 2, "301-302 50-51 298-299 303-304 49 296-297 700")
}

// Faults of pages of the list speak for the list, and others against it.
func TestHotsetLearns(t *testing.T) {
	hot := make([]int, 0, 2000)
	for i := range 1000 {
		hot = append(hot, 3*i)
	}
	p := all(t, "hotset", 9000, hot...)
	for i := range 10 {
		p.Fault(0, 1500+3*i)
	}
	expect(t, p, 8, 1, "1528 0 3 6 9 12 15 18")
	for i := range 10 {
		p.Fault(0, 4000+i)
	}
	expect(t, p, 8, 1, "4010 1526 3999 1529 4011 1525 3998 21")
}

// A hot page in the middle of more hot pages than fit into a request is among those that come.
func TestHotsetKeepsTheHottest(t *testing.T) {
	hot := []int{50}
	for i := 40; i < 60; i++ {
		hot = append(hot, i)
	}
	expect(t, all(t, "hotset", 100, hot...), 1, 4, "50-53")
	expect(t, all(t, "hotset", 52, hot[:12]...), 1, 4, "47-50")
}

// The cost does not grow with the pages between: 16 million pages, most of them gone.
func BenchmarkPolicy(b *testing.B) {
	for _, name := range Names() {
		for _, pages := range []int{1 << 14, 1 << 24} {
			b.Run(fmt.Sprintf("%s/pages=%d/Next", name, pages), func(b *testing.B) { benchNext(b, name, pages) })
			b.Run(fmt.Sprintf("%s/pages=%d/Fault", name, pages), func(b *testing.B) { benchFault(b, name, pages) })
		}
	}
}

// benchNext takes and returns runs of 64 pages of which few are left, so that the search is what it costs.
func benchNext(b *testing.B, name string, pages int) {
	p := all(b, name, pages, pages/2, pages/3)
	for lo := 0; lo < pages; lo += 8192 {
		p.Placed(0, lo+64, min(pages, lo+8192))
	}
	p.Fault(0, pages/2)
	p.Drain()
	for b.Loop() {
		run, ok := p.Next(64)
		if ok {
			p.Return(run)
		}
	}
}

func benchFault(b *testing.B, name string, pages int) {
	p := all(b, name, pages)
	x := uint64(1)
	for b.Loop() {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		page := int(x % uint64(pages))
		if p.Fault(0, page) {
			p.Return(Run{0, page, page + 1})
		}
	}
}
