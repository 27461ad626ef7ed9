package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// QEMU's return path: messages of a type and a length, both be16 (migration/savevm's MIG_RP_MSG_*).
const (
	returnHeader     = 4
	returnShut       = 1 // SHUT: the destination has read all; with a body other than 0 it failed
	returnRecvBitmap = 5 // followed by a bitmap that its length does not count; only in a post-copy recovery of QEMU's own
	returnAck        = 7 // SWITCHOVER_ACK: the destination has read the set-up and is ready for the switch
)

// heldLimit bounds what is kept of a stream that is held back. RAM that is in no shared file, such as video RAM, is part of
// it; beyond that the source's QEMU waits.
const heldLimit = 256 << 20

// errStreamEnded: a source that has hung up before it was told that it may runs its guest again.
var errStreamEnded = errors.New("the source's QEMU has ended its stream before the switch")

// errAckMissing: without the acknowledgement nobody knows where the set-up ends and the device state begins.
var errAckMissing = errors.New("QEMU's destination did not acknowledge the switch (capability switchover-ack, QEMU 8.1)")

// gate decides how far QEMU's stream may go; newGate's holds everything back.
type gate struct {
	mu    sync.Mutex
	cond  *sync.Cond
	state gateState
	acked bool
	ended error
	over  chan struct{} // closed when the source hangs up though it was not told that all has arrived
	// through, if set, is called when all of the stream was passed on.
	through func() error

	// backMu orders what goes back to the source's QEMU.
	backMu sync.Mutex
	back   io.Writer
	sealed bool
}

type gateState uint8

const (
	gateHolds gateState = iota
	gatePasses
	gateAcked // holds again
	gateOpen
)

func newGate() *gate {
	g := &gate{over: make(chan struct{})}
	g.cond = sync.NewCond(&g.mu)
	return g
}

// pass lets the stream go on until the acknowledgement.
func (g *gate) pass() { g.set(gateHolds, gatePasses) }

// open lets everything go on.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state = gateOpen
	g.cond.Broadcast()
}

func (g *gate) set(from, to gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == from {
		g.state = to
		g.cond.Broadcast()
	}
}

// ack holds the stream back from here on.
func (g *gate) ack() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked = true
	if g.state != gateOpen {
		g.state = gateAcked
	}
}

// ready tells whether the acknowledgement has come.
func (g *gate) ready() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended != nil {
		return g.ended
	}
	select {
	case <-g.over:
		return errStreamEnded
	default:
	}
	if !g.acked {
		return errAckMissing
	}
	return nil
}

// hungUp notes that the source sends nothing more. One that was told that all has arrived may end.
func (g *gate) hungUp() {
	g.backMu.Lock()
	defer g.backMu.Unlock()
	if !g.sealed {
		close(g.over)
	}
}

// answer passes a message back to the source, unless it was told already that all is well.
func (g *gate) answer(p []byte) error {
	g.backMu.Lock()
	defer g.backMu.Unlock()
	if g.sealed {
		return nil
	}
	_, err := g.back.Write(p)
	return err
}

// seal tells the source's QEMU in the destination's name that all has arrived. It then ends its migration as completed as
// soon as it has sent the rest, and stands still until somebody decides otherwise. Were it to wait for QEMU's own answer, the
// destination would run by then; and if that answer was lost the source would take the migration for failed and run its
// guest, too.
//
// A guest that stands still already waits for no acknowledgement, and gets none.
func (g *gate) seal(still bool) error {
	if err := g.ready(); err != nil && !(still && errors.Is(err, errAckMissing)) {
		return err
	}
	g.backMu.Lock()
	defer g.backMu.Unlock()
	switch {
	case g.sealed:
		return nil
	case g.back == nil:
		return errAckMissing
	}
	g.sealed = true
	shut := binary.BigEndian.AppendUint16(nil, returnShut)
	shut = binary.BigEndian.AppendUint16(shut, 4)
	_, err := g.back.Write(append(shut, 0, 0, 0, 0))
	return err
}

// end makes every wait return err.
func (g *gate) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended == nil {
		g.ended = err
		g.cond.Broadcast()
	}
}

// wait returns when the stream may go on.
func (g *gate) wait() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.state != gatePasses && g.state != gateOpen && g.ended == nil {
		g.cond.Wait()
	}
	return g.ended
}

