package agenttest

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

var (
	_ agent.Agent  = (*Fake)(nil)
	_ agent.Source = (*fakeSource)(nil)
	_ agent.Dest   = (*fakeDest)(nil)

	_ agent.Exported = (*fakeExported)(nil)
)

// Fake is an agent that moves nothing. Its fields are set before it is used.
type Fake struct {
	Identity agent.Identity
	// Harvested, Stats and Steps are what a source's Harvest and Stats, and a destination's Fetch and Page, give; the
	// last step is the result.
	Harvested agent.Harvest
	Stats     agent.SourceStats
	Steps     []agent.Progress
	// Held is what a destination says that it holds.
	Held agent.Held
	// Images are what is at a path, and absent where there is no entry; Made is what StageImage says that it made.
	Images map[string]storage.Image
	Made   storage.Made
	// Fails makes a method fail, by name: Hello, OpenSource, Harvest, Fetch, …, CloseSource, CloseDest.
	Fails map[string]error

	mu       sync.Mutex
	asked    []Asked
	parked   map[string]*Parking
	missing  bool
	closed   bool
	released chan struct{}
}

// Asked is one call of a method and what came with it.
type Asked struct {
	Method string
	// With is the spec, set or figures; nil if there is nothing.
	With any
}

// Switched is what comes with Switch; Tuned with Tune.
type Switched struct {
	Missing ram.Set
	Hot     []agent.PageRef
}

// Tuned is what comes with Tune.
type Tuned struct{ Bandwidth, Paging int64 }

// Parking holds a method up until Go is closed, or the call's context ends, which Ended tells. Here is closed when the
// method has come so far.
type Parking struct {
	Here, Go, Ended chan struct{}
}

// Park lets the next call of the method stop, once.
func (f *Fake) Park(method string) *Parking {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.parked == nil {
		f.parked = map[string]*Parking{}
	}
	p := &Parking{make(chan struct{}), make(chan struct{}), make(chan struct{})}
	f.parked[method] = p
	return p
}

// Asked are the calls so far, in order.
func (f *Fake) Asked() []Asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// Last is the newest call of that method.
func (f *Fake) Last(method string) (Asked, bool) {
	for _, a := range slices.Backward(f.Asked()) {
		if a.Method == method {
			return a, true
		}
	}
	return Asked{}, false
}

// ask notes a call and does what it is told to.
func (f *Fake) ask(ctx context.Context, method string, with any) error {
	f.mu.Lock()
	f.asked = append(f.asked, Asked{method, with})
	p, err := f.parked[method], f.Fails[method]
	delete(f.parked, method)
	if f.closed {
		err = agent.ErrClosed
	}
	f.mu.Unlock()
	if p == nil {
		return err
	}
	close(p.Here)
	select {
	case <-p.Go:
		return err
	case <-ctx.Done():
	}
	f.mu.Lock()
	f.asked = append(f.asked, Asked{method + " given up", nil})
	f.mu.Unlock()
	close(p.Ended)
	return ctx.Err()
}

// Hello gives Identity.
func (f *Fake) Hello(ctx context.Context) (agent.Identity, error) {
	return f.Identity, f.ask(ctx, "Hello", nil)
}

// OpenSource notes the spec.
func (f *Fake) OpenSource(ctx context.Context, spec agent.SourceSpec) (agent.Source, error) {
	if err := f.ask(ctx, "OpenSource", spec); err != nil {
		return nil, err
	}
	return &fakeSource{f}, nil
}

// OpenDest notes the spec. The end listens, it says, where the spec's link says.
func (f *Fake) OpenDest(ctx context.Context, spec agent.DestSpec) (agent.Dest, error) {
	if err := f.ask(ctx, "OpenDest", spec); err != nil {
		return nil, err
	}
	return &fakeDest{f, spec.Link.Addr}, nil
}

// Export notes the spec. What is exported is an echo: whatever a client sends comes back.
func (f *Fake) Export(ctx context.Context, spec agent.ExportSpec) (agent.Exported, error) {
	if err := f.ask(ctx, "Export", spec); err != nil {
		return nil, err
	}
	return &fakeExported{f}, nil
}

// DescribeImage tells of Images.
func (f *Fake) DescribeImage(ctx context.Context, q storage.Query) (storage.Image, error) {
	if err := f.ask(ctx, "DescribeImage", q); err != nil {
		return storage.Image{}, err
	}
	if img, ok := f.Images[q.Path]; ok {
		return img, nil
	}
	return storage.Image{Path: q.Path, Kind: storage.KindAbsent, Free: 1 << 40}, nil
}

// StageImage notes the spec.
func (f *Fake) StageImage(ctx context.Context, s storage.Spec) (storage.Made, error) {
	return f.Made, f.ask(ctx, "StageImage", s)
}

