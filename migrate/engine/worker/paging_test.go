package worker

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/fault/faulttest"
)

// noSource has no pages to give.
type noSource struct{}

func (noSource) Fetch(ctx context.Context, _ int, _ int64, _ []byte) ([]ram.Extent, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// aPager fills the memory of nobody.
func aPager(t *testing.T) *paging {
	t.Helper()
	blocks := []ram.Block{{Name: "a", Size: 16 << 12, PageSize: 4096}}
	missing := ram.NewSet(blocks)
	missing.Fill()
	r := &paging{done: make(chan struct{}), broken: make(chan error, 1), faults: faulttest.New(4096, false, fault.Range{Start: 1 << 20, Length: 16 << 12})}
	var err error
	r.p, err = postcopy.New(postcopy.Config{Blocks: blocks, Addrs: []uint64{1 << 20}, Faults: r.faults, Missing: missing, Demand: noSource{}, Bulk: noSource{}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func anEnd() *destEnd {
	d := &destEnd{gate: newGate()}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d
}

// A pager that begins when the guest was let go of would serve its faults beside the next agent's.
func TestNoPagerBeginsAtAnEndThatIsClosed(t *testing.T) {
	d, r := anEnd(), aPager(t)
	d.stop()
	if err := d.begin(r); !errors.Is(err, agent.ErrClosed) {
		t.Errorf("%v, want closed", err)
	}
	if err := r.p.Run(t.Context()); err == nil || d.paging() != nil {
		t.Errorf("it runs: %v", err)
	}
}

// Progress is told by a goroutine of its own while a pager takes another's place.
func TestProgressWhilePagersChange(t *testing.T) {
	d := anEnd()
	var wg sync.WaitGroup
	quit := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
				d.progress()
			}
		}
	})
	for range 50 {
		r := aPager(t)
		if err := d.begin(r); err != nil {
			t.Fatal(err)
		}
		if got := d.takePaging(); got != r || d.paging() != nil {
			t.Fatal("it is another's")
		}
		for range 2 { // both who puts another in its place and who lets go may do so
			if err := r.close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(quit)
	wg.Wait()
	d.stop()
}

// However large the guest's pages are, what is under way takes no more memory than a page, or the bound.
func TestFetchesTakeBoundedMemory(t *testing.T) {
	for _, size := range []int{pieceSize, 2 << 20, 32 << 20, 1 << 30} {
		in := &intake{bufs: newBuffers(size)}
		if n := in.fetchers(); n < 1 || n*size > max(size, underWay) || size <= 2<<20 && n*size < 2*bulkWindow {
			t.Errorf("%d fetches of %d bytes", n, size)
		}
	}
}
