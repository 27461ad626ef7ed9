package postcopy_test

import (
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/postcopy/fault/faulttest"
)

// parked is memory whose first placement waits to be let.
type parked struct {
	*faulttest.Memory
	once         sync.Once
	arrived, let chan struct{}
}

func (p *parked) Copy(dst uint64, src []byte) (int, error) {
	p.once.Do(func() {
		close(p.arrived)
		<-p.let
	})
	return p.Memory.Copy(dst, src)
}

// A page that is about to be placed while the guest discards it is not placed after the discard: the event is not read
// before the placement is done, and the guest does not go on before that.
func TestNothingIsPlacedAfterItsDiscard(t *testing.T) {
	g := newGuest(t, 4)
	src := &parked{Memory: g.Memory, arrived: make(chan struct{}), let: make(chan struct{})}
	cfg := g.config()
	cfg.Faults, cfg.Hold = src, true
	p := g.pager(cfg)
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	p.Push()
	<-src.arrived
	discarded := make(chan struct{})
	go func() {
		defer close(discarded)
		g.Discard(g.addr(0, 0), page, true)
	}()
	select {
	case <-discarded:
		t.Error("the guest went on before the placement was done")
	case <-time.After(20 * time.Millisecond): // long enough for a pager that does not wait
	}
	close(src.let)
	<-discarded
	if got, err := g.Touch(t.Context(), g.addr(0, 0)); err != nil || string(got) != string(make([]byte, page)) {
		t.Errorf("the discarded page holds %x…, %v", got[:8], err)
	}
	if err := <-run; err != nil {
		t.Fatal(err)
	}
}
