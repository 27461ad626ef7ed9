package postcopy_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/fault/faulttest"
)

// asked is a Direct over an origin. It has no descriptor: when an answer is there it calls wake.
type asked struct {
	*origin
	sends, refused, drops atomic.Int64

	mu    sync.Mutex
	wake  func()
	done  func(*postcopy.Ask)
	under map[*postcopy.Ask]int // which sending is under way
	ended []*postcopy.Ask
}

func newAsked(o *origin) *asked { return &asked{origin: o, under: map[*postcopy.Ask]int{}} }

func (d *asked) Watch(wake func(), done func(*postcopy.Ask)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wake, d.done = wake, done
}

func (d *asked) Descriptor() int { return -1 }

// Send refuses one in seven.
func (d *asked) Send(a *postcopy.Ask) bool {
	n := int(d.sends.Add(1))
	if n%7 == 0 {
		d.refused.Add(1)
		return false
	}
	d.mu.Lock()
	d.under[a] = n
	d.mu.Unlock()
	block, off, size := a.Block, a.Offset, len(a.P)
	go func() {
		buf := make([]byte, size)
		holes, err := d.Fetch(context.Background(), block, off, buf)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.under[a] != n {
			return // dropped
		}
		delete(d.under, a)
		copy(a.P, buf)
		a.Holes, a.Err = holes, err
		d.ended = append(d.ended, a)
		d.wake()
	}()
	return true
}

func (d *asked) Take() {
	d.mu.Lock()
	ended := d.ended
	d.ended = nil
	d.mu.Unlock()
	for _, a := range ended {
		d.done(a)
	}
}

func (d *asked) Drop(a *postcopy.Ask) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drops.Add(1)
	delete(d.under, a)
	for i, o := range d.ended {
		if o == a {
			d.ended = append(d.ended[:i], d.ended[i+1:]...)
			break
		}
	}
}

// paired is a fake guest whose reader can wait for a descriptor, too, of which there is none.
type paired struct{ *faulttest.Memory }

var _ fault.PairWaiter = paired{}

func (p paired) WaitWith(int) (events, other bool, err error) { return true, true, p.Wait() }

// What is under way at the end of a Run is given up, and comes by the next one, over whatever link.
func TestDirectGivesUp(t *testing.T) {
	g := newGuest(t, 8)
	gate := make(chan struct{})
	stuck := newAsked(newOrigin(g.blocks))
	var shut atomic.Bool
	stuck.fail = func(context.Context, int, int, int) error {
		if shut.Load() {
			<-gate
		}
		return nil
	}
	cfg := g.config()
	cfg.Demand, cfg.Faults, cfg.Hold, cfg.DemandFetches = stuck, paired{g.Memory}, true, 2
	p := g.pager(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	run := make(chan error, 1)
	go func() { run <- p.Run(ctx) }()
	touch := func(n int) {
		if _, err := g.Touch(t.Context(), g.addr(0, n)); err != nil {
			t.Error(err)
		}
	}
	touch(7) // the Run has begun, then
	shut.Store(true)
	before := stuck.sends.Load()
	var touched sync.WaitGroup
	for n := range 4 { // two of them have to wait for the others
		touched.Go(func() { touch(n) })
	}
	g.WaitRead(5)
	for stuck.sends.Load() < before+2 {
		runtime.Gosched()
	}
	cancel()
	if err := <-run; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if stuck.drops.Load() != 2 {
		t.Errorf("%d given up", stuck.drops.Load())
	}
	if err := p.Use(g.src, g.src); err != nil {
		t.Fatal(err)
	}
	p.Push()
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	touched.Wait()
	close(gate)
}
