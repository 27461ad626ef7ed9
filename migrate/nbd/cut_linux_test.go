package nbd

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

// cutNet is a network of its own whose only link can be cut: then packets get lost, and nobody is told.
type cutNet struct {
	testing.TB
	listener net.Listener
	handle   *netlink.Handle
	ns       netns.NsHandle
}

// newCutNet makes one with a listener in it. Sockets stay in the namespace that they were made in.
func newCutNet(tb testing.TB) *cutNet {
	tb.Helper()
	n := &cutNet{TB: tb}
	if err := n.inside(func() (err error) {
		if n.handle, err = netlink.NewHandle(); err != nil {
			return err
		}
		n.set(true)
		n.listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		n.handle.Close()
		_ = n.listener.Close() // it may be closed already
		if err := n.ns.Close(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// inside runs f on a thread in the namespace, which is made at the first time.
func (n *cutNet) inside(f func() error) error {
	failed := make(chan error)
	go func() { // its thread is thrown away with it, being in a foreign namespace
		runtime.LockOSThread()
		var err error
		if n.ns == 0 {
			n.ns, err = netns.New()
		} else {
			err = netns.Set(n.ns)
		}
		if err == nil {
			err = f()
		}
		failed <- err
	}()
	return <-failed
}

func (n *cutNet) set(up bool) {
	n.Helper()
	lo, err := n.handle.LinkByName("lo")
	if err == nil && up {
		err = n.handle.LinkSetUp(lo)
	} else if err == nil {
		err = n.handle.LinkSetDown(lo)
	}
	if err != nil {
		n.Fatal(err)
	}
}

func (n *cutNet) dial(context.Context) (conn net.Conn, err error) {
	err = n.inside(func() error {
		conn, err = net.DialTimeout("tcp", n.listener.Addr().String(), time.Second)
		return err
	})
	return conn, err
}

// When the link is cut while reads are in flight the client notices; when it is back within Rejoin, no reader has seen it.
func TestT2ACutLinkIsSurvived(t *testing.T) {
	need.Netns(t)
	n := newCutNet(t)
	b := newGated(1 << 20)
	srv, err := NewServer(Config{Exports: NewExports(Export{Backend: b}), Limits: Limits{Patience: time.Second, Grace: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(context.Background(), n.listener) }) // it ends by Close
	defer wg.Wait()
	defer srv.Close() //nolint:errcheck // it always succeeds
	c := open(t, ClientConfig{Dial: n.dial, Conns: 2, Patience: time.Second, Rejoin: 30 * time.Second})
	for range 4 {
		wg.Go(func() { checkRead(t, c, b.p, 4096, 100<<10) })
	}
	for range 4 {
		<-b.entered
	}
	n.set(false)
	close(b.let) // the answers are lost
	for c.Connections() > 0 {
		c.mu.Lock()
		change := c.change
		c.mu.Unlock()
		select {
		case <-change:
		case <-time.After(toolTime):
			t.Fatal("nobody noticed")
		}
	}
	if !errors.Is(c.lastLoss(), errStalled) {
		t.Logf("the kernel noticed first: %v", c.lastLoss())
	}
	n.set(true)
	for range 4 {
		<-b.entered // they are asked again
	}
	checkRead(t, c, b.p, 0, 1<<20)
}