// held is a queue of stream parts between the one who reads them and the one who writes them.
type held struct {
	mu    sync.Mutex
	cond  *sync.Cond
	parts [][]byte
	size  int
	err   error // why no more will come
	gone  bool  // nobody takes any more
}

func newHeld() *held {
	h := &held{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

// put waits for room. It is false when nobody takes any more.
func (h *held) put(p []byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.size >= heldLimit && !h.gone {
		h.cond.Wait()
	}
	if h.gone {
		return false
	}
	h.parts, h.size = append(h.parts, p), h.size+len(p)
	h.cond.Broadcast()
	return true
}

func (h *held) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	h.cond.Broadcast()
}

func (h *held) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	h.cond.Broadcast()
}

func (h *held) take() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.parts) == 0 && h.err == nil {
		h.cond.Wait()
	}
	if len(h.parts) == 0 {
		return nil, h.err
	}
	p := h.parts[0]
	h.parts, h.size = h.parts[1:], h.size-len(p)
	h.cond.Broadcast()
	return p, nil
}

// relay passes QEMU's stream from the peer on to the destination's QEMU, as far as the gate lets it, and its answers back.
// It returns when both ways have ended, and closes both connections.
func relay(peer, qemu net.Conn, g *gate) error {
	var wg sync.WaitGroup
	queue := newHeld()
	g.backMu.Lock()
	g.back = peer
	g.backMu.Unlock()
	wg.Go(func() {
		err := fill(queue, peer)
		g.hungUp()
		queue.close(err)
	})
	wg.Go(func() {
		err := answer(qemu, g)
		g.end(fmt.Errorf("QEMU's answers ended: %w", err))
		_ = halfClose(peer) // the other way tells what went wrong
	})
	err := drain(queue, qemu, g)
	if err == nil && g.through != nil {
		err = g.through()
	}
	_ = halfClose(qemu) // the end of the stream; QEMU's answer may still come
	if err != nil {     // nothing will come to its end any more
		_ = errors.Join(peer.Close(), qemu.Close())
	}
	queue.leave()
	wg.Wait()
	return errors.Join(err, peer.Close(), qemu.Close())
}

// fill reads the stream until its end.
func fill(q *held, from io.Reader) error {
	for {
		p := make([]byte, 64<<10)
		n, err := from.Read(p)
		if n > 0 && !q.put(p[:n]) {
			return io.ErrClosedPipe
		}
		if err != nil {
			return err
		}
	}
}

// drain writes the stream as far as the gate lets it.
func drain(q *held, to io.Writer, g *gate) error {
	for {
		p, err := q.take()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := g.wait(); err != nil {
			return err
		}
		if _, err := to.Write(p); err != nil {
			return err
		}
	}
}

// answer passes the return path's messages back, and closes the gate before the source hears that it may switch.
func answer(from io.Reader, g *gate) error {
	buf := make([]byte, returnHeader+65535)
	for {
		if _, err := io.ReadFull(from, buf[:returnHeader]); err != nil {
			return err
		}
		kind, n := binary.BigEndian.Uint16(buf), int(binary.BigEndian.Uint16(buf[2:]))
		if _, err := io.ReadFull(from, buf[returnHeader:returnHeader+n]); err != nil {
			return err
		}
		switch kind {
		case returnAck:
			g.ack()
		case returnRecvBitmap:
			return errors.New("QEMU asks for a recovery of its own post-copy, which does not go with shared RAM")
		}
		if err := g.answer(buf[:returnHeader+n]); err != nil {
			return err
		}
	}
}

// halfClose ends our direction of a connection, where it can be ended alone.
func halfClose(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// splice passes everything both ways until both ways have ended, and closes both connections. It counts what went from a
// to b.
func splice(a, b net.Conn, count func(int64)) error {
	var wg sync.WaitGroup
	var there error
	wg.Go(func() {
		_, there = io.Copy(counted{b, count}, a)
		_ = halfClose(b)
	})
	_, back := io.Copy(a, b)
	_ = halfClose(a)
	if back != nil {
		_ = errors.Join(a.Close(), b.Close())
	}
	wg.Wait()
	return errors.Join(there, back, a.Close(), b.Close())
}

// counted tells of what was written.
type counted struct {
	io.Writer
	count func(int64)
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.count(int64(n))
	return n, err
}
