package postcopy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Without any fault all pages come, each is asked for once, and holes are neither sent nor placed.
func TestBulkBringsAll(t *testing.T) {
	g := newGuest(t, 100, 33)
	p := g.pager(g.config())
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := p.Stats()
	if st.Remaining != 0 || st.Prepaged+st.Zero != 133 || st.Bytes != st.Prepaged*page || st.Demanded != 0 {
		t.Errorf("%+v", st)
	}
	for addr, n := range g.Placements() {
		if n != 1 {
			t.Errorf("page %#x was placed %d times", addr, n)
		}
	}
	if n := len(g.Placements()); int64(n) != st.Prepaged {
		t.Errorf("%d pages placed, %d of them had contents", n, st.Prepaged)
	}
	for r, n := range g.src.asked {
		if n != 1 {
			t.Errorf("page %v was asked for %d times", r, n)
		}
	}
	g.checkWhole(g.Memory)
}

// Many threads wait for one page: it is asked for once, and all go on.
func TestManyWaitForOnePage(t *testing.T) {
	g := newGuest(t, 64)
	cfg := g.config()
	cfg.Hold = true
	waiting := make(chan struct{})
	g.src.fail = func(context.Context, int, int, int) error { <-waiting; return nil }
	p := g.pager(cfg)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got, err := g.Touch(t.Context(), g.addr(0, 12)+99); err != nil || string(got) != string(want(0, 12)) {
				t.Errorf("%x…, %v", got[:8], err)
			}
		})
	}
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	close(waiting)
	wg.Wait()
	if n := g.src.calls.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	p.Push()
	if err := <-run; err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.RemoteFaults != 1 || st.Demanded != 1 || st.Remote.Count != 1 {
		t.Errorf("%+v", st)
	}
	g.checkWhole(g.Memory)
}

// A fault on a page that the bulk has under way is not asked for twice, and is timed.
func TestFaultJoinsBulk(t *testing.T) {
	g := newGuest(t, 8)
	cfg := g.config()
	asked, let := make(chan struct{}), make(chan struct{})
	var once sync.Once
	g.src.fail = func(context.Context, int, int, int) error {
		once.Do(func() { close(asked) })
		<-let
		return nil
	}
	p := g.pager(cfg)
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	<-asked
	noted := make(chan struct{})
	go func() {
		defer close(noted)
		if got, err := g.Touch(t.Context(), g.addr(0, 3)); err != nil || string(got) != string(want(0, 3)) {
			t.Errorf("%x…, %v", got[:8], err)
		}
	}()
	g.WaitRead(1)
	close(let)
	<-noted
	if err := <-run; err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.JoinedFaults != 1 || st.RemoteFaults != 1 || g.src.calls.Load() != 1 {
		t.Errorf("%+v, %d calls", st, g.src.calls.Load())
	}
}

