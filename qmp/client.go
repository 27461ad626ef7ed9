package qmp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
)

// Version is QEMU's version.
type Version struct {
	// QEMU is the release.
	QEMU struct {
		Major int `json:"major"`
		Minor int `json:"minor"`
		Micro int `json:"micro"`
	} `json:"qemu"`
	// Package is the distributor's name for the build; often empty.
	Package string `json:"package"`
}

// String gives the release, such as 10.0.2.
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro)
}

// AtLeast reports whether the release is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.QEMU.Major > major || v.QEMU.Major == major && v.QEMU.Minor >= minor
}

// Client is one QMP connection. All methods may be called from any goroutine.
//
// A Client owns its connection and two goroutines, a reader and a writer, from
// NewClient until the connection ends. Close joins both.
type Client struct {
	conn    net.Conn
	dec     *decoder
	log     *slog.Logger
	version Version
	oob     bool
	prefix  string // begins every id, so that no other connection's reply matches
	hub     *hub

	writes    chan *call    // registered calls on their way to the writer
	window    chan struct{} // one element per in-band command that QEMU may hold
	oobWindow chan struct{} // the same for out-of-band commands
	fdSlot    chan struct{} // one element while a descriptor is on its way

	wg   sync.WaitGroup
	done chan struct{} // closed when the connection has ended

	mu       sync.Mutex
	lastID   uint64
	pending  map[string]*call // registered and not yet answered
	err      error            // why the connection ended; nil while it lives
	writeErr error            // what the writer met, if the reader is left to finish
	stray    uint64           // replies that nobody waited for
}

// Dial connects to a QMP monitor and negotiates. Network and addr are as for
// net.Dial, mostly "unix" and a path. The context covers connecting and
// negotiating; once Dial has returned it has no further effect.
func Dial(ctx context.Context, network, addr string, opts ...Option) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("qmp: %w", err)
	}
	return NewClient(ctx, conn, opts...)
}

// NewClient negotiates on a connection that is already there. It owns conn from
// the call on, and closes it if negotiation fails. The context covers the
// negotiation alone. A QEMU that is stopped, or whose monitor already has
// another client, accepts a connection and never greets: give the context a
// deadline.
func NewClient(ctx context.Context, conn net.Conn, opts ...Option) (*Client, error) {
	o := buildOptions(opts)
	c := &Client{
		conn:      conn,
		dec:       newDecoder(conn, o.limit),
		log:       o.log,
		prefix:    rand.Text()[:8] + "-",
		hub:       newHub(),
		writes:    make(chan *call),
		window:    make(chan struct{}, o.window),
		oobWindow: make(chan struct{}, o.window),
		fdSlot:    make(chan struct{}, 1),
		done:      make(chan struct{}),
		pending:   make(map[string]*call),
	}
	if err := c.handshake(ctx, o.oob); err != nil {
		_ = conn.Close() // the handshake's error says more
		return nil, err
	}
	c.wg.Go(c.readLoop)
	c.wg.Go(c.writeLoop)
	return c, nil
}

// Version is what QEMU called itself in its greeting.
func (c *Client) Version() Version { return c.version }

// OOB reports whether out-of-band execution was negotiated.
func (c *Client) OOB() bool { return c.oob }

// Execute runs a command and decodes what it returns into out. Args is encoded as
// JSON, nil for none; out may be nil, or a *json.RawMessage for the reply as sent.
//
// QEMU's refusal is an *Error. A command without an answer is a *CallError, which
// says whether it was sent; its cause may be the context's error or what ended
// the connection. The reply to an abandoned command is discarded when it comes.
func (c *Client) Execute(ctx context.Context, command string, args, out any) error {
	return c.execute(ctx, request{command: command, args: args}, out)
}

// ExecuteOOB runs a command out of band: QEMU executes it at once, ahead of
// commands that wait, even while its main loop is stuck. Only few commands allow
// that. Without negotiated out-of-band execution it sends nothing and returns a
// *CallError with ErrNoOOB.
func (c *Client) ExecuteOOB(ctx context.Context, command string, args, out any) error {
	if !c.oob {
		return &CallError{Command: command, Err: ErrNoOOB}
	}
	return c.execute(ctx, request{command: command, args: args, oob: true}, out)
}

// ExecuteFile runs a command together with an open file, as getfd and add-fd need
// it. The file stays the caller's and must not be closed before ExecuteFile
// returns. On a connection other than a unix socket it sends nothing and returns
// a *CallError with ErrNoDescriptors.
func (c *Client) ExecuteFile(ctx context.Context, command string, args, out any, file *os.File) error {
	if _, ok := c.conn.(rightsWriter); !ok {
		return &CallError{Command: command, Err: ErrNoDescriptors}
	}
	return c.execute(ctx, request{command: command, args: args, file: file}, out)
}

// execute runs a request and decodes its result.
func (c *Client) execute(ctx context.Context, r request, out any) error {
	raw, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	return decodeInto(r.command, raw, out)
}

// decodeInto decodes what a command returned, unless nobody wants it.
func decodeInto(command string, raw json.RawMessage, out any) error {
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("qmp: %s: decoding the reply: %w", command, err)
	}
	return nil
}

// Subscribe receives events from now on. A subscription made before a command
// sees every event of that command. After the connection's end it returns why it
// ended.
func (c *Client) Subscribe(o SubscribeOptions) (*Subscription, error) {
	return c.hub.subscribe(o)
}

// Events receives the named events, or all, until the context ends; then, or when
// the connection ends, the channel is closed. It holds 1024 events; Subscribe
// allows another number, and tells how many were dropped.
func (c *Client) Events(ctx context.Context, names ...string) (<-chan Event, error) {
	s, err := c.hub.subscribe(SubscribeOptions{Names: slices.Clone(names)})
	if err != nil {
		return nil, err
	}
	c.hub.until(ctx, s)
	return s.C(), nil
}

// Done is closed when the connection has ended, for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the connection lives. Then it is ErrClosed after Close,
// ErrPeerClosed, a *ProtocolError, or what the connection met.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Stray is how many replies came that nobody waited for: late ones of abandoned
// commands, and those meant for an earlier client of the same monitor.
func (c *Client) Stray() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stray
}

// Close ends the connection, lets every waiting call return with ErrClosed, and
// waits for the client's goroutines. It may be called more than once and always
// returns nil. Commands that QEMU has read still run.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	c.wg.Wait()
	return nil
}

// fail ends the connection once, for the given reason: it closes the socket,
// answers all who wait, and ends all subscriptions.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if c.writeErr != nil && err != ErrClosed {
		err = c.writeErr
	}
	c.err = err
	_ = c.conn.Close() // the reason is already known
	for id, cl := range c.pending {
		delete(c.pending, id)
		cl.settle(outcome{err: &CallError{Command: cl.name, Sent: cl.sent, Err: err}})
	}
	c.mu.Unlock()
	c.hub.close(err)
	close(c.done)
}
