package postcopy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Config says what to fill, from where, and how.
type Config struct {
	// Blocks are the guest's, Addrs where each begins in the process that faults. All of them are registered.
	Blocks []ram.Block
	Addrs  []uint64
	// Faults is where faults come from. It belongs to the caller, who closes it after Close.
	Faults fault.Source
	// Events says that the source tells of changes of the layout, too: discards, remaps, unmaps, forks. They cost a lock
	// around every placement. Without them a discard is found at the fault that follows it.
	Events bool
	// Shared says of each block whether processes that fork off share it, as they do the memory of a file: what one of
	// them discards is zeros for all. Missing entries are private. It matters with Events only.
	Shared []bool
	// Demand fetches what a thread waits for, Bulk the rest. They should not share a connection. A Demand that is a Direct
	// is used as such where pages are small and Faults is a fault.PairWaiter.
	Demand, Bulk Fetcher
	// Missing are the pages to be fetched; all others are the guest's already, or zeros. It is copied.
	Missing ram.Set
	// Prepager orders the bulk; nil is from the first page to the last. The pager owns it from now on.
	Prepager Prepager
	// Limiter holds back the bulk; nil does not. Demand faults are never held back.
	Limiter Limiter
	// Hold keeps the bulk from starting, and Run from ending, until Push.
	Hold bool
	// DemandFetches is how many demand faults may be at the source at once; 0 is 16.
	DemandFetches int
	// BulkFetches is how many runs may be at the source at once, each of at most BulkBytes; 0 is 8 of 256 KiB. Their
	// product should be bandwidth × round trip, and not much more: a new plan has to wait for what was asked for. While
	// the guest faults, less is asked for at once.
	BulkFetches int
	BulkBytes   int64
	// Around is how many bytes around a page that somebody waits for are fetched with it, as far as they are missing: the
	// aligned range of that size. 0 is the page alone, which is best over a network. Where the source is near, 64 KiB cost
	// little more than one page and save most of the faults.
	Around int64
	// Spin is how long the thread that reads faults looks for the next one before it sleeps. It costs that much of a
	// processor, and saves a wake-up for each fault.
	Spin time.Duration
	// Trace hears of the faults; nil is nobody.
	Trace Trace
	Log   *slog.Logger
}

// Limiter holds callers back: rate.Limiter of golang.org/x/time is one. Tokens are bytes of contents.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
	Burst() int
}

// Pager fills the missing pages of a running guest. Its methods may be called from several goroutines.
type Pager struct {
	cfg  Config
	huge int64 // size of the largest page
	// demandBytes is the most that one demand fetch brings.
	demandBytes int64
	near        atomic.Bool
	direct      atomic.Pointer[directWay]
	log         *slog.Logger
	epoch       time.Time

	// mu guards what follows, and the books, zeros and dead of each space. It is not held over a system call, but for rare
	// events. A space's own lock comes before it.
	mu            sync.Mutex
	wantDemand    sync.Cond
	wantBulk      sync.Cond
	demand, bulk  Fetcher
	spaces        []*space
	queue         fifo
	fresh         fifo // of the root's faults, for the direct way
	hold          bool
	started       bool
	running       bool
	runCtx        context.Context // of the Run that is under way
	cancel        context.CancelCauseFunc
	zeros         []byte
	turn          int
	pace          pace
	stats         Stats
	remote, local meter
	broken        error
	brokenCh      chan struct{}
	doneCh        chan struct{} // has one token when nothing is missing
	closed        bool

	readers sync.WaitGroup
}

const (
	defaultDemandFetches = 16
	defaultBulkFetches   = 8
	defaultBulkBytes     = 256 << 10
	basePage             = 4096
)

// New makes a pager. Nothing is read or placed before Run.
func New(cfg Config) (*Pager, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("pager: %w", err)
	}
	cfg.fill()
	p := &Pager{cfg: cfg, log: cfg.Log, epoch: time.Now(), demand: cfg.Demand, bulk: cfg.Bulk,
		hold: cfg.Hold, remote: newMeter(), local: newMeter(), brokenCh: make(chan struct{}), doneCh: make(chan struct{}, 1)}
	p.pace.most = int64(cfg.BulkFetches) * cfg.BulkBytes
	p.near.Store(isNear(cfg.Demand))
	p.wantDemand.L, p.wantBulk.L = &p.mu, &p.mu
	for _, b := range cfg.Blocks {
		p.huge = max(p.huge, b.PageSize)
		p.demandBytes = max(p.demandBytes, cfg.Around/b.PageSize*b.PageSize, b.PageSize)
	}
	plan := cfg.Prepager
	if plan == nil {
		var err error
		if plan, err = prepage.New("linear", cfg.Blocks, cfg.Missing, nil); err != nil {
			return nil, fmt.Errorf("pager: %w", err)
		}
	}
	root := newSpace(p, cfg.Faults, newLayout(cfg.Blocks, cfg.Addrs), newBooks(cfg.Blocks, cfg.Missing, plan))
	root.root = true
	p.spaces = []*space{root}
	p.direct.Store(p.newDirect(cfg.Demand))
	return p, nil
}

