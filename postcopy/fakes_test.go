package postcopy_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/fault/faulttest"
)

const page = 4096

// origin is the source's RAM: every page holds its own number, and some are holes.
type origin struct {
	blocks []ram.Block
	// fail is asked before each fetch.
	fail  func(ctx context.Context, block, page, pages int) error
	near  bool
	calls atomic.Int64
	mu    sync.Mutex
	asked map[[2]int]int
}

func newOrigin(blocks []ram.Block) *origin { return &origin{blocks: blocks, asked: map[[2]int]int{}} }

// zero is whether a page is a hole: one in five, in runs of three.
func zero(block, p int) bool { return (p/3+block)%5 == 2 }

// fill writes what a page holds.
func fill(b []byte, block, p int) {
	clear(b)
	if !zero(block, p) {
		binary.LittleEndian.PutUint64(b, uint64(block+1)<<32|uint64(p)+1)
		b[len(b)-1] = 0xa5
	}
}

func (o *origin) Near() bool { return o.near }

func (o *origin) Fetch(ctx context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	o.calls.Add(1)
	size := o.blocks[block].PageSize
	first, n := int(off/size), int(int64(len(p))/size)
	if o.fail != nil {
		if err := o.fail(ctx, block, first, n); err != nil {
			return nil, err
		}
	}
	var holes []ram.Extent
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range n {
		o.asked[[2]int{block, first + i}]++
		at := p[int64(i)*size : int64(i+1)*size]
		if !zero(block, first+i) {
			fill(at, block, first+i)
			continue
		}
		for j := range at {
			at[j] = 0xee // nothing may be read where there is a hole
		}
		holes = append(holes, ram.Extent{Offset: off + int64(i)*size, Length: size})
	}
	return holes, nil
}

// guest is a fake guest and what is to be fetched for it.
type guest struct {
	*faulttest.Memory
	t      testing.TB
	blocks []ram.Block
	addrs  []uint64
	src    *origin
}

func newGuest(t testing.TB, pages ...int) *guest {
	g := &guest{t: t}
	var ranges []fault.Range
	for i, n := range pages {
		b := ram.Block{Name: fmt.Sprintf("ram%d", i), Size: int64(n) * page, PageSize: page}
		addr := uint64(i+1) << 32
		g.blocks, g.addrs = append(g.blocks, b), append(g.addrs, addr)
		ranges = append(ranges, fault.Range{Start: addr, Length: uint64(b.Size)})
	}
	g.Memory = faulttest.New(page, false, ranges...)
	g.src = newOrigin(g.blocks)
	return g
}

func (g *guest) all() ram.Set {
	s := ram.NewSet(g.blocks)
	s.Fill()
	return s
}

func (g *guest) addr(block, p int) uint64 { return g.addrs[block] + uint64(p)*page }

// config fetches all pages.
func (g *guest) config() postcopy.Config {
	return postcopy.Config{Blocks: g.blocks, Addrs: g.addrs, Faults: g.Memory, Events: true, Demand: g.src, Bulk: g.src,
		Missing: g.all(), BulkBytes: 8 * page, BulkFetches: 3}
}

func (g *guest) pager(cfg postcopy.Config) *postcopy.Pager {
	g.t.Helper()
	p, err := postcopy.New(cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			g.t.Errorf("close: %v", err)
		}
	})
	return p
}

// want is what a page holds at the source.
func want(block, p int) []byte {
	b := make([]byte, page)
	fill(b, block, p)
	return b
}

// checkWhole verifies that the guest has all pages, byte for byte, once nothing is watched any more.
func (g *guest) checkWhole(m *faulttest.Memory) {
	g.t.Helper()
	if m.Watched() {
		g.t.Error("the memory is still registered")
	}
	for i, b := range g.blocks {
		for p := range b.Pages() {
			got, err := m.Touch(context.Background(), g.addr(i, p))
			if err != nil || string(got) != string(want(i, p)) {
				g.t.Fatalf("block %d page %d holds %x…, %v", i, p, got[:8], err)
			}
		}
	}
}
