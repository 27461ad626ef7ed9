package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// oobCapability is QEMU's name for out-of-band execution.
const oobCapability = "oob"

// handshake reads the greeting and leaves negotiation mode. It runs before the
// client's goroutines and shares the decoder with them, so no byte is lost
// between the two.
func (c *Client) handshake(ctx context.Context, wantOOB bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("qmp: handshake: %w", err)
	}
	// A deadline in the past makes pending and later I/O return at once.
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	err := c.negotiate(wantOOB)
	if !stop() {
		// The context ended, or is ending, and the connection has a deadline
		// that we cannot be sure to take back.
		return fmt.Errorf("qmp: handshake: %w (%w)", context.Cause(ctx), errNoAnswer(err))
	}
	if err != nil {
		return fmt.Errorf("qmp: handshake: %w", endReason(err))
	}
	return nil
}

// errNoAnswer keeps of a handshake's error what the context's own does not say.
func errNoAnswer(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("QEMU did not answer; is it stopped, or is another client connected to this monitor?")
	}
	return err
}

// negotiate is the handshake's conversation.
func (c *Client) negotiate(wantOOB bool) error {
	b, err := c.dec.next()
	if err != nil {
		return err
	}
	m, k, err := parseMessage(b)
	if err != nil {
		return err
	}
	if k != kindGreeting {
		return protocolError("no greeting", b, nil)
	}
	c.version = m.QMP.Version
	c.oob = wantOOB && slices.Contains(m.QMP.Capabilities, oobCapability)
	return c.enableCapabilities()
}

// enableCapabilities sends qmp_capabilities and waits for its reply.
func (c *Client) enableCapabilities() error {
	cmd := wireCommand{Execute: "qmp_capabilities", ID: c.prefix + "0"}
	if c.oob {
		cmd.Arguments = map[string][]string{"enable": {oobCapability}}
	}
	b, err := encodeCommand(cmd)
	if err != nil {
		return err
	}
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	for {
		b, err := c.dec.next()
		if err != nil {
			return err
		}
		m, k, err := parseMessage(b)
		if err != nil {
			return err
		}
		if done, err := c.capabilitiesReply(m, k, cmd.ID); done || err != nil {
			return err
		}
	}
}

// capabilitiesReply judges one message that came before the reply was known.
// Events, and replies left over from an earlier client, are passed over.
func (c *Client) capabilitiesReply(m message, k kind, id string) (done bool, err error) {
	var got string
	switch {
	case k == kindGreeting:
		return false, &ProtocolError{Reason: "second greeting"}
	case k == kindEvent:
		return false, nil
	case len(m.ID) == 0 && k == kindError:
		return false, &Error{Command: "qmp_capabilities", Class: m.Error.Class, Desc: m.Error.Desc}
	case json.Unmarshal(m.ID, &got) != nil || got != id:
		c.stray++
		return false, nil
	case k == kindError:
		return false, &Error{Command: "qmp_capabilities", Class: m.Error.Class, Desc: m.Error.Desc}
	}
	return true, nil
}

// encodeCommand gives a command as one line.
func encodeCommand(cmd wireCommand) ([]byte, error) {
	b, err := json.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// endReason turns what ended a read into what Err reports.
func endReason(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w in the middle of a message", ErrPeerClosed)
	case errors.Is(err, io.EOF), isReset(err):
		return ErrPeerClosed
	}
	return err
}
