package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// drainTime is how long the reader may still find replies after the writer met
// a closed connection. It bounds a peer that closes one direction alone.
const drainTime = time.Second

// readLoop is the reader: it hands replies to those who wait and events to
// subscriptions, waits for neither, and ends the client when reading ends.
func (c *Client) readLoop() {
	for {
		b, err := c.dec.next()
		if err == nil {
			err = c.dispatch(b, time.Now())
		}
		if err != nil {
			c.fail(endReason(err))
			return
		}
	}
}

// dispatch acts on one message.
func (c *Client) dispatch(b []byte, arrived time.Time) error {
	m, k, err := parseMessage(b)
	if err != nil {
		return err
	}
	switch k {
	case kindEvent:
		c.hub.publish(Event{Name: m.Event, Data: m.Data, Timestamp: m.Timestamp.time(), Arrived: arrived})
		return nil
	case kindReturn, kindError:
		return c.dispatchReply(m, b)
	default:
		return protocolError("second greeting", b, nil)
	}
}

// dispatchReply hands a reply to its call. QEMU answers without an id only what
// it could not parse; since that may be any command of ours, the connection ends
// rather than leave one waiting. Any other reply that is not ours belongs to an
// earlier client of the same monitor and is discarded.
func (c *Client) dispatchReply(m message, b []byte) error {
	if len(m.ID) == 0 && m.Error != nil && c.waiting() {
		return protocolError("QEMU could not parse a command: "+m.Error.Desc, b, nil)
	}
	var id string
	if json.Unmarshal(m.ID, &id) != nil {
		id = ""
	}
	found := c.resolve(id, func(cl *call) outcome {
		if m.Error != nil {
			return outcome{err: &Error{Class: m.Error.Class, Desc: m.Error.Desc, Command: cl.name}}
		}
		return outcome{raw: m.Return}
	})
	if !found {
		c.log.Warn("qmp reply to an unknown command discarded", "id", string(m.ID))
	}
	return nil
}

// waiting reports whether any command is with QEMU.
func (c *Client) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending) > 0
}

// writeLoop is the writer: it puts one whole command after the other on the wire.
// A caller that gives up never interrupts a command half written.
func (c *Client) writeLoop() {
	for {
		select {
		case <-c.done:
			return
		case cl := <-c.writes:
			if !c.claim(cl) {
				continue
			}
			if err := c.send(cl); err != nil {
				c.writeFailed(err)
				return
			}
		}
	}
}

// send writes one command, with its file if it has one.
func (c *Client) send(cl *call) error {
	if cl.file == nil {
		_, err := c.conn.Write(cl.msg)
		return err
	}
	sent, err := sendWithFile(c.conn, cl.msg, cl.file)
	if err != nil && !sent {
		// Nothing reached the wire: the file was closed, say. That is this
		// call's trouble alone.
		c.resolve(cl.id, func(cl *call) outcome {
			return outcome{err: &CallError{Command: cl.name, Err: err}}
		})
		return nil
	}
	return err
}

// writeFailed ends the client. Where the peer has closed, replies may still be
// on their way to the reader, which then finds the end by itself.
func (c *Client) writeFailed(err error) {
	if !isReset(err) {
		c.fail(fmt.Errorf("qmp: write: %w", err))
		return
	}
	c.mu.Lock()
	c.writeErr = ErrPeerClosed
	c.mu.Unlock()
	_ = c.conn.SetReadDeadline(time.Now().Add(drainTime)) // if it fails, so does reading
}

// isReset reports whether an I/O error means that the peer has gone.
func isReset(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe)
}
