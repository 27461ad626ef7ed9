package qmp

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
)

// request is what a caller wants to have executed.
type request struct {
	command string
	args    any
	oob     bool
	file    *os.File
}

// outcome is how a call ended.
type outcome struct {
	raw json.RawMessage
	err error
}

// call is one command on its way.
//
//	do ──register──> pending ──writer claims──> sent ──reply──> settled
//	                    │                        │
//	                    └─ context ends:         └─ context ends: abandoned, but
//	                       withdrawn, never sent    pending until its late reply
//
// Its slots bound how much QEMU holds of us. They are given back when QEMU has
// answered, or when it can be told that it never will.
type call struct {
	id   string
	name string
	msg  []byte
	file *os.File

	slots []chan struct{} // taken by the caller, given back by settle
	reply chan outcome    // holds one, so settling never waits

	sent      bool // guarded by Client.mu: the writer has begun
	abandoned bool // guarded by Client.mu: nobody waits any more
}

// settle ends the call. It is called once, with Client.mu held, by whoever took
// the call out of pending.
func (cl *call) settle(o outcome) {
	for _, s := range cl.slots {
		<-s
	}
	cl.reply <- o
}

// do runs a request and returns what QEMU returned.
func (c *Client) do(ctx context.Context, r request) (json.RawMessage, error) {
	cl, err := c.newCall(r)
	if err != nil {
		return nil, &CallError{Command: r.command, Err: err}
	}
	if err := c.takeSlots(ctx, cl, r); err != nil {
		return nil, &CallError{Command: r.command, Err: err}
	}
	if err := c.register(cl); err != nil {
		return nil, &CallError{Command: r.command, Err: err}
	}
	c.log.Debug("qmp command", "command", cl.name, "id", cl.id)
	select {
	case c.writes <- cl:
	case <-ctx.Done():
	case <-c.done: // fail has settled the call, or is about to
	}
	select {
	case o := <-cl.reply:
		return o.raw, o.err
	case <-ctx.Done():
		o := c.abandon(cl, ctx.Err())
		return o.raw, o.err
	}
}

// newCall encodes a request and gives it an id.
func (c *Client) newCall(r request) (*call, error) {
	c.mu.Lock()
	c.lastID++
	id := c.prefix + strconv.FormatUint(c.lastID, 10)
	c.mu.Unlock()
	cmd := wireCommand{Execute: r.command, Arguments: r.args, ID: id}
	if r.oob {
		cmd.Execute, cmd.OOB = "", r.command
	}
	msg, err := encodeCommand(cmd)
	if err != nil {
		return nil, err
	}
	return &call{id: id, name: r.command, msg: msg, file: r.file, reply: make(chan outcome, 1)}, nil
}

// takeSlots waits for room. A descriptor takes the one slot for descriptors
// before anything else: QEMU keeps only the newest that it received, so a second
// one must not be sent before the first has found its command.
func (c *Client) takeSlots(ctx context.Context, cl *call, r request) error {
	var want []chan struct{}
	if r.file != nil {
		want = append(want, c.fdSlot)
	}
	if r.oob {
		want = append(want, c.oobWindow)
	} else {
		want = append(want, c.window)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, s := range want {
		select {
		case s <- struct{}{}:
			cl.slots = append(cl.slots, s)
			continue
		case <-ctx.Done():
			cl.settleUnsent()
			return ctx.Err()
		case <-c.done:
			cl.settleUnsent()
			return c.Err()
		}
	}
	return nil
}

// settleUnsent gives back the slots of a call that was never registered.
func (cl *call) settleUnsent() {
	for _, s := range cl.slots {
		<-s
	}
	cl.slots = nil
}

// register makes the call known to the reader, before it can be answered.
func (c *Client) register(cl *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		cl.settleUnsent()
		return c.err
	}
	c.pending[cl.id] = cl
	return nil
}

// claim marks the call as sent, unless it was withdrawn or the connection ended.
func (c *Client) claim(cl *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[cl.id] != cl {
		return false
	}
	cl.sent = true
	return true
}

// abandon ends the wait for a call. A reply that came meanwhile wins. A call that
// the writer has not begun is withdrawn; one that it has stays pending, so that
// its late reply is recognised and its slots stay taken until then.
func (c *Client) abandon(cl *call, cause error) outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case o := <-cl.reply:
		return o
	default:
	}
	o := outcome{err: &CallError{Command: cl.name, Sent: cl.sent, Err: cause}}
	if cl.sent {
		cl.abandoned = true
		return o
	}
	delete(c.pending, cl.id)
	cl.settle(o)
	return o
}

// resolve ends a pending call, if there is one of that id.
func (c *Client) resolve(id string, o func(cl *call) outcome) (found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl, ok := c.pending[id]
	if !ok {
		c.stray++
		return false
	}
	if cl.abandoned {
		c.stray++
	}
	delete(c.pending, id)
	cl.settle(o(cl))
	return true
}
