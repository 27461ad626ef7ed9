package qemuhost

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// link passes TCP connections on and can be cut and mended.
type link struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	to    string
	cut   bool
	conns map[net.Conn]struct{}
}

// newLink listens on the loopback address and leads nowhere yet.
func newLink(t *testing.T) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{l: l, conns: map[net.Conn]struct{}{}}
	k.wg.Go(k.accept)
	t.Cleanup(func() {
		_ = l.Close()
		k.Cut()
		k.wg.Wait()
	})
	return k
}

// Route leads the link to a ticket's address and gives a ticket that leads to the link.
func (k *link) Route(t migrate.Ticket) migrate.Ticket {
	k.mu.Lock()
	k.to = strings.TrimPrefix(t.URI, "tcp://")
	k.mu.Unlock()
	t.URI = "tcp://" + k.l.Addr().String()
	return t
}

func (k *link) accept() {
	for {
		c, err := k.l.Accept()
		if err != nil {
			return
		}
		k.wg.Go(func() { k.carry(c) })
	}
}

// carry passes on what both ends of one connection say until either closes or the link is cut.
func (k *link) carry(a net.Conn) {
	defer func() { _ = a.Close() }()
	k.mu.Lock()
	to, cut := k.to, k.cut
	k.mu.Unlock()
	if cut {
		return
	}
	b, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = b.Close() }()
	if !k.hold(a, b) {
		return
	}
	defer k.drop(a, b)
	var wg sync.WaitGroup
	pump := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // either end may break it off
		_ = to.Close()
		_ = from.Close()
	}
	wg.Go(func() { pump(a, b) })
	pump(b, a)
	wg.Wait()
}

// hold registers connections for Cut, unless the link is cut already.
func (k *link) hold(cs ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range cs {
		k.conns[c] = struct{}{}
	}
	return !k.cut
}

func (k *link) drop(cs ...net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range cs {
		delete(k.conns, c)
	}
}

// Cut breaks all connections and refuses new ones.
func (k *link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = true
	for c := range k.conns {
		_ = c.Close()
	}
}

// Heal lets new connections through.
func (k *link) Heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = false
}
