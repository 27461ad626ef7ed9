package disks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// Options are what Ends are told about the agent that they belong to.
type Options struct {
	// Log gets what a developer wants to know.
	Log *slog.Logger
	// TLS makes the configuration for data connections with the peer that has this certificate; nil without one.
	TLS func(peer []byte) (*tls.Config, error)
	// Spoil, for tests, may fail or hold up named points.
	Spoil func(ctx context.Context, point string) error
	// Dial, for tests, makes the data connections; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Ends are the ends for disks that one agent has. It is safe for use by several goroutines.
type Ends struct {
	o Options

	mu   sync.Mutex
	open map[end]struct{}
}

// end is one end of one migration's disks.
type end interface {
	// linger waits, before the program ends, for what must not be left half-done.
	linger(ctx context.Context)
	// abandon lets go of everything that nobody needs.
	abandon(ctx context.Context) error
}

// New makes Ends.
func New(o Options) *Ends { return &Ends{o: o, open: map[end]struct{}{}} }

// OpenSource implements agent.Disks.
func (e *Ends) OpenSource(_ context.Context, spec agent.DiskSourceSpec) (agent.DiskSource, error) {
	return nil, fmt.Errorf("%d disks: %w", len(spec.Disks), migrate.ErrNotSupported)
}

// OpenDest implements agent.Disks.
func (e *Ends) OpenDest(_ context.Context, spec agent.DiskDestSpec) (agent.DiskDest, error) {
	return nil, fmt.Errorf("%d disks: %w", len(spec.Disks), migrate.ErrNotSupported)
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
	return errors.Join(errs...)
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
