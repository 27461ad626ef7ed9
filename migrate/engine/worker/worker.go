package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker/disks"
)

// Options are what a Worker is told about itself.
type Options struct {
	// Version is the program's; Log gets what a developer wants to know, nil discards it.
	Version string
	Log     *slog.Logger
	// Linger is how long a source's end that nobody directs any more waits for the destination's to come back; 0 is a
	// minute.
	Linger time.Duration
	// Patience is how long letting go of a guest may take before the program ends without; 0 is 10 s.
	Patience time.Duration
	// KeepDir is where copies of guests' RAM are kept; empty is KeepDir(). KeepLimit bounds the bytes of all of them; 0 is no
	// limit besides the file system's.
	KeepDir   string
	KeepLimit int64
	// Spoil, for tests, may fail or hold up named points (Points); nil never does.
	Spoil func(ctx context.Context, point string) error
	// Dial, for tests, makes the data connections; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Worker implements agent.Agent on this host. It is safe for use by several goroutines.
type Worker struct {
	o     Options
	cert  tls.Certificate
	disks *disks.Ends

	mu   sync.Mutex
	ends map[string]end // by lock name
}

// end is one side of one guest.
type end interface {
	// detach lets go of the guest as it is, for another that takes it over.
	detach() error
	// linger waits, before the program ends, for what must not be left half-done.
	linger(ctx context.Context)
	// abandon takes everything out of QEMU.
	abandon(ctx context.Context) error
	// guest is the number of QEMU's process.
	guest() int
}

var _ agent.Agent = (*Worker)(nil)

// New makes a Worker with a certificate of its own for its data connections.
func New(o Options) (*Worker, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Spoil == nil {
		o.Spoil = func(context.Context, string) error { return nil }
	}
	if o.Linger == 0 {
		o.Linger = time.Minute
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	cert, err := datalink.NewCertificate()
	if err != nil {
		return nil, err
	}
	w := &Worker{o: o, cert: cert, ends: map[string]end{}}
	w.disks = disks.New(disks.Options{Log: o.Log, TLS: w.dataTLS, Linger: o.Linger, End: endIdle, Spoil: o.Spoil, Dial: o.Dial})
	return w, nil
}

// Hello tells who this is.
func (w *Worker) Hello(context.Context) (agent.Identity, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return agent.Identity{Version: w.o.Version, Protocol: agent.Protocol, Host: host, PID: os.Getpid(), Certificate: w.cert.Certificate[0]}, nil
}

// endIdle ends an agent that has no thread of any QEMU in hand.
func endIdle(ctx context.Context, agent int) error { return killIdle(ctx, agent, 0) }

// dataTLS is nil where both ends were told to do without.
func (w *Worker) dataTLS(peer []byte) (*tls.Config, error) {
	if len(peer) == 0 {
		return nil, nil
	}
	return datalink.PinTLS(w.cert, peer)
}

// take locks one side of a QEMU for a new end. With takeOver whoever has it is sent away.
func (w *Worker) take(ctx context.Context, side migrate.Side, pid int, takeOver bool) (*lock, error) {
	name := lockName(side, pid)
	w.mu.Lock()
	old := w.ends[name]
	w.mu.Unlock()
	if old != nil {
		if !takeOver {
			return nil, migrate.Fail("take the guest", side, migrate.ErrBusy, "vmmigrate status")
		}
		if err := old.detach(); err != nil {
			w.o.Log.Warn("let go of a guest that is taken over", "err", err)
		}
	}
	return takeLock(ctx, side, pid, takeOver)
}

// keep remembers an end until it is closed.
func (w *Worker) keep(side migrate.Side, pid int, e end) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ends[lockName(side, pid)] = e
}

// forget is called by an end that is closed.
func (w *Worker) forget(side migrate.Side, pid int, e end) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ends[lockName(side, pid)] == e {
		delete(w.ends, lockName(side, pid))
	}
}

// Close is for the end of the control connection. Ends that serve a guest which runs at the destination stay until it has
// all of its RAM; all others are taken back. One that hangs is left to the end of the program, which the caller is about to
// bring about.
func (w *Worker) Close() error {
	w.mu.Lock()
	ends := make([]end, 0, len(w.ends))
	for _, e := range w.ends {
		ends = append(ends, e)
	}
	w.mu.Unlock()
	var errs []error
	ctx := context.Background() // nobody is left to end it
	var wg sync.WaitGroup
	wg.Go(func() { w.disks.Linger(ctx) }) // beside RAM: a guest may need both
	for _, e := range ends {
		e.linger(ctx)
		errs = append(errs, w.leave(e))
	}
	wg.Wait()
	return errors.Join(append(errs, w.disks.Close(ctx))...)
}

// leave lets go of a guest, within a limit: an agent that nobody directs any more must not stay for something of its own that
// hangs. It never returns while we have a thread of QEMU in hand, which would run on with registers that are not its own.
func (w *Worker) leave(e end) error {
	ctx, stop := context.WithTimeout(context.Background(), w.o.Patience)
	defer stop()
	left := make(chan error, 1)
	go func() { left <- e.abandon(ctx) }() // if it hangs, it ends with the program
	select {
	case err := <-left:
		return err
	case <-ctx.Done():
	}
	for {
		select {
		case err := <-left:
			return err
		case <-time.After(heldEvery):
		}
		if held, err := traces(os.Getpid(), e.guest()); err == nil && !held {
			return migrate.Fail("let go of the guest", "", fmt.Errorf("not within %v: what is left goes with the agent's process", w.o.Patience), "")
		}
	}
}

// heldEvery is the pause between two looks whether a thread of QEMU is still in hand. The first is time to end with the limit.
const heldEvery = 100 * time.Millisecond

// spoiled passes a named point.
func (w *Worker) spoiled(ctx context.Context, point string) error {
	if err := w.o.Spoil(ctx, point); err != nil {
		return fmt.Errorf("at %s: %w", point, err)
	}
	return nil
}
