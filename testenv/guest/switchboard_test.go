package guest_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// switchboard is a Dialer whose connection can be moved from guest to guest, as
// a guest's address moves from host to host.
type switchboard struct {
	mu    sync.Mutex
	conns []net.Conn
	in    chan []byte
	done  chan struct{}
	wait  sync.WaitGroup
}

// connect leads from now on to these addresses.
func (s *switchboard) connect(t *testing.T, addrs ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		s.in, s.done = make(chan []byte, 1024), make(chan struct{})
		t.Cleanup(func() { s.hangUp(); s.wait.Wait() })
	}
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
	for _, a := range addrs {
		c, err := net.Dial("udp", a)
		if err != nil {
			t.Fatal(err)
		}
		s.conns = append(s.conns, c)
		s.wait.Go(func() { s.pump(c) })
	}
}

// pump brings answers in.
func (s *switchboard) pump(c net.Conn) {
	for {
		b := make([]byte, 2048)
		n, err := c.Read(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		select {
		case s.in <- b[:n]:
		case <-s.done:
			return
		}
	}
}

func (s *switchboard) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
	select {
	case <-s.done:
	default:
		close(s.done)
	}
}

// DialContext makes the one end that a client or a witness holds.
func (s *switchboard) DialContext(context.Context, string, string) (net.Conn, error) {
	return &call{Conn: nil, s: s}, nil
}

// call is a net.Conn with the methods that a witness uses.
type call struct {
	net.Conn
	s *switchboard
}

func (c *call) Write(b []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for _, conn := range c.s.conns {
		_, _ = conn.Write(b)
	}
	return len(b), nil
}

func (c *call) Read(b []byte) (int, error) {
	select {
	case d := <-c.s.in:
		return copy(b, d), nil
	case <-c.s.done:
		return 0, net.ErrClosed
	}
}

func (c *call) Close() error { c.s.hangUp(); return nil }
