package disks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// Options are what Ends are told about the agent that they belong to.
type Options struct {
	// Log gets what a developer wants to know.
	Log *slog.Logger
	// TLS makes the configuration for data connections with the peer that has this certificate; nil without one.
	TLS func(peer []byte) (*tls.Config, error)
	// Linger is how long a source's end that nobody directs any more waits for the destination's to come back; 0 is a minute.
	Linger time.Duration
	// Rejoin is how long it is waited for a link that was lost before a Fetch fails; 0 is 10 s.
	Rejoin time.Duration
	// Freeze is how long a QEMU that has let its guest go may take to let go of an image; 0 is 5 s.
	Freeze time.Duration
	// End ends another agent that does not let go of disks, if no guest is harmed by it; nil never does.
	End func(ctx context.Context, pid int) error
	// Spoil, for tests, may fail or hold up named points; nil never does.
	Spoil func(ctx context.Context, point string) error
	// Dial, for tests, makes the data connections; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Ends are the ends for disks that one agent has. It is safe for use by several goroutines.
type Ends struct {
	o Options

	mu   sync.Mutex
	open map[end]struct{}

	wg sync.WaitGroup // ends that let go because others want their places
}

// end is one end of one migration's disks.
type end interface {
	// linger waits, before the program ends, for what must not be left half-done.
	linger(ctx context.Context)
	// abandon lets go of everything that nobody needs.
	abandon(ctx context.Context) error
}

// New makes Ends.
func New(o Options) *Ends {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Linger == 0 {
		o.Linger = time.Minute
	}
	if o.Rejoin == 0 {
		o.Rejoin = 10 * time.Second
	}
	if o.Freeze == 0 {
		o.Freeze = 5 * time.Second
	}
	return &Ends{o: o, open: map[end]struct{}{}}
}

// OpenSource implements agent.Disks.
func (e *Ends) OpenSource(ctx context.Context, spec agent.DiskSourceSpec) (agent.DiskSource, error) {
	switch spec.Mode {
	case agent.DisksAfter:
		return e.openSource(ctx, spec, spec.Migration)
	case agent.DisksMirror:
		return e.openSource(ctx, spec, mirrorLock(spec.Migration))
	}
	return nil, fmt.Errorf("disks by way of %q: %w", spec.Mode, migrate.ErrNotSupported)
}

// OpenDest implements agent.Disks.
func (e *Ends) OpenDest(ctx context.Context, spec agent.DiskDestSpec) (agent.DiskDest, error) {
	switch spec.Mode {
	case agent.DisksAfter:
		return e.openDestAfter(ctx, spec)
	case agent.DisksMirror:
		return e.openMirrorDest(ctx, spec)
	}
	return nil, fmt.Errorf("disks by way of %q: %w", spec.Mode, migrate.ErrNotSupported)
}

// Linger waits until no guest needs what only these ends can give.
func (e *Ends) Linger(ctx context.Context) {
	var wg sync.WaitGroup
	for _, o := range e.all() {
		wg.Go(func() { o.linger(ctx) })
	}
	wg.Wait()
}

// Close lets go of everything.
func (e *Ends) Close(ctx context.Context) error {
	var errs []error
	for _, o := range e.all() {
		errs = append(errs, o.abandon(ctx))
	}
	e.wg.Wait()
	return errors.Join(errs...)
}

// keep remembers an end until it is closed.
func (e *Ends) keep(x end) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open[x] = struct{}{}
}

// forget is called by an end that is closed.
func (e *Ends) forget(x end) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.open, x)
}

// spoiled passes a named point.
func (e *Ends) spoiled(ctx context.Context, point string) error {
	if e.o.Spoil == nil {
		return nil
	}
	if err := e.o.Spoil(ctx, point); err != nil {
		return fmt.Errorf("at %s: %w", point, err)
	}
	return nil
}

func (e *Ends) all() []end {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []end
	for o := range e.open {
		out = append(out, o)
	}
	return out
}
