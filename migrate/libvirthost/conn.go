package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// A daemon works on five calls of one client and reads no more until one is done (max_client_requests), not even
// pings. So no more than maxCalls are under way, and fewer that only look: a look that hangs must not keep a Cancel
// from going out. Of the looks, those that wait for a domain's job inside libvirt, for half a minute at worst, leave
// room for those that never wait.
const (
	maxCalls = 4
	maxLooks = 2
	maxSlow  = 1
)

// conn is one connection to a daemon: the wire, go-libvirt on top of it, and the calls under way.
type conn struct {
	w     *wire
	lv    *libvirt.Libvirt
	pulse *pulse
	// lines are what a call queues in; see class.
	calls, looks, slow chan struct{}

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // calls, the pulse and subscriptions
}

// handed gives go-libvirt the one connection that is already there.
type handed struct{ c net.Conn }

func (h handed) Dial() (net.Conn, error) { return h.c, nil }

// newConn authenticates on raw and opens the driver. It owns raw from the start and returns when ctx ends.
func newConn(ctx context.Context, raw net.Conn, name string, take func(header, []byte) bool) (*conn, error) {
	p := newPulse()
	w := newWire(raw, func(h header, b []byte) bool { return p.take(h) || take(h, b) })
	p.w = w
	c := &conn{w: w, pulse: p, calls: make(chan struct{}, maxCalls),
		looks: make(chan struct{}, maxLooks), slow: make(chan struct{}, maxSlow)}
	stop := context.AfterFunc(ctx, func() { w.fail(context.Cause(ctx)) })
	defer stop()
	if err := checkAuth(raw); err != nil {
		w.fail(err)
		return nil, err
	}
	c.lv = libvirt.NewWithDialer(handed{w})
	if err := c.lv.ConnectToURI(libvirt.ConnectURI(name)); err != nil {
		w.fail(err)
		joinReader(c.lv)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, openFail(err)
	}
	p.ping = c.feature(featureKeepalive)
	c.wg.Go(func() { p.run(pingEvery) })
	return c, nil
}

// featureKeepalive is libvirt's number (virDrvFeature) of a daemon that takes part in keepalives.
const featureKeepalive = 10

// feature asks the daemon for one; it is used before anyone else holds c. Asking for keepalives also has the daemon
// watch us, so that it cleans up after a coordinator whose machine is gone.
func (c *conn) feature(f int32) bool {
	n, err := c.lv.ConnectSupportsFeature(f)
	return err == nil && n > 0
}

// checkAuth asks which authentication the daemon wants before go-libvirt does, which would skip in silence the kinds
// that it cannot do.
func checkAuth(c net.Conn) error {
	ask := packet(header{prog: progRemote, vers: 1, proc: procAuthList, typ: typeCall}, nil)
	if _, err := c.Write(ask); err != nil {
		return link(err)
	}
	b, err := readPacket(c)
	if err != nil {
		return link(fmt.Errorf("no answer to the first question: %w", err))
	}
	if h := parseHeader(b); h.status != statusOK {
		code, msg := parseError(b[headSize:])
		return openFail(libvirt.Error{Code: code, Message: msg})
	}
	kinds, err := parseAuthList(b[headSize:])
	if err != nil {
		return link(err)
	}
	return authFail(kinds)
}

// authFail is nil for what go-libvirt can do: none and polkit.
func authFail(kinds []uint32) error {
	const none, sasl, polkit = 0, 1, 2
	for _, k := range kinds {
		if k == none || k == polkit {
			return nil
		}
	}
	what := fmt.Sprintf("authentication kinds %v", kinds)
	if len(kinds) > 0 && kinds[0] == sasl {
		what = "SASL authentication"
	}
	return migrate.Fail("authenticate to libvirt", "", fmt.Errorf("%s: %w", what, migrate.ErrNotSupported),
		"use qemu+ssh://, or set auth_tcp, auth_tls or auth_unix_rw to \"none\" in libvirtd.conf there (with TLS, certificates still decide who may connect)")
}

