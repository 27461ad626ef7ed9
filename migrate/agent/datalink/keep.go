package datalink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/line"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// The pauses between two dials of one connection: doubled each time, and less by up to a half at random, so that the
// connections of a link do not all come at once.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// KeepConfig is what a Keeper keeps up.
type KeepConfig struct {
	Config
	// Addr is host:port of the destination.
	Addr string
	// Bulk is the number of bulk connections, Demand that of demand, which are one at least; each at most MaxIndex.
	Bulk, Demand int
	// Stream asks for a stream connection, too. It is dialled until it is up once, and never again.
	Stream bool
	// Dial makes the raw connection; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Keeper holds the source's connections to the destination up.
type Keeper struct {
	cfg   KeepConfig
	serve func(context.Context, *Conn)
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex
	all   int             // connections that are wanted
	up    map[slot]bool   // that are up now
	first map[slot]bool   // that were up once
	bad   map[slot]error  // why a slot's last dial failed
	news  chan struct{}   // closed and made anew with every change
	ctx   context.Context // ends with Close
}

// Keep dials all connections and hands each to serve, in goroutines of its own. serve has the connection until it returns;
// then it is closed and dialled anew. The ctx of serve ends with the Keeper, which closes the connection then. The caller
// closes the Keeper.
func Keep(cfg KeepConfig, serve func(ctx context.Context, c *Conn)) (*Keeper, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Bulk < 0 || cfg.Bulk > MaxIndex {
		return nil, fmt.Errorf("%d bulk connections are not from 0 to %d", cfg.Bulk, MaxIndex)
	}
	if cfg.Demand < 0 || cfg.Demand > MaxIndex {
		return nil, fmt.Errorf("%d demand connections are not from 0 to %d", cfg.Demand, MaxIndex)
	}
	cfg.Config = cfg.withDefaults()
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	var slots []slot
	for i := range max(1, cfg.Demand) {
		slots = append(slots, slot{Demand, i})
	}
	for i := range cfg.Bulk {
		slots = append(slots, slot{Bulk, i})
	}
	if cfg.Stream {
		slots = append(slots, slot{Stream, 0})
	}
	ctx, stop := context.WithCancel(context.Background())
	k := &Keeper{cfg: cfg, serve: serve, stop: stop, ctx: ctx, all: len(slots),
		up: map[slot]bool{}, first: map[slot]bool{}, bad: map[slot]error{}, news: make(chan struct{})}
	for _, s := range slots {
		k.wg.Go(func() { k.keep(s) })
	}
	return k, nil
}

// Ready waits until each connection has been up once. It fails at once when the destination refuses one, and with the
// last reason there is when ctx ends; the Keeper goes on in either case.
func (k *Keeper) Ready(ctx context.Context) error {
	for {
		k.mu.Lock()
		done, news, refused := len(k.first) == k.all, k.news, k.refused()
		k.mu.Unlock()
		if done || refused != nil {
			return refused
		}
		select {
		case <-ctx.Done():
			if _, why := k.State(); why != nil {
				return fmt.Errorf("connect to the destination's agent: %w (%w)", why, ctx.Err())
			}
			return fmt.Errorf("connect to the destination's agent: %w", ctx.Err())
		case <-k.ctx.Done():
			return fmt.Errorf("connect to the destination's agent: %w", net.ErrClosed)
		case <-news:
		}
	}
}

// refused is called with mu held.
func (k *Keeper) refused() error {
	for _, err := range k.bad {
		if errors.Is(err, ErrRefused) {
			return err
		}
	}
	return nil
}

// State tells how many connections for RAM are up, and why others are not, if that is known. The stream's does not count: who
// serves it may not notice for long that the other end has gone.
func (k *Keeper) State() (up int, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, err := range k.bad {
		why = err
	}
	for s := range k.up {
		if s.role != Stream {
			up++
		}
	}
	return up, why
}

// Close ends all connections and waits for the calls of serve. It is idempotent.
func (k *Keeper) Close() {
	k.stop()
	k.wg.Wait()
}

// keep holds one connection up until the Keeper is closed.
func (k *Keeper) keep(s slot) {
	for pause := firstPause; k.ctx.Err() == nil; {
		c, err := k.dial(k.ctx, s)
		if err != nil {
			k.change(s, false, err)
			k.cfg.Log.Debug("dial a data connection", "role", s.role, "index", s.index, "err", err)
			k.sleep(pause)
			pause = min(2*pause, lastPause)
			continue
		}
		k.change(s, true, nil)
		began := time.Now()
		k.use(c)
		k.change(s, false, nil)
		if s.role == Stream {
			return
		}
		// A destination that takes connections only to drop them must not be dialled in a loop.
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		k.sleep(pause)
		pause = min(2*pause, lastPause)
	}
}

func (k *Keeper) use(c *Conn) {
	stop := context.AfterFunc(k.ctx, func() { _ = c.Close() }) // wakes serve
	defer stop()
	defer func() { _ = c.Close() }() // serve has said what there is to say
	k.serve(k.ctx, c)
}

// change notes how a slot stands.
func (k *Keeper) change(s slot, up bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.up, s)
	delete(k.bad, s)
	if up {
		k.up[s], k.first[s] = true, true
	}
	if err != nil {
		k.bad[s] = err
	}
	close(k.news)
	k.news = make(chan struct{})
}

func (k *Keeper) sleep(d time.Duration) {
	d -= rand.N(d/2 + 1)
	select {
	case <-k.ctx.Done():
	case <-time.After(d):
	}
}

// Dial makes one connection besides those that are held up. It is the caller's, and is closed with the Keeper at the latest.
func (k *Keeper) Dial(ctx context.Context, role Role, index int) (*Conn, error) {
	if index < 0 || index >= role.most() {
		return nil, fmt.Errorf("there is no %s connection number %d", role, index)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(k.ctx, cancel)()
	c, err := k.dial(ctx, slot{role, index})
	if err != nil {
		return nil, fmt.Errorf("connect to the destination's agent: %w", err)
	}
	stop := context.AfterFunc(k.ctx, func() { _ = c.Conn.Close() }) // wakes whoever uses it
	c.closed = func() { stop() }
	return c, nil
}

func (k *Keeper) dial(ctx context.Context, s slot) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Timeout)
	defer cancel()
	raw, err := k.cfg.Dial(ctx, k.cfg.Addr)
	if err != nil {
		return nil, err
	}
	tune(raw, k.cfg.Patience)
	c, err := introduce(ctx, raw, k.cfg.Config, s)
	if err != nil {
		_ = raw.Close() // it is of no use
		return nil, err
	}
	return c, nil
}

// introduce goes through the handshake as the one who dialled. It bounds itself by ctx.
func introduce(ctx context.Context, raw net.Conn, cfg Config, s slot) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // wakes who reads
	defer stop()
	low := &base{Conn: raw}
	c := net.Conn(low)
	if cfg.TLS != nil {
		t := tls.Client(nbd.Batch(low), cfg.TLS)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, alert(err)
		}
		c = t
	}
	if err := line.Write(c, preface{Version, cfg.Migration, cfg.Token, s.role, s.index}); err != nil {
		return nil, err
	}
	b, err := line.Read(c)
	if errors.Is(err, line.ErrForeign) {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err != nil {
		return nil, fmt.Errorf("the destination's agent hung up: %w", alert(err))
	}
	var a answer
	if err := parseLine(b, &a); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if a.Refused != "" {
		return nil, fmt.Errorf("%w: %.200q", ErrRefused, a.Refused)
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return low.settled(c, s.role, s.index)
}
