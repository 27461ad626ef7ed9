package oracle

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Dialer makes the client's socket, in the network that the guest is in. A
// *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// ErrGuest is wrapped by an error that the guest itself returned.
var ErrGuest = errors.New("guest")

// How long the client waits for an answer before it asks again.
const (
	firstTry = 50 * time.Millisecond
	lastTry  = 500 * time.Millisecond
	pollTime = 20 * time.Millisecond
)

// Client talks to one guest. Make it with Dial. Its calls may be made from any
// goroutine and run one after the other.
type Client struct {
	conn net.Conn
	mu   sync.Mutex // held for a call: one reader on the socket
	buf  []byte
}

// Dial makes a client for the guest at addr ("10.77.0.10:7117") and returns
// when the guest is ready, however long that takes: bound it by ctx. The error
// wraps ErrGuest when the guest is up and says that it cannot be ready.
func Dial(ctx context.Context, d Dialer, addr string) (*Client, error) {
	conn, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return nil, fmt.Errorf("oracle: dial %s: %w", addr, err)
	}
	c := &Client{conn: conn, buf: make([]byte, MaxMessage+1)}
	for {
		pong, err := c.Ping(ctx)
		if err == nil && pong.Ready {
			return c, nil
		}
		if err == nil && pong.Failed {
			_, err = c.call(ctx, opStats, nil)
		}
		if err == nil {
			err = pause(ctx, pollTime)
		}
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("oracle: guest at %s is not ready: %w", addr, err)
		}
	}
}

// Close closes the socket. A call that is under way fails.
func (c *Client) Close() error { return c.conn.Close() }

// Ping asks until the guest answers, and returns the answer. A guest that is
// still starting answers with Ready false.
func (c *Client) Ping(ctx context.Context) (Pong, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.ask(ctx, message{kind: msgPing, id: newID()}, msgPong)
	return m.pong, err
}

// Verify has the guest check everything it keeps. The error is one of the way
// there, or of ctx: what the guest found is in the report. Use Judge to hold
// the report against a witness.
func (c *Client) Verify(ctx context.Context) (Report, error) {
	var r Report
	if err := c.callJSON(ctx, opVerify, &r); err != nil {
		return Report{}, err
	}
	if r.Schema != ReportSchema {
		return Report{}, fmt.Errorf("oracle: verify: schema %q, want %q", r.Schema, ReportSchema)
	}
	return r, nil
}

// TickLimit is how long a guest that answers may have no tick: a thousand times
// its period, for the slowest of machines.
const TickLimit = 1000 * TickPeriod

// Ticks waits until the guest has ticked since it told that seal. One that
// answers for as long as limit and has not is not well: ok is false, and f says
// so. Its memory may be whole.
func (c *Client) Ticks(ctx context.Context, since Seal, limit time.Duration) (f Finding, ok bool, err error) {
	for begun := time.Now(); ; {
		p, err := c.Ping(ctx)
		if err != nil {
			return Finding{}, false, err
		}
		if p.Seal.Ticks > since.Ticks {
			return Finding{}, true, nil
		}
		if time.Since(begun) > limit {
			return Finding{Kind: NoTicks, Want: since.Ticks + 1, Got: p.Seal.Ticks, Detail: fmt.Sprintf("it answers, and has had no tick for %v", limit)}, false, nil
		}
		if err := pause(ctx, TickPeriod); err != nil {
			return Finding{}, false, err
		}
	}
}

// Stats asks how the guest is doing.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	err := c.callJSON(ctx, opStats, &s)
	return s, err
}

// SetWorkload changes the guest's workload. The error wraps ErrGuest when the
// guest refuses it; the old workload then runs on.
func (c *Client) SetWorkload(ctx context.Context, spec string) error {
	if len(spec) > MaxArgument {
		return fmt.Errorf("oracle: workload of %d bytes, at most %d are sent", len(spec), MaxArgument)
	}
	_, err := c.call(ctx, opWorkload, []byte(spec))
	return err
}

// PowerOff flushes the guest's disk and turns the guest off.
func (c *Client) PowerOff(ctx context.Context) error {
	_, err := c.call(ctx, opPowerOff, nil)
	return err
}

func (c *Client) callJSON(ctx context.Context, o op, result any) error {
	b, err := c.call(ctx, o, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, result); err != nil {
		return fmt.Errorf("oracle: result of call %d: %w", o, err)
	}
	return nil
}

// call makes one call and gathers its result, part by part.
func (c *Client) call(ctx context.Context, o op, arg []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var result []byte
	m := message{kind: msgCall, id: newID(), op: o, data: arg}
	for {
		m.offset = uint32(len(result))
		reply, err := c.ask(ctx, m, msgReply)
		if err != nil {
			return nil, fmt.Errorf("oracle: call: %w", err)
		}
		if reply.status == statusPending {
			if err := pause(ctx, pollTime); err != nil {
				return nil, fmt.Errorf("oracle: call: %w", err)
			}
			continue
		}
		if reply.offset == m.offset {
			result = append(result, reply.data...)
		}
		if len(result) < int(reply.total) {
			continue
		}
		if reply.status == statusFailed {
			return nil, fmt.Errorf("oracle: %w: %s", ErrGuest, result)
		}
		return result, nil
	}
}

// ask sends m, again and again, until a message of type want with its id comes
// back or ctx ends. An answer of another id is to a question given up on.
func (c *Client) ask(ctx context.Context, m message, want msgType) (message, error) {
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	datagram := m.append(nil)
	for wait := firstTry; ; wait = min(2*wait, lastTry) {
		if ctx.Err() != nil {
			return message{}, context.Cause(ctx)
		}
		again := time.Now().Add(wait)
		if _, err := c.conn.Write(datagram); errors.Is(err, net.ErrClosed) {
			return message{}, err
		}
		reply, err := c.read(ctx, again, m.id, want)
		if err == nil || errors.Is(err, net.ErrClosed) {
			return reply, err
		}
		// Refused by a host on the way, or no route while the guest moves: that
		// comes back at once, so the rest of the time has to be waited for.
		if err := pause(ctx, time.Until(again)); err != nil {
			return message{}, err
		}
	}
}

// read reads until the wanted answer or until.
func (c *Client) read(ctx context.Context, until time.Time, id uint64, want msgType) (message, error) {
	if err := c.conn.SetReadDeadline(until); err != nil {
		return message{}, err
	}
	if ctx.Err() != nil { // it ended before the deadline was set over that of AfterFunc
		return message{}, context.Cause(ctx)
	}
	for {
		n, err := c.conn.Read(c.buf)
		if err != nil {
			return message{}, err
		}
		if m, err := decode(c.buf[:n]); err == nil && m.id == id && m.kind == want {
			m.data = append([]byte(nil), m.data...)
			return m, nil
		}
	}
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// newID draws a number that no other question has.
func newID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}
