package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrLinkLost says that no connection to the server is left, or that the one was lost over which something went that must not
// be sent twice: nobody knows whether it took place.
var ErrLinkLost = errors.New("nbd: link lost")

// ErrClientClosed says that the Client was closed.
var ErrClientClosed = errors.New("nbd: client closed")

// ClientConfig is what a Client is made of.
type ClientConfig struct {
	// Dial makes a connection. It is called for each of Conns, and again when one is lost. Required.
	Dial func(ctx context.Context) (net.Conn, error)
	// Export is the name that is asked for.
	Export string
	// Conns is how many connections to use; a server that does not allow several gets one. Default 1.
	Conns int
	// TLS, if set, is demanded by STARTTLS. It needs a ServerName. A *tls.Conn from Dial needs none of it.
	TLS *tls.Config
	// Window bounds the bytes that requests in flight ask for, over all connections. Default 16 MiB. See SetWindow.
	Window int64
	// Contexts are those of which BlockStatus is to tell; what the server lacks is left out. Default BaseAllocation and
	// DirtyBitmap.
	Contexts []string
	// Direct leaves the reading of answers to whoever calls Take; see there. Dial has to give connections that have a
	// sys.ThreadConn below them. There is one connection, whatever Conns says.
	Direct bool
	// Patience is how long a connection with requests in flight may show no progress before it counts as lost: neither
	// data nor, with TCP, acknowledgements. Requests that may take a backend long (flush, trim, zero, cache) have twelve
	// times as long, if the link is alive. Default 5 s.
	Patience time.Duration
	// Rejoin is how long a request waits for Dial to make another connection when none is left. Default 10 s.
	Rejoin time.Duration
	// Log hears of lost and new connections. Default: nothing.
	Log *slog.Logger
}

func (c ClientConfig) withDefaults() ClientConfig {
	c.Conns = max(1, c.Conns)
	if c.Direct {
		c.Conns = 1
	}
	c.Window = orDefault(c.Window, 16<<20)
	c.Patience = orDefault(c.Patience, 5*time.Second)
	c.Rejoin = orDefault(c.Rejoin, 10*time.Second)
	c.Log = orDefault(c.Log, slog.New(slog.DiscardHandler))
	if c.Contexts == nil {
		c.Contexts = []string{BaseAllocation, DirtyBitmap}
	}
	return c
}

// Info is what a server says of an export.
type Info struct {
	// Size is in bytes.
	Size int64
	// ReadOnly, MultiConn, CanTrim, CanZero, CanFlush and CanCache are what may be done.
	ReadOnly, MultiConn, CanTrim, CanZero, CanFlush, CanCache bool
	// MinBlock, PreferredBlock and MaxBlock are in bytes; what a server does not tell are the protocol's defaults.
	MinBlock, PreferredBlock, MaxBlock uint32
	// Structured says that holes are not sent.
	Structured bool
	// Contexts are those of ClientConfig.Contexts that the server has.
	Contexts []string

	whole bool // reads may be asked for in one part
}

// Client reads and writes one export. It is safe for use by many goroutines, whose requests are in flight at once.
type Client struct {
	cfg    ClientConfig
	info   Info
	window window
	bytes  atomic.Int64
	direct direct

	unflushed atomic.Bool // writes were acknowledged since the last flush
	unsure    atomic.Bool // and then a connection was lost

	ctx    context.Context // ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	up     []*link
	change chan struct{} // closed and replaced when up changes
	why    error         // what the last connection was lost for
}

// Open dials and negotiates. It returns when the first connection is up; the others follow. The context is that of opening
// alone.
func Open(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.Dial == nil {
		return nil, errors.New("nbd: a client needs a Dial function")
	}
	c := &Client{cfg: cfg.withDefaults(), change: make(chan struct{})}
	c.window.limit = c.cfg.Window
	first, info, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.info = info
	c.ctx, c.cancel = context.WithCancel(context.Background())
	conns := c.cfg.Conns
	if !info.MultiConn && !info.ReadOnly {
		conns = 1
	}
	c.wg.Go(c.watch)
	c.join(first)
	c.wg.Go(func() { c.keep(first) })
	for range conns - 1 {
		c.wg.Go(func() { c.keep(nil) })
	}
	return c, nil
}

// Close gives all connections up, politely where nothing is in flight, and returns when all that it started has ended.
// Requests that wait fail with ErrClientClosed.
func (c *Client) Close() error {
	c.cancel()
	c.wg.Wait()
	return nil
}

// Size is that of the export, in bytes.
func (c *Client) Size() int64 { return c.info.Size }

// Info is what the server said of the export when the client was opened.
func (c *Client) Info() Info { return c.info }

// BytesIn is how many bytes came from the server since Open, without those of TLS and below.
func (c *Client) BytesIn() int64 { return c.bytes.Load() }

