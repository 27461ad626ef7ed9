package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// errLost is what calls are ended with when their connection is; do turns it into ErrLinkLost or sends them again.
var errLost = errors.New("connection lost")

var errHungUp = errors.New("the server hung up")

var errStalled = errors.New("no progress")

// call is a request of a client on its way to its answer. It belongs to its caller, and while it is in flight also to the
// reader of its link.
type call struct {
	request
	dst  []byte // of a read
	src  []byte // of a write
	want string // the context that block status is wanted of

	err    error
	holes  []ram.Extent
	pieces []ram.Extent // of a read, that have come
	list   []Status
	done   chan struct{} // gets one when the call has ended
	read   *Read         // of Send; there is no done then
	losses int           // how often its connection was lost

	// Under the link's mu:
	filling  bool // the reader is writing to dst
	finished bool
	dropped  bool // nobody waits any more
}

// link is one connection of a client.
type link struct {
	client   *Client
	conn     net.Conn
	br       *bufio.Reader
	contexts map[uint32]string
	thread   *sys.ThreadConn // below a direct client's connection
	over     chan struct{}   // closed when a direct client's link is dead
	once     sync.Once
	taking   sync.Mutex // of a direct client: held while answers are read; before mu

	load  atomic.Int64  // bytes in flight, roughly
	moved atomic.Uint64 // bytes received
	slow  atomic.Int32  // calls in flight that may take long

	writing sync.Mutex // held while a request is written; never together with mu
	head    []byte
	vector  [2][]byte

	mu    sync.Mutex
	calls map[uint64]*call
	next  uint64
	dead  error

	// Of look alone:
	seen uint64
	idle int
}

// counted counts what is read from a connection.
type counted struct {
	net.Conn
	link *link
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.link.moved.Add(uint64(n))
	c.link.client.bytes.Add(int64(n))
	return n, err
}

func newLink(c *Client, h *hello) *link {
	l := &link{client: c, conn: h.conn, contexts: h.contexts, calls: map[uint64]*call{}, over: make(chan struct{})}
	ahead := readAhead
	if c.cfg.Direct {
		l.thread, ahead = threadOf(h.conn), directAhead
	}
	if n := h.br.Buffered(); n > 0 {
		l.dead = fmt.Errorf("%w: %d bytes before the first request", errProtocol, n)
	}
	l.br = bufio.NewReaderSize(counted{h.conn, l}, ahead)
	return l
}

func (k *call) weight() int64 { return max(4096, int64(k.length)) }

func (k *call) mayBeSlow() bool {
	return k.cmd == cmdFlush || k.cmd == cmdTrim || k.cmd == cmdWriteZeroes || k.cmd == cmdCache
}

// start sends a call. If that fails the call ends as all of the link's do.
func (l *link) start(k *call) error {
	l.mu.Lock()
	if l.dead != nil {
		l.mu.Unlock()
		return errLost
	}
	l.next++
	k.cookie = l.next
	l.calls[k.cookie] = k
	l.mu.Unlock()
	l.load.Add(k.weight())
	if k.mayBeSlow() {
		l.slow.Add(1)
	}

	l.writing.Lock()
	defer l.writing.Unlock()
	l.head = k.request.append(l.head[:0])
	var err error
	if len(k.src) == 0 {
		_, err = l.conn.Write(l.head)
	} else {
		l.vector = [2][]byte{l.head, k.src}
		bufs := net.Buffers(l.vector[:])
		err = writeAll(l.conn, &bufs)
	}
	if err != nil {
		l.kill(fmt.Errorf("request: %w", err))
	}
	return nil
}

// wait waits for a call to end. When the context ends first, nothing writes to the call's buffer any more.
func (l *link) wait(ctx context.Context, k *call) error {
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	if k.finished || k.filling {
		l.mu.Unlock()
		<-k.done // at once, or when its data has come or the link counts as lost
		return k.err
	}
	k.dropped = true
	l.mu.Unlock()
	return context.Cause(ctx)
}

// finish ends a call that is no longer in calls.
func (l *link) finish(k *call) {
	l.load.Add(-k.weight())
	if k.mayBeSlow() {
		l.slow.Add(-1)
	}
	if k.dropped {
		l.client.window.give(k.data())
		return
	}
	if k.read != nil {
		l.client.direct.ended(k)
		return
	}
	k.done <- struct{}{}
}

// remove takes a call out of those in flight; whoever does it has to finish it.
func (l *link) remove(k *call) {
	l.mu.Lock()
	delete(l.calls, k.cookie)
	k.finished = true
	l.mu.Unlock()
}

// kill makes the reader end, for a reason.
func (l *link) kill(why error) {
	l.mu.Lock()
	if l.dead == nil {
		l.dead = why
	}
	l.mu.Unlock()
	_ = l.conn.Close() // it is lost either way
	l.once.Do(func() { close(l.over) })
}

// end gives all calls in flight back to their callers.
func (l *link) end(why error) {
	l.kill(why)
	l.taking.Lock() // nobody writes to the buffers of calls any more
	defer l.taking.Unlock()
	l.mu.Lock()
	calls := l.calls
	l.calls = map[uint64]*call{}
	for _, k := range calls {
		k.finished = true
	}
	l.mu.Unlock()
	for _, k := range calls {
		k.err = errLost
		l.finish(k)
	}
}

// reason is why the link is dead, if it is.
func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// look kills the link when, at that many looks in a row, something was in flight and nothing had moved.
func (l *link) look(looks int) {
	l.mu.Lock()
	idle := len(l.calls) == 0
	l.mu.Unlock()
	moved := l.moved.Load() + acked(l.conn)
	if idle || moved != l.seen {
		l.seen, l.idle = moved, 0
		return
	}
	if l.slow.Load() > 0 {
		looks *= 12
	}
	if l.idle++; l.idle >= looks {
		l.kill(fmt.Errorf("%w for %v", errStalled, time.Duration(l.idle)*l.client.cfg.Patience/4))
	}
}

// goodbye tells the server that the client leaves, unless something is in flight, and closes the connection.
func (l *link) goodbye() {
	l.mu.Lock()
	quiet := len(l.calls) == 0 && l.dead == nil
	if l.dead == nil {
		l.dead = ErrClientClosed
	}
	l.mu.Unlock()
	_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second)) // frees who writes now, too
	if quiet {
		l.writing.Lock()
		_, _ = l.conn.Write(request{cmd: cmdDisc}.append(nil)) // the server takes a closed connection for the same
		l.writing.Unlock()
	}
	_ = l.conn.Close() // nothing is left to be told
	l.once.Do(func() { close(l.over) })
}