// Pages that are not missing, and those that the guest has discarded, are zeros at once, without the source.
func TestZerosNeedNoSource(t *testing.T) {
	g := newGuest(t, 20)
	cfg := g.config()
	cfg.Missing[0].ClearRange(0, 10)
	cfg.Hold, cfg.Events = true, false
	p := g.pager(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	run := make(chan error, 1)
	go func() { run <- p.Run(ctx) }()
	for _, n := range []int{0, 9} {
		if got, err := g.Touch(t.Context(), g.addr(0, n)); err != nil || string(got) != string(make([]byte, page)) {
			t.Errorf("page %d: %x…, %v", n, got[:8], err)
		}
	}
	if n := g.src.calls.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
	if got, err := g.Touch(t.Context(), g.addr(0, 11)); err != nil || string(got) != string(want(0, 11)) {
		t.Errorf("page 11: %x…, %v", got[:8], err)
	}
	g.Discard(g.addr(0, 11), page, false)
	if got, err := g.Touch(t.Context(), g.addr(0, 11)); err != nil || string(got) != string(make([]byte, page)) {
		t.Errorf("page 11 after its discard: %x…, %v", got[:8], err)
	}
	cancel()
	if err := <-run; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
	if st := p.Stats(); st.LocalFaults != 3 || st.RemoteFaults != 1 || st.Remaining != 9 {
		t.Errorf("%+v", st)
	}
}

// When the link is lost Run says so, forgets no fault, answers zeros meanwhile, and the next one goes on.
func TestLinkIsLost(t *testing.T) {
	g := newGuest(t, 50)
	cfg := g.config()
	cfg.Missing[0].Clear(49)
	g.src.fail = func(context.Context, int, int, int) error { return fmt.Errorf("cut: %w", postcopy.ErrLink) }
	p := g.pager(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string, 1)
	go func() {
		b, _ := g.Touch(ctx, g.addr(0, 30))
		got <- string(b)
	}()
	var fetch *postcopy.FetchError
	if err := p.Run(ctx); !errors.Is(err, postcopy.ErrLink) || !errors.As(err, &fetch) || fetch.Block != "ram0" {
		t.Fatal(err)
	}
	g.WaitRead(1)
	if b, err := g.Touch(ctx, g.addr(0, 49)); err != nil || string(b) != string(make([]byte, page)) {
		t.Errorf("zeros while the link is lost: %v", err)
	}
	if n := p.Missing().Count(); n != 49 || !g.Watched() {
		t.Errorf("%d pages missing, watched: %t", n, g.Watched())
	}
	again := newOrigin(g.blocks)
	if err := p.Use(again, again); err != nil {
		t.Fatal(err)
	}
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if b := <-got; b != string(want(0, 30)) {
		t.Error("the thread that waited got something else")
	}
	if st := p.Stats(); st.RemoteFaults != 1 {
		t.Errorf("%+v", st)
	}
}

// A new pager wakes who waits for a message that the old one has swallowed.
func TestSwallowedFaults(t *testing.T) {
	g := newGuest(t, 10)
	got := make(chan string, 1)
	go func() {
		b, _ := g.Touch(t.Context(), g.addr(0, 4))
		got <- string(b)
	}()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n, err := g.Read(make([]fault.Event, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	cfg := g.config()
	cfg.Hold = true
	p := g.pager(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	run := make(chan error, 1)
	go func() { run <- p.Run(ctx) }()
	if b := <-got; b != string(want(0, 4)) {
		t.Error("other contents")
	}
	cancel()
	<-run
}

// Pages that are there already are as good as placed.
func TestPresentPages(t *testing.T) {
	g := newGuest(t, 30)
	for _, n := range []int{0, 5, 6, 29} {
		if _, err := g.Copy(g.addr(0, n), want(0, n)); err != nil {
			t.Fatal(err)
		}
	}
	p := g.pager(g.config())
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.Present != 3 { // page 6 is a hole at the source
		t.Errorf("%+v", st)
	}
	g.checkWhole(g.Memory)
}

// A process that is gone ends Run with ErrGone, at whatever call it shows.
func TestProcessIsGone(t *testing.T) {
	g := newGuest(t, 30)
	p := g.pager(g.config())
	g.Exit()
	if err := p.Run(t.Context()); !errors.Is(err, postcopy.ErrGone) {
		t.Fatal(err)
	}
	if st := p.Stats(); st.Remaining == 0 {
		t.Errorf("%+v", st)
	}
}

// What the kernel refuses is an error, leaves the page missing, and is tried again by the next Run.
func TestKernelRefuses(t *testing.T) {
	for _, op := range []string{"copy", "unregister"} {
		g := newGuest(t, 30)
		var refuse atomic.Bool
		refuse.Store(true)
		g.Refuse(func(o string, addr uint64) error {
			if o == op && refuse.Load() && (op == "unregister" || addr == g.addr(0, 20)) {
				return syscall.ENOSPC
			}
			return nil
		})
		p := g.pager(g.config())
		if err := p.Run(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%s: %v", op, err)
		}
		if (p.Missing().Count() > 0) != (op == "copy") || !g.Watched() {
			t.Errorf("%s: %d missing", op, p.Missing().Count())
		}
		refuse.Store(false)
		if err := p.Run(t.Context()); err != nil {
			t.Fatalf("%s: %v", op, err)
		}
		g.checkWhole(g.Memory)
	}
}

// A fault outside of the blocks cannot be served: that is an error and no zeros.
func TestFaultOutside(t *testing.T) {
	g := newGuest(t, 30, 30)
	cfg := g.config()
	cfg.Events = false
	cfg.Blocks, cfg.Addrs, cfg.Missing = cfg.Blocks[:1], cfg.Addrs[:1], cfg.Missing[:1]
	cfg.Hold = true
	p := g.pager(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = g.Touch(ctx, g.addr(1, 4)) })
	if err := p.Run(ctx); !errors.Is(err, postcopy.ErrUnknownFault) {
		t.Error(err)
	}
	cancel()
	wg.Wait()
}

// A process that forks lacks the same pages, gets them too, and Run does not end before.
func TestFork(t *testing.T) {
	g := newGuest(t, 60)
	cfg := g.config()
	cfg.Hold = true
	p := g.pager(cfg)
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	if _, err := g.Touch(t.Context(), g.addr(0, 3)); err != nil {
		t.Fatal(err)
	}
	child := g.Fork()
	if b, err := child.Touch(t.Context(), g.addr(0, 40)); err != nil || string(b) != string(want(0, 40)) {
		t.Fatal(err)
	}
	gone := g.Fork()
	gone.Exit()
	p.Push()
	if err := <-run; err != nil {
		t.Fatal(err)
	}
	g.checkWhole(g.Memory)
	g.checkWhole(child)
}

// The plan of none brings nothing by itself, until it is drained.
func TestDrain(t *testing.T) {
	g := newGuest(t, 60)
	cfg := g.config()
	plan, err := prepage.New("none", g.blocks, cfg.Missing, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Prepager = plan
	p := g.pager(cfg)
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	for n := range 20 {
		if b, err := g.Touch(t.Context(), g.addr(0, n)); err != nil || string(b) != string(want(0, n)) {
			t.Fatal(n, err)
		}
	}
	if st := p.Stats(); st.Prepaged != 0 || st.RemoteFaults != 20 {
		t.Errorf("%+v", st)
	}
	p.Drain()
	if err := <-run; err != nil {
		t.Fatal(err)
	}
	g.checkWhole(g.Memory)
}

// A near source is asked by the thread that reads the faults, and a bulk that is held back comes in the end.
func TestNearAndLimited(t *testing.T) {
	g := newGuest(t, 200)
	cfg := g.config()
	g.src.near = true
	cfg.Limiter = rate.NewLimiter(rate.Inf, 3*page)
	p := g.pager(cfg)
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	for n := 199; n > 100; n -= 7 {
		if b, err := g.Touch(t.Context(), g.addr(0, n)); err != nil || string(b) != string(want(0, n)) {
			t.Fatal(n, err)
		}
	}
	if err := <-run; err != nil {
		t.Fatal(err)
	}
	g.checkWhole(g.Memory)
}

func TestConfigIsChecked(t *testing.T) {
	g := newGuest(t, 10)
	for name, spoil := range map[string]func(*postcopy.Config){
		"no blocks":   func(c *postcopy.Config) { c.Blocks = nil },
		"addresses":   func(c *postcopy.Config) { c.Addrs = nil },
		"alignment":   func(c *postcopy.Config) { c.Addrs = []uint64{5} },
		"no faults":   func(c *postcopy.Config) { c.Faults = nil },
		"no fetcher":  func(c *postcopy.Config) { c.Bulk = nil },
		"other set":   func(c *postcopy.Config) { c.Missing = ram.Set{ram.NewBitmap(3)} },
		"other block": func(c *postcopy.Config) { c.Blocks = []ram.Block{{Name: "x", Size: 5, PageSize: 4096}} },
	} {
		cfg := g.config()
		spoil(&cfg)
		if _, err := postcopy.New(cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestOneRunAtATime(t *testing.T) {
	g := newGuest(t, 10)
	cfg := g.config()
	cfg.Hold = true
	p := g.pager(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	run := make(chan error, 1)
	go func() { run <- p.Run(ctx) }()
	if _, err := g.Touch(ctx, g.addr(0, 0)); err != nil { // it runs
		t.Fatal(err)
	}
	if err := p.Run(ctx); !errors.Is(err, postcopy.ErrRunning) {
		t.Error(err)
	}
	if err := p.Close(); !errors.Is(err, postcopy.ErrRunning) {
		t.Error(err)
	}
	if err := p.Use(g.src, g.src); !errors.Is(err, postcopy.ErrRunning) {
		t.Error(err)
	}
	cancel()
	<-run
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := p.Run(t.Context()); err == nil {
		t.Error("a closed pager runs")
	}
}
