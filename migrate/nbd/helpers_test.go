package nbd

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// memory is a backend that knows its zeroes in pages of 4 KiB, and can fail.
type memory struct {
	mu    sync.Mutex
	p     []byte
	syncs int
	fail  func(op string, off int64) error
}

const memPage = 4096

func (m *memory) failing(op string, off int64) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(op, off)
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if err := m.failing("read", off); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := copy(p, m.p[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.failing("write", off); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.p[off:], p), nil
}

func (m *memory) Size() (int64, error) { return int64(len(m.p)), nil }

func (m *memory) Sync() error {
	m.mu.Lock()
	m.syncs++
	m.mu.Unlock()
	return m.failing("sync", 0)
}

// sparse is a memory that tells its zero pages.
type sparse struct{ *memory }

func (s sparse) ReadSparse(_ context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	if _, err := s.ReadAt(p, off); err != nil {
		return nil, err
	}
	for at := 0; at < len(p); {
		n := min(memPage-int(off+int64(at))%memPage, len(p)-at)
		if bytes.Count(p[at:at+n], []byte{0}) == n {
			if k := len(holes); k > 0 && holes[k-1].End() == off+int64(at) {
				holes[k-1].Length += int64(n)
			} else {
				holes = append(holes, ram.Extent{Offset: off + int64(at), Length: int64(n)})
			}
			for i := at; i < at+n; i++ {
				p[i] = 0xee // of no matter, says the interface
			}
		}
		at += n
	}
	return holes, nil
}

// pattern is n bytes of which every third page is zero.
func pattern(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		if i/memPage%3 != 1 {
			p[i] = byte(rng.Uint32())
		}
	}
	return p
}

// start serves on a loopback port until the test ends, and returns how to dial it.
func start(tb testing.TB, cfg Config) (*Server, func(context.Context) (net.Conn, error)) {
	tb.Helper()
	srv, err := NewServer(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(context.Background(), l); err != ErrServerClosed {
			tb.Errorf("Serve: %v", err)
		}
	})
	tb.Cleanup(func() {
		if err := srv.Close(); err != nil {
			tb.Error(err)
		}
		wg.Wait()
	})
	addr := l.Addr().String()
	return srv, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

func serve(tb testing.TB, exports ...Export) func(context.Context) (net.Conn, error) {
	tb.Helper()
	_, dial := start(tb, Config{Exports: NewExports(exports...)})
	return dial
}

func open(tb testing.TB, cfg ClientConfig) *Client {
	tb.Helper()
	c, err := Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}