func (c *Config) check() error {
	if len(c.Blocks) == 0 || len(c.Addrs) != len(c.Blocks) {
		return fmt.Errorf("%d RAM blocks at %d addresses", len(c.Blocks), len(c.Addrs))
	}
	for i, b := range c.Blocks {
		if err := b.Check(); err != nil {
			return err
		}
		if c.Addrs[i]%uint64(b.PageSize) != 0 {
			return fmt.Errorf("RAM block %q at %#x does not begin with a page of %d bytes", b.Name, c.Addrs[i], b.PageSize)
		}
	}
	if c.Faults == nil || c.Demand == nil || c.Bulk == nil {
		return errors.New("it needs a source of faults, and fetchers for demand and bulk")
	}
	return c.Missing.Fits(c.Blocks)
}

func (c *Config) fill() {
	if c.DemandFetches <= 0 {
		c.DemandFetches = defaultDemandFetches
	}
	if c.BulkFetches <= 0 {
		c.BulkFetches = defaultBulkFetches
	}
	if c.BulkBytes <= 0 {
		c.BulkBytes = defaultBulkBytes
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Use replaces the fetchers for the Runs to come, after a link was lost.
func (p *Pager) Use(demand, bulk Fetcher) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running {
		return ErrRunning
	}
	p.demand, p.bulk = demand, bulk
	p.near.Store(isNear(demand))
	p.direct.Store(p.newDirect(demand))
	return nil
}

// Push lets the bulk start, and Run end.
func (p *Pager) Push() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = false
	p.wantBulk.Broadcast()
	p.checkDone()
}

// Drain tells the plan that the rest is wanted, in whatever order: prepage's none asks for nothing before.
func (p *Pager) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.spaces {
		if d, ok := s.books.plan.(interface{ Drain() }); ok {
			d.Drain()
		}
	}
	p.wantBulk.Broadcast()
}

// Missing are the guest's pages that have not come, whether they are under way or not. Pages of processes that forked
// off are not among them.
func (p *Pager) Missing() ram.Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.spaces {
		if s.root {
			return s.books.missing.Clone()
		}
	}
	return ram.NewSet(p.cfg.Blocks)
}

// Close stops the threads that read faults, and waits for them; a Run that is under way has to be ended first, by its
// context. It unregisters nothing: when pages are missing, who touches one waits for the next pager. Processes that forked off
// lose their missing pages, for nobody else has their descriptor: that is an error.
func (p *Pager) Close() error {
	p.mu.Lock()
	if p.running {
		p.mu.Unlock()
		return ErrRunning
	}
	p.closed = true
	spaces := p.spaces
	p.spaces = spaces[:0:0]
	for _, s := range spaces {
		if s.root {
			p.spaces = append(p.spaces, s)
		}
	}
	p.mu.Unlock()
	var errs []error
	for _, s := range spaces {
		errs = append(errs, s.halt())
	}
	p.readers.Wait()
	for _, s := range spaces {
		if !s.root {
			errs = append(errs, s.abandon())
		}
	}
	return errors.Join(errs...)
}

// now is the pager's clock.
func (p *Pager) now() time.Duration { return time.Since(p.epoch) }

// fail ends all: the kernel said what nothing can be done about. The caller does not hold mu.
func (p *Pager) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failLocked(err)
}

func (p *Pager) failLocked(err error) {
	if p.broken == nil {
		p.broken = err
		close(p.brokenCh)
	}
}

// checkDone leaves a token when nothing is missing any more. The caller holds mu.
func (p *Pager) checkDone() {
	if p.hold {
		return
	}
	for _, s := range p.spaces {
		if s.books.left > 0 {
			return
		}
	}
	select {
	case p.doneCh <- struct{}{}:
	default:
	}
}