// openFail explains why the daemon would not open the driver.
func openFail(err error) error {
	var le libvirt.Error
	fix := ""
	if errors.As(err, &le) {
		switch libvirt.ErrorNumber(le.Code) {
		case libvirt.ErrAuthFailed, libvirt.ErrAuthUnavailable, libvirt.ErrAuthCancelled:
			fix = "run as root, or add this user to the group libvirt on that host"
		case libvirt.ErrNoConnect:
			fix = "install libvirt's QEMU driver on that host (libvirt-daemon-driver-qemu)"
		}
	}
	return migrate.Fail("open libvirt's QEMU driver", "", classify(err), fix)
}

// enter counts something that uses the connection, unless it is closed.
func (c *conn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Add(1)
	return true
}

// lost is the error of a connection that is gone.
func (c *conn) lost() error {
	why := c.w.reason()
	if errors.Is(why, io.EOF) {
		why = errors.New("the daemon closed it")
	}
	return link(why)
}

// class tells which lines a call queues in.
type class uint8

const (
	classDo class = iota + 1
	classLook
	classSlow
)

// slots takes a place in line for one call; release gives it back.
func (c *conn) slots(ctx context.Context, k class) (release func(), err error) {
	lines := []chan struct{}{c.slow, c.looks, c.calls}
	switch k {
	case classDo:
		lines = lines[2:]
	case classLook:
		lines = lines[1:]
	}
	for i, l := range lines {
		select {
		case l <- struct{}{}:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-c.w.dead:
			err = c.lost()
		}
		if err != nil {
			for _, held := range lines[:i] {
				<-held
			}
			return nil, err
		}
	}
	return func() {
		for _, l := range lines {
			<-l
		}
	}, nil
}

// do makes one call that changes something, look one that does not, slowLook one that may have to wait for a domain's
// job. They return when ctx ends; the call then stays under way until the daemon answers or the connection closes, and
// its answer is dropped.
func do[T any](ctx context.Context, c *conn, f func(*libvirt.Libvirt) (T, error)) (T, error) {
	return rpc(ctx, c, classDo, f)
}

func look[T any](ctx context.Context, c *conn, f func(*libvirt.Libvirt) (T, error)) (T, error) {
	return rpc(ctx, c, classLook, f)
}

func slowLook[T any](ctx context.Context, c *conn, f func(*libvirt.Libvirt) (T, error)) (T, error) {
	return rpc(ctx, c, classSlow, f)
}

func rpc[T any](ctx context.Context, c *conn, k class, f func(*libvirt.Libvirt) (T, error)) (T, error) {
	var zero T
	release, err := c.slots(ctx, k)
	if err != nil {
		return zero, err
	}
	if !c.enter() {
		release()
		return zero, link(net.ErrClosed)
	}
	type answer struct {
		v   T
		err error
	}
	done := make(chan answer, 1)
	go func() {
		defer c.wg.Done()
		defer release()
		v, err := guarded(c, f)
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		if a.err != nil && c.w.reason() != nil {
			return zero, c.lost()
		}
		return a.v, classify(a.err)
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	}
}

// guarded turns a panic of go-libvirt's decoder over a malformed answer into a lost connection.
func guarded[T any](c *conn, f func(*libvirt.Libvirt) (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed answer: %v", r)
			c.w.fail(err)
		}
	}()
	return f(c.lv)
}

// close takes leave of the daemon, closes the wire and waits for all that ran on the connection.
func (c *conn) close() {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if first && c.w.reason() == nil {
		// libvirt ends a connection either way; with this it does not complain in its log. Nobody waits for the answer.
		c.w.farewell(packet(header{prog: progRemote, vers: 1, proc: procConnectClose, typ: typeCall, serial: -1}, nil))
	}
	c.w.Close()
	joinReader(c.lv)
	c.wg.Wait()
}

// joinReader waits until go-libvirt has noticed that its connection is gone. If that happened in the very moment in
// which it was opened, go-libvirt never tells, so the wait is bounded.
func joinReader(lv *libvirt.Libvirt) {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-lv.Disconnected():
	case <-t.C:
	}
}
