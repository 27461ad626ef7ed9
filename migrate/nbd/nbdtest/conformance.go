package nbdtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Size is what the suite uses of a backend, in bytes, at most.
const Size = 256 << 10

// Conformance runs the suite. Each call of newBackend makes a backend of its own, of at least 64 KiB, that may be written to.
func Conformance(t *testing.T, newBackend func(t *testing.T) backend.Backend) {
	t.Helper()
	tests := []struct {
		name string
		run  func(*subject)
	}{
		{"keeps what is written", keeps},
		{"keeps what is written side by side", sideBySide},
		{"ends where its size says", ends},
		{"tells no data for a hole", holes},
		{"serves all of it to a client", served},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) { tc.run(newSubject(t, newBackend(t))) })
	}
}

// subject is a backend under test, with what it should hold.
type subject struct {
	*testing.T
	backend.Backend
	rng  *rand.Rand
	want []byte
	size int64
}

func newSubject(t *testing.T, b backend.Backend) *subject {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("VMMIGRATE_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed: VMMIGRATE_SEED=%d", seed)
	size, err := b.Size()
	if err != nil || size < 64<<10 {
		t.Fatalf("size %d, %v", size, err)
	}
	s := &subject{T: t, Backend: b, rng: rand.New(rand.NewPCG(seed, 0)), size: min(size, Size)}
	s.want = make([]byte, s.size)
	if _, err := b.ReadAt(s.want, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return s
}

// span is a random range, of whole pages as often as not.
func (s *subject) span() (off, n int64) {
	off = s.rng.Int64N(s.size)
	n = 1 + s.rng.Int64N(min(s.size-off, 64<<10))
	if s.rng.IntN(2) == 0 {
		off &^= 4095
		n = min((n+4095)&^4095, s.size-off)
	}
	return off, n
}

func (s *subject) bytes(n int64) []byte {
	p := make([]byte, 0, n+8)
	for int64(len(p)) < n {
		p = binary.NativeEndian.AppendUint64(p, s.rng.Uint64())
	}
	return p[:n:n]
}

func (s *subject) must(op string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", op, err)
	}
}

// change does something at random, and notes what should be there then.
func (s *subject) change() {
	s.Helper()
	off, n := s.span()
	ctx := s.Context()
	zero, canZero := s.Backend.(nbd.ZeroWriter)
	trim, canTrim := s.Backend.(nbd.Trimmer)
	kind := s.rng.IntN(4)
	switch {
	case kind == 0 && canZero:
		err := zero.WriteZeroes(ctx, off, n, s.rng.IntN(2) == 0)
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		s.must(fmt.Sprintf("zero %d at %d", n, off), err)
		clear(s.want[off : off+n])
	case kind == 1 && canTrim:
		s.must(fmt.Sprintf("trim %d at %d", n, off), trim.Trim(ctx, off, n))
		_, err := s.ReadAt(s.want[off:off+n], off) // whatever it is now
		s.must("read of what was trimmed", ended(err))
	default:
		p := s.bytes(n)
		got, err := s.WriteAt(p, off)
		s.must(fmt.Sprintf("write %d at %d", n, off), err)
		if int64(got) != n {
			s.Fatalf("%d bytes of %d written", got, n)
		}
		copy(s.want[off:], p)
	}
}

// ended lets pass what io.ReaderAt may say at the end of its data.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// same reads a range in each way that the backend has.
func (s *subject) same(off, n int64) {
	s.Helper()
	want := s.want[off : off+n]
	p := s.bytes(n)
	if got, err := s.ReadAt(p, off); int64(got) != n || ended(err) != nil {
		s.Fatalf("read of %d at %d: %d, %v", n, off, got, err)
	}
	s.compare("read", p, want, off)
	if b, ok := s.Backend.(nbd.ContextBackend); ok {
		got, err := b.ReadAtContext(s.Context(), p, off)
		if int64(got) != n || ended(err) != nil {
			s.Fatalf("read of %d at %d with a context: %d, %v", n, off, got, err)
		}
		s.compare("read with a context", p, want, off)
	}
	if b, ok := s.Backend.(nbd.SparseReader); ok {
		p := s.bytes(n)
		holes, err := b.ReadSparse(s.Context(), p, off)
		s.must("sparse read", err)
		s.fill(p, holes, off)
		s.compare("sparse read", p, want, off)
	}
	if b, ok := s.Backend.(nbd.Viewer); ok {
		view, holes, err := b.View(s.Context(), off, n)
		s.must("view", err)
		if view != nil {
			p := bytes.Clone(view)
			s.fill(p, holes, off)
			s.compare("view", p, want, off)
		}
	}
}

// fill puts zeroes where holes are told, and sees that those are as they should be.
func (s *subject) fill(p []byte, holes []ram.Extent, off int64) {
	s.Helper()
	at := off
	for _, h := range holes {
		if h.Offset < at || h.Length <= 0 || h.End() > off+int64(len(p)) {
			s.Fatalf("holes %v of %d bytes at %d", holes, len(p), off)
		}
		at = h.End()
		clear(p[h.Offset-off : h.End()-off])
	}
}