// SetWindow changes the bytes that requests in flight may ask for, over all connections. Requests that are in flight stay.
func (c *Client) SetWindow(bytes int64) { c.window.set(max(1, bytes)) }

// Connections is how many are up.
func (c *Client) Connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.up)
}

// connect makes one connection.
func (c *Client) connect(ctx context.Context) (*link, Info, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, Info{}, fmt.Errorf("nbd: dial: %w", err)
	}
	tuneSocket(conn, c.cfg.Patience)
	h := &hello{cfg: &c.cfg, conn: conn}
	if err := h.shake(ctx); err != nil {
		_ = conn.Close() // the error says it all
		return nil, Info{}, err
	}
	l := newLink(c, h)
	if c.cfg.Direct && l.thread == nil {
		_ = conn.Close() // it never carried a request
		return nil, Info{}, errors.New("nbd: a direct client needs connections of a thread")
	}
	return l, h.info, nil
}

// keep sees that one of the connections is there: it reads what comes over it, and makes another when it is lost.
func (c *Client) keep(l *link) {
	pause := 10 * time.Millisecond
	for c.ctx.Err() == nil {
		if l == nil {
			if l = c.again(); l == nil {
				if !sleep(c.ctx, pause) {
					return
				}
				pause = min(2*pause, time.Second)
				continue
			}
			if !c.join(l) {
				return
			}
		}
		pause = 10 * time.Millisecond
		err := l.serve()
		c.lost(l, err)
		l = nil
	}
}

// again makes a connection to the same device as before; nil if that was not to be had.
func (c *Client) again() *link {
	l, info, err := c.connect(c.ctx)
	if err == nil && (info.Size != c.info.Size || info.ReadOnly && !c.info.ReadOnly) {
		_ = l.conn.Close() // it never carried a request
		err = fmt.Errorf("nbd export %q is another one now: %d bytes, and was %d", c.cfg.Export, info.Size, c.info.Size)
	}
	if err != nil {
		c.mu.Lock()
		c.why = err
		c.mu.Unlock()
		c.cfg.Log.Debug("nbd connection not made", "export", c.cfg.Export, "err", err)
		return nil
	}
	return l
}

// join lets requests go over a connection; false after Close.
func (c *Client) join(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		l.goodbye()
		return false
	}
	c.up = append(c.up[:len(c.up):len(c.up)], l)
	close(c.change)
	c.change = make(chan struct{})
	c.direct.tell()
	c.cfg.Log.Debug("nbd connection up", "export", c.cfg.Export, "up", len(c.up))
	return true
}

// lost takes a connection away, and gives the requests that were in flight on it back to who waits for them.
func (c *Client) lost(l *link, err error) {
	c.mu.Lock()
	var left []*link
	for _, o := range c.up {
		if o != l {
			left = append(left, o)
		}
	}
	c.up, c.why = left, err
	close(c.change)
	c.change = make(chan struct{})
	c.mu.Unlock()
	if c.unflushed.Load() {
		c.unsure.Store(true)
	}
	l.end(err)
	c.direct.tell()
	if c.ctx.Err() == nil {
		c.cfg.Log.Warn("nbd connection lost", "export", c.cfg.Export, "left", len(left), "err", err)
	}
}

// pick returns the connection with the least to do. When there is none it waits for one as long as Rejoin says.
func (c *Client) pick(ctx context.Context) (*link, error) {
	var limit <-chan time.Time
	for {
		c.mu.Lock()
		best, change := leastBusy(c.up), c.change
		c.mu.Unlock()
		if best != nil {
			return best, nil
		}
		if limit == nil {
			timer := time.NewTimer(c.cfg.Rejoin)
			defer timer.Stop()
			limit = timer.C
		}
		select {
		case <-change:
		case <-limit:
			return nil, fmt.Errorf("%w: nbd export %q, no new connection within %v: %w", ErrLinkLost, c.cfg.Export, c.cfg.Rejoin, c.lastLoss())
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-c.ctx.Done():
			return nil, ErrClientClosed
		}
	}
}

// lastLoss is why there is no connection.
func (c *Client) lastLoss() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

func leastBusy(up []*link) *link {
	var best *link
	var least int64
	for _, l := range up {
		if busy := l.load.Load(); best == nil || busy < least {
			best, least = l, busy
		}
	}
	return best
}

// watch ends connections that have something in flight and show no progress.
func (c *Client) watch() {
	const looks = 4
	tick := time.NewTicker(max(time.Millisecond, c.cfg.Patience/looks))
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			c.mu.Lock()
			up := c.up
			c.mu.Unlock()
			for _, l := range up {
				l.goodbye()
			}
			return
		case <-tick.C:
		}
		c.mu.Lock()
		up := c.up
		c.mu.Unlock()
		for _, l := range up {
			l.look(looks)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