// PlaceImage notes what was made.
func (f *Fake) PlaceImage(ctx context.Context, m storage.Made) error {
	return f.ask(ctx, "PlaceImage", m)
}

// RemoveImage notes what was made.
func (f *Fake) RemoveImage(ctx context.Context, m storage.Made) error {
	return f.ask(ctx, "RemoveImage", m)
}

// Synced is what SyncImages was asked with.
type Synced struct {
	Paths []string
	Drop  bool
}

// SyncImages notes what it is asked with, as Synced.
func (f *Fake) SyncImages(ctx context.Context, paths []string, drop bool) error {
	return f.ask(ctx, "SyncImages", Synced{paths, drop})
}

type fakeExported struct{ f *Fake }

func (x *fakeExported) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // wakes the copying
	defer stop()
	if err := x.f.ask(ctx, "Serve", nil); err != nil {
		return err
	}
	_, _ = io.Copy(conn, conn) // a client may hang up as it likes
	return ctx.Err()
}

func (x *fakeExported) Written(ctx context.Context) (agent.Harvest, error) {
	return x.f.Harvested, x.f.ask(ctx, "Written", nil)
}

func (x *fakeExported) Wait(ctx context.Context) error  { return x.f.ask(ctx, "Wait", nil) }
func (x *fakeExported) Close(ctx context.Context) error { return x.f.ask(ctx, "CloseExport", nil) }

// Stay lets Close wait until the channel is closed, as for a guest that is being paged in.
func (f *Fake) Stay() chan<- struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = make(chan struct{})
	return f.released
}

// Close ends the agent.
func (f *Fake) Close() error {
	f.mu.Lock()
	f.asked, f.closed = append(f.asked, Asked{"Close", nil}), true
	wait := f.released
	f.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return nil
}

type fakeSource struct{ f *Fake }

func (s *fakeSource) Harvest(ctx context.Context) (agent.Harvest, error) {
	return s.f.Harvested, s.f.ask(ctx, "Harvest", nil)
}

func (s *fakeSource) Stats(ctx context.Context) (agent.SourceStats, error) {
	return s.f.Stats, s.f.ask(ctx, "Stats", nil)
}

func (s *fakeSource) StreamUp(ctx context.Context) error { return s.f.ask(ctx, "StreamUp", nil) }

func (s *fakeSource) Keep(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	return s.f.proceed(ctx, "Keep", nil, progress)
}

func (s *fakeSource) Close(ctx context.Context) error { return s.f.ask(ctx, "CloseSource", nil) }

type fakeDest struct {
	f    *Fake
	addr string
}

func (d *fakeDest) Addr() string     { return d.addr }
func (d *fakeDest) Held() agent.Held { return d.f.Held }

func (d *fakeDest) Fetch(ctx context.Context, pages ram.Set, progress func(agent.Progress)) (agent.Progress, error) {
	return d.f.proceed(ctx, "Fetch", pages.Clone(), progress)
}

func (d *fakeDest) Page(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	p, err := d.f.proceed(ctx, "Page", nil, progress)
	if err == nil {
		d.f.lack(false)
	}
	return p, err
}

// proceed tells of all steps before it looks whether it is to stop.
func (f *Fake) proceed(ctx context.Context, method string, with any, progress func(agent.Progress)) (agent.Progress, error) {
	for _, p := range f.Steps {
		if progress != nil {
			progress(p)
		}
	}
	var last agent.Progress
	if n := len(f.Steps); n > 0 {
		last = f.Steps[n-1]
	}
	return last, f.ask(ctx, method, with)
}

func (d *fakeDest) Tune(ctx context.Context, bandwidth, paging int64) error {
	return d.f.ask(ctx, "Tune", Tuned{bandwidth, paging})
}

func (d *fakeDest) Pass(ctx context.Context, stale ram.Set) error {
	return d.f.ask(ctx, "Pass", stale.Clone())
}

func (d *fakeDest) Switch(ctx context.Context, missing ram.Set, hot []agent.PageRef) error {
	err := d.f.ask(ctx, "Switch", Switched{missing.Clone(), slices.Clone(hot)})
	if err == nil {
		d.f.lack(!missing.Empty())
	}
	return err
}

func (d *fakeDest) Release(ctx context.Context) error { return d.f.ask(ctx, "Release", nil) }

func (f *Fake) lack(pages bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missing = pages
}

var errMissing = &migrate.OpError{Op: "close the destination's end", Side: migrate.SideDestination,
	Err: errors.New("the guest lacks pages"), Fix: "recover the migration"}

func (d *fakeDest) Close(ctx context.Context, abandon bool) error {
	if err := d.f.ask(ctx, "CloseDest", abandon); err != nil {
		return err
	}
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	if d.f.missing && !abandon {
		return errMissing
	}
	return nil
}