func (s *subject) compare(how string, got, want []byte, off int64) {
	s.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range want {
		if got[i] != want[i] {
			s.Fatalf("%s of %d bytes at %d: byte %d is %#x, want %#x", how, len(want), off, i, got[i], want[i])
		}
	}
}

func keeps(s *subject) {
	for range 60 {
		s.change()
		off, n := s.span()
		s.same(off, n)
	}
	s.must("sync", s.Sync())
	s.same(0, s.size)
}

// sideBySide has several writers, each with a part of its own, and readers of all of it.
func sideBySide(s *subject) {
	const writers = 4
	var wg sync.WaitGroup
	part := s.size / writers
	for i := range int64(writers) {
		p := s.bytes(part)
		copy(s.want[i*part:], p)
		wg.Go(func() {
			for at := int64(0); at < part; at += 4096 {
				n := min(4096, part-at)
				if _, err := s.WriteAt(p[at:at+n], i*part+at); err != nil {
					s.Errorf("write at %d: %v", i*part+at, err)
				}
			}
		})
		wg.Go(func() {
			p := make([]byte, 8192)
			for at := int64(0); at+8192 <= s.size; at += 8192 {
				if n, err := s.ReadAt(p, at); n != len(p) || ended(err) != nil {
					s.Errorf("read at %d: %d, %v", at, n, err)
				}
			}
		})
	}
	wg.Wait()
	s.same(0, part*writers)
}

// ends reads and writes the last byte.
func ends(s *subject) {
	size, err := s.Size()
	s.must("size", err)
	for _, n := range []int64{1, 511, 4096} {
		p := s.bytes(n)
		if got, err := s.WriteAt(p, size-n); int64(got) != n || err != nil {
			s.Fatalf("the last %d bytes: %d written, %v", n, got, err)
		}
		q := make([]byte, n)
		if got, err := s.ReadAt(q, size-n); int64(got) != n || ended(err) != nil || !bytes.Equal(p, q) {
			s.Fatalf("the last %d bytes: %d read, %v", n, got, err)
		}
	}
	if again, err := s.Size(); err != nil || again != size {
		s.Errorf("size %d became %d, %v", size, again, err)
	}
}

// holes sees that what extents call zero is.
func holes(s *subject) {
	b, ok := s.Backend.(nbd.Extenter)
	if !ok {
		s.Skip("it has no extents to tell")
	}
	for range 20 {
		s.change()
		off, n := s.span()
		s.extents(b, off, n)
	}
	s.extents(b, 0, s.size)
}

func (s *subject) extents(b nbd.Extenter, off, length int64) {
	s.Helper()
	for at := off; at < off+length; {
		list, err := b.Extents(s.Context(), at, off+length-at)
		s.must("extents", err)
		if len(list) == 0 {
			s.Fatalf("no extents from %d to %d", at, off+length)
		}
		for _, e := range list {
			if e.Length <= 0 {
				s.Fatalf("an extent of %d bytes", e.Length)
			}
			end := min(at+e.Length, off+length)
			if at < end && e.Flags&nbd.StatusZero != 0 && bytes.Count(s.want[at:end], []byte{0}) != int(end-at) {
				s.Fatalf("from %d to %d there is data, and extents say zero", at, end)
			}
			at = end
		}
	}
}

// served has clients do what the other tests do by themselves.
func served(s *subject) {
	c := dial(s.T, s.Backend)
	info := c.Info()
	ctx := s.Context()
	for range 60 {
		off, n := s.span()
		switch s.rng.IntN(3) {
		case 0:
			s.must("zero", c.WriteZeroes(ctx, off, n, s.rng.IntN(2) == 0))
			clear(s.want[off : off+n])
		case 1:
			for range 2 { // the second time there is something to write over
				p := s.bytes(n)
				s.must("write", c.WriteAt(ctx, p, off))
				copy(s.want[off:], p)
			}
		case 2:
			if info.CanTrim {
				s.must("trim", c.Trim(ctx, off, n))
				s.must("read of what was trimmed", c.ReadAt(ctx, s.want[off:off+n], off))
			}
		}
		off, n = s.span()
		p := s.bytes(n)
		_, err := c.ReadSparse(ctx, p, off)
		s.must("read", err)
		s.compare("read over the wire", p, s.want[off:off+n], off)
		s.must("cache", ended(c.Cache(ctx, off, n)))
	}
	s.extents(overWire{c}, 0, s.size)
	s.must("flush", c.Flush(ctx))
}

// overWire makes a client's block status extents of a backend.
type overWire struct{ c *nbd.Client }

func (w overWire) Extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	return w.c.BlockStatus(ctx, nbd.BaseAllocation, off, length)
}

// dial serves a backend and returns a client of it, until the test ends.
func dial(t *testing.T, b backend.Backend) *nbd.Client {
	t.Helper()
	srv, err := nbd.NewServer(nbd.Config{Exports: nbd.NewExports(nbd.Export{Name: "x", Backend: b})})
	if err != nil {
		t.Fatal(err)
	}
	c, err := nbd.Open(t.Context(), nbd.ClientConfig{Export: "x", Conns: 2, Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go srv.ServeConn(context.Background(), far) //nolint:errcheck // the server's Close waits for it, and the client tells
		return near, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), srv.Close()); err != nil {
			t.Error(err)
		}
	})
	return c
}
