package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// directAhead is how much of an answer a direct client takes up before it looks at it: larger ones are waited for.
const directAhead = 128 << 10

// Read is one read of a client with ClientConfig.Direct. It is the client's from Send until Take or Drop gives it back.
type Read struct {
	// P is to be filled from Offset on. Owner is whatever the caller wants to find there again.
	P      []byte
	Offset int64
	Owner  any
	// Holes and Err are the answer, as ReadData gives it. Err wraps ErrLinkLost when the connection was lost before the
	// answer came; the read may be sent again then.
	Holes []ram.Extent
	Err   error

	link *link
	call *call
}

// direct is what a direct client has beyond the others.
type direct struct {
	mu   sync.Mutex
	done []*Read // that have ended and were not given back yet
	wake func()
	take func(*Read)
}

// Watch sets the functions of a client with ClientConfig.Direct: wake is called when Descriptor has changed, or when there
// is something for Take, from whatever goroutine, and must not wait; done by Take, with each read that has ended.
func (c *Client) Watch(wake func(), done func(*Read)) {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	c.direct.wake, c.direct.take = wake, done
}

func (d *direct) tell() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wake != nil {
		d.wake()
	}
}

// ended takes a read that has its answer, or never will.
func (d *direct) ended(k *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done = append(d.done, k.read)
}

// Descriptor can be waited for: when it is readable, Take may have something to do. It is -1 while there is no connection.
func (c *Client) Descriptor() int {
	l := c.first()
	if l == nil || l.thread == nil || l.reason() != nil {
		return -1
	}
	return l.thread.FD()
}

// first is the connection of a direct client, if there is one.
func (c *Client) first() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.up) == 0 {
		return nil
	}
	return c.up[0]
}

// Send asks for what r says, and does not wait: when there is no connection, or no room, it is false and nothing was done.
func (c *Client) Send(r *Read) bool {
	l := c.first()
	if l == nil || len(r.P) == 0 || len(r.P) > c.piece() || c.within("read", r.Offset, int64(len(r.P))) != nil {
		return false
	}
	if !c.window.try(int64(len(r.P))) {
		return false
	}
	k := r.call
	if k == nil {
		k = new(call)
	}
	*k = call{request: request{cmd: cmdRead, offset: uint64(r.Offset), length: uint32(len(r.P))}, dst: r.P, read: r,
		holes: k.holes[:0], pieces: k.pieces[:0]}
	r.Holes, r.Err, r.link, r.call = nil, nil, l, k
	if l.start(k) != nil {
		c.window.give(k.data())
		return false
	}
	return true
}

// Drop gives a read up: its buffer is the caller's again, and Take does not tell of it any more.
func (c *Client) Drop(r *Read) {
	k, l := r.call, r.link
	r.call = nil
	l.taking.Lock()
	l.mu.Lock()
	gone := k.finished
	k.dropped = !gone
	l.mu.Unlock()
	l.taking.Unlock()
	if !gone {
		return // its answer gives the room back
	}
	c.direct.mu.Lock()
	for i, o := range c.direct.done {
		if o == r {
			c.direct.done = append(c.direct.done[:i], c.direct.done[i+1:]...)
			break
		}
	}
	c.direct.mu.Unlock()
	c.window.give(k.data())
}

// Take takes up the answers that have come, without waiting for more, and tells Watch's function of each read that has
// ended. One goroutine calls it, from the first request of whatever kind until the last answer: without it none of them
// ends.
func (c *Client) Take() {
	if l := c.first(); l != nil {
		if err := l.take(); err != nil {
			if errors.Is(err, io.EOF) {
				err = errHungUp
			}
			l.kill(err)
		}
	}
	c.handOut()
}

// handOut gives back what has ended.
func (c *Client) handOut() {
	for {
		c.direct.mu.Lock()
		n := len(c.direct.done)
		if n == 0 {
			c.direct.mu.Unlock()
			return
		}
		r, done := c.direct.done[0], c.direct.take
		c.direct.done = append(c.direct.done[:0], c.direct.done[1:]...)
		c.direct.mu.Unlock()
		k := r.call
		c.window.give(k.data())
		r.Holes, r.Err = k.holes, k.err
		if k.err == errLost { //nolint:errorlint // it is never wrapped
			r.Err = fmt.Errorf("%w: %w", ErrLinkLost, r.link.reason())
		}
		done(r)
	}
}

// take reads the answers that have come as a whole.
func (l *link) take() error {
	for {
		l.taking.Lock()
		err := l.takeOne()
		l.taking.Unlock()
		switch {
		case errors.Is(err, sys.ErrNotYet):
			return nil
		case err != nil:
			return err
		}
		l.client.handOut()
	}
}

// takeOne reads one answer, or chunk of one, if it has come.
func (l *link) takeOne() error {
	if err := l.reason(); err != nil {
		return err
	}
	l.thread.Try(true)
	defer l.thread.Try(false)
	head, err := l.br.Peek(simpleLen)
	if err != nil {
		return err
	}
	need := simpleLen
	switch wire.Uint32(head) {
	case magicStructured:
		if head, err = l.br.Peek(structuredLen); err != nil {
			return err
		}
		need = structuredLen + int(parseChunk(head).length)
	case protocol.TRANSMISSION_MAGIC_REPLY:
		if k, err := l.find(wire.Uint64(head[8:])); err == nil && wire.Uint32(head[4:]) == 0 && k.cmd == cmdRead {
			need += int(k.length)
		}
	}
	if need > directAhead {
		l.thread.Try(false) // it does not fit: wait for all of it
	} else if _, err := l.br.Peek(need); err != nil {
		return err
	}
	return l.reply()
}

// threadOf is the connection of a thread below others, or nil.
func threadOf(conn net.Conn) *sys.ThreadConn {
	for {
		switch c := conn.(type) {
		case *sys.ThreadConn:
			return c
		case interface{ Below() net.Conn }: // who counts, or names, what passes
			conn = c.Below()
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
