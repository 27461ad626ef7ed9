package datalink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/hall"
	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/line"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// maxHandshakes bounds the connections that have not yet shown who they are, maxEach those of them from one address: a source
// makes a few at once.
const (
	maxHandshakes = 96
	maxEach       = 48
)

// slot is a place for one connection.
type slot struct {
	role  Role
	index int
}

// Acceptor takes the source's connections at the destination and hands them out by role.
type Acceptor struct {
	cfg  Config
	lis  net.Listener
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup
	room *hall.Hall // the handshakes under way

	mu      sync.Mutex
	live    map[slot]*Conn // the newest of each slot that is not closed
	waiting []*Conn        // of live: those that nobody has taken, oldest first
	news    chan struct{}  // closed and made anew when waiting grows or the listener fails
	err     error          // why no more will come
}

// NewAcceptor accepts connections on lis, which it takes over. The caller closes it.
func NewAcceptor(lis net.Listener, cfg Config) (*Acceptor, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &Acceptor{cfg: cfg.withDefaults(), lis: lis, ctx: ctx, stop: stop, room: hall.New(maxHandshakes, maxEach),
		live: map[slot]*Conn{}, news: make(chan struct{})}
	a.wg.Go(a.accept)
	return a, nil
}

// Addr is where it listens.
func (a *Acceptor) Addr() net.Addr { return a.lis.Addr() }

// Next gives the oldest connection of the role that nobody has taken, and waits for one if there is none. The caller
// closes it. It fails when ctx ends, and with net.ErrClosed after Close.
func (a *Acceptor) Next(ctx context.Context, role Role) (*Conn, error) {
	for {
		c, news, err := a.take(role)
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the source's %s connection: %w", role, ctx.Err())
		case <-news:
		}
	}
}

func (a *Acceptor) take(role Role) (*Conn, <-chan struct{}, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, c := range a.waiting {
		if c.Role == role {
			a.waiting = append(a.waiting[:i:i], a.waiting[i+1:]...)
			return c, nil, nil
		}
	}
	return nil, a.news, a.err
}

// Close stops listening, closes the connections that nobody has taken and waits for its goroutines. Those that were
// taken go on.
func (a *Acceptor) Close() error {
	a.stop()
	err := a.lis.Close()
	a.wg.Wait()
	a.mu.Lock()
	left := a.waiting
	a.waiting = nil
	a.mu.Unlock()
	for _, c := range left {
		_ = c.Close() // nobody ever used it
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// accept takes connections until the listener is closed.
func (a *Acceptor) accept() {
	for {
		c, err := a.lis.Accept()
		if err != nil {
			if a.pause(err) {
				continue
			}
			a.fail(err)
			return
		}
		leave, ok := a.room.Enter(c.RemoteAddr())
		if !ok {
			a.cfg.Log.Warn("too many data connections that do not say who they are", "from", c.RemoteAddr())
			_ = c.Close() // it will come again, if it is one of ours
			continue
		}
		a.wg.Go(func() {
			defer leave()
			a.greet(c)
		})
	}
}

// pause waits a little where the machine lacks descriptors or memory for the moment.
func (a *Acceptor) pause(err error) bool {
	passing := []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED}
	if !slices.ContainsFunc(passing, func(e error) bool { return errors.Is(err, e) }) {
		return false
	}
	a.cfg.Log.Warn("accept a data connection", "err", err)
	select {
	case <-a.ctx.Done():
		return false
	case <-time.After(100 * time.Millisecond):
		return true
	}
}

// fail lets all who wait know that no more will come.
func (a *Acceptor) fail(err error) {
	if a.ctx.Err() != nil {
		err = net.ErrClosed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = fmt.Errorf("wait for the source's data connections: %w", err)
	close(a.news)
	a.news = make(chan struct{})
}

// greet goes through the handshake with one connection and offers it, or closes it.
func (a *Acceptor) greet(raw net.Conn) {
	c, err := a.handshake(raw)
	if err != nil {
		_ = raw.Close() // it is of no use
		a.cfg.Log.Warn("data connection refused", "from", raw.RemoteAddr(), "err", err)
		return
	}
	a.offer(c)
}

func (a *Acceptor) handshake(raw net.Conn) (*Conn, error) {
	tune(raw, a.cfg.Patience)
	if err := raw.SetDeadline(time.Now().Add(a.cfg.Timeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(a.ctx, func() { _ = raw.Close() }) // wakes who reads
	defer stop()
	low := &base{Conn: raw}
	c := net.Conn(low)
	if a.cfg.TLS != nil {
		t := tls.Server(nbd.Batch(low), a.cfg.TLS)
		if err := t.HandshakeContext(a.ctx); err != nil {
			var plain tls.RecordHeaderError
			if errors.As(err, &plain) && plain.Conn != nil {
				refuse(raw, raw, "this end encrypts, the other one does not")
			}
			return nil, err
		}
		c = t
	}
	b, err := line.Read(c)
	if err != nil && !errors.Is(err, line.ErrForeign) {
		return nil, err
	}
	var p preface
	if err == nil {
		p, err = parsePreface(b)
	}
	if err == nil {
		err = a.cfg.admits(p)
	}
	if err != nil {
		refuse(c, raw, err.Error())
		return nil, err
	}
	if err := line.Write(c, answer{Version: Version}); err != nil {
		return nil, err
	}
	if !stop() {
		return nil, net.ErrClosed
	}
	if err := raw.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return low.settled(c, p.Role, p.Index)
}

// refuse tells the source why and waits until it hangs up, or the deadline: were the connection closed while something
// of it is unread, the kernel would throw the answer away.
func refuse(c, raw net.Conn, why string) {
	if line.Write(c, answer{Version: Version, Refused: why}) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(raw, line.Max)) // whatever it says, it is refused
	}
}

// offer puts a connection into its slot and closes the one that it supersedes.
func (a *Acceptor) offer(c *Conn) {
	at := slot{c.Role, c.Index}
	c.closed = func() { a.forget(at, c) }
	a.mu.Lock()
	old := a.live[at]
	a.live[at] = c
	a.waiting = append(a.waiting, c)
	close(a.news)
	a.news = make(chan struct{})
	a.mu.Unlock()
	if old != nil {
		a.cfg.Log.Info("data connection superseded", "role", c.Role, "index", c.Index)
		_ = old.Close() // its peer is gone
	}
}

// forget is called when a connection is closed, by whomever.
func (a *Acceptor) forget(at slot, c *Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.live[at] == c {
		delete(a.live, at)
	}
	for i, w := range a.waiting {
		if w == c {
			a.waiting = append(a.waiting[:i:i], a.waiting[i+1:]...)
			return
		}
	}
}
