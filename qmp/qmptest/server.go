package qmptest

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Start plays steps on one end of an in-memory pipe and returns the other.
func Start(t testing.TB, steps ...Step) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { playAll(t, server, steps) })
	t.Cleanup(func() {
		_ = client.Close() // closing a pipe does not fail
		_ = server.Close()
		wg.Wait()
	})
	return client
}

// Listen serves a unix socket and returns its path. The first connection plays
// the first script, and so on; further connections are not accepted.
func Listen(t testing.TB, scripts ...[]Step) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmptest") // t.TempDir's names can exceed a socket's
	if err != nil {
		t.Fatalf("qmptest: %v", err)
	}
	path := filepath.Join(dir, "qmp.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatalf("qmptest: %v", err)
	}
	s := &server{t: t, listener: l, conns: make(map[net.Conn]bool)}
	s.wg.Go(func() { s.accept(scripts) })
	t.Cleanup(func() {
		s.close()
		_ = os.RemoveAll(dir) // a temporary folder
	})
	return path
}

// server accepts connections and plays a script on each.
type server struct {
	t        testing.TB
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// accept takes as many connections as there are scripts.
func (s *server) accept(scripts [][]Step) {
	for i, steps := range scripts {
		conn, err := s.listener.Accept()
		if err != nil {
			s.t.Errorf("qmptest: script %d of %d was never played: no client connected", i+1, len(scripts))
			return
		}
		if !s.keep(conn) {
			_ = conn.Close() // the test is over
			return
		}
		s.wg.Go(func() { playAll(s.t, conn, steps) })
	}
}

// keep remembers a connection for close, unless it is too late.
func (s *server) keep(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[conn] = true
	return true
}

// close ends listening and all connections, and waits for their goroutines.
func (s *server) close() {
	_ = s.listener.Close() // only to end Accept
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		_ = conn.Close() // the script may have closed it already
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// playAll plays a script to its end and reports what went wrong.
func playAll(t testing.TB, conn net.Conn, steps []Step) {
	t.Helper()
	p := newPlayer(conn)
	if err := p.run(steps); err != nil {
		t.Errorf("qmptest: %v", err)
		_ = conn.Close() // let the client see that it is over
	}
}
