package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// puppet is a server whose handshake is right, and whose answers are a test's.
type puppet struct {
	srv    *Server
	answer func(s *session) // until it returns; then the connection is closed
	mu     sync.Mutex
	dials  int
	wg     sync.WaitGroup
}

func newPuppet(tb testing.TB, size int, answer func(s *session)) *puppet {
	tb.Helper()
	srv, err := NewServer(Config{Exports: NewExports(Export{Backend: newToldOf(size)})})
	if err != nil {
		tb.Fatal(err)
	}
	p := &puppet{srv: srv, answer: answer}
	tb.Cleanup(p.wg.Wait)
	return p
}

func newToldOf(size int) *told {
	b := newTold()
	b.p = pattern(size, 6)
	return b
}

func (p *puppet) dial(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	p.dials++
	p.mu.Unlock()
	near, far := net.Pipe()
	p.wg.Go(func() {
		defer far.Close() //nolint:errcheck // a pipe
		if s, err := p.srv.negotiate(context.WithoutCancel(ctx), far); err == nil {
			p.answer(s)
		}
	})
	return near, nil
}

// next reads a request; false when the client has gone.
func (s *session) next() (request, bool) {
	head := make([]byte, requestLen)
	if _, err := io.ReadFull(s.br, head); err != nil {
		return request{}, false
	}
	q, ok := parseRequest(head)
	return q, ok && q.cmd != cmdDisc
}

// say sends whatever follows.
func (s *session) say(parts ...[]byte) { _, _ = s.conn.Write(bytes.Join(parts, nil)) } // the client may have gone

// dataChunk is a chunk that holds what a told of that size has.
func dataChunk(q request, flags uint16, from, to uint64, size int) []byte {
	c := chunk{flags: flags, kind: chunkData, cookie: q.cookie, length: uint32(8 + to - from)}
	return append(wire.AppendUint64(c.append(nil), from), pattern(size, 6)[from:to]...)
}

func holeChunk(q request, flags uint16, from, to uint64) []byte {
	p := wire.AppendUint64(chunk{flags: flags, kind: chunkHole, cookie: q.cookie, length: 12}.append(nil), from)
	return wire.AppendUint32(p, uint32(to-from))
}

// Whatever is no right answer costs the connection, and never is taken for data; the read is sent again.
func TestWrongAnswersCostTheConnection(t *testing.T) {
	const size = 3 * memPage
	errorChunk := func(q request, text uint16) []byte {
		c := chunk{flags: chunkDone, kind: chunkError, cookie: q.cookie, length: 8}
		return append(wire.AppendUint16(wire.AppendUint32(c.append(nil), 5), text), 'x', 'y')
	}
	for name, wrong := range map[string]func(q request) []byte{
		"unknown cookie":    func(q request) []byte { return dataChunk(request{cookie: q.cookie + 1}, chunkDone, 0, size, size) },
		"unknown simple":    func(q request) []byte { return appendSimple(nil, q.cookie+9, 0) },
		"simple for a read": func(q request) []byte { return appendSimple(nil, q.cookie, 0) },
		"no magic":          func(q request) []byte { return make([]byte, 64) },
		"gap":               func(q request) []byte { return dataChunk(q, chunkDone, 0, memPage, size) },
		"gap in the middle": func(q request) []byte {
			return slices.Concat(dataChunk(q, 0, 0, 1, size), dataChunk(q, chunkDone, 2, size, size))
		},
		"overlap": func(q request) []byte {
			return slices.Concat(dataChunk(q, 0, 0, memPage, size), holeChunk(q, chunkDone, memPage-1, size))
		},
		"twice": func(q request) []byte {
			return slices.Concat(holeChunk(q, 0, 0, size), holeChunk(q, chunkDone, 0, size))
		},
		"nothing":              func(q request) []byte { return chunk{flags: chunkDone, cookie: q.cookie}.append(nil) },
		"behind the end":       func(q request) []byte { return holeChunk(q, chunkDone, 0, size+1) },
		"far behind the end":   func(q request) []byte { return holeChunk(q, chunkDone, 1<<63, 1<<63+size) },
		"before the beginning": func(q request) []byte { q.offset = 0; return holeChunk(q, chunkDone, 1<<64-memPage, 0) },
		"empty hole":           func(q request) []byte { return holeChunk(q, chunkDone, 0, 0) },
		"empty data": func(q request) []byte {
			return append(chunk{kind: chunkData, cookie: q.cookie, length: 8}.append(nil), make([]byte, 8)...)
		},
		"status for a read": func(q request) []byte {
			return append(chunk{kind: chunkStatus, cookie: q.cookie, length: 12}.append(nil), make([]byte, 12)...)
		},
		"long error": func(q request) []byte { return chunk{kind: chunkError, cookie: q.cookie, length: 1 << 31}.append(nil) },
		"error without number": func(q request) []byte {
			return append(chunk{kind: chunkError, cookie: q.cookie, length: 6}.append(nil), make([]byte, 6)...)
		},
		"error's text too long": func(q request) []byte { return errorChunk(q, 3) },
		"hang up":               func(request) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var first sync.Once
			p := newPuppet(t, size, func(s *session) {
				q, ok := s.next()
				spoil := false
				first.Do(func() { spoil = true })
				switch {
				case ok && spoil:
					s.say(wrong(q))
					if name != "hang up" {
						_, _ = s.next() // waits for the client to hang up
					}
				case ok: // out of order, and all there
					s.say(dataChunk(q, 0, memPage, size, size), dataChunk(q, chunkDone, 0, memPage, size))
					_, _ = s.next()
				}
			})
			c := open(t, ClientConfig{Dial: p.dial})
			got := make([]byte, size)
			if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, pattern(size, 6)) {
				t.Errorf("read: %v", err)
			}
			if p.dials != 2 {
				t.Errorf("%d connections were made", p.dials)
			}
		})
	}
}

// Errors of the server are told from a lost link, and do not cost the connection.
func TestRemoteErrors(t *testing.T) {
	p := newPuppet(t, memPage, func(s *session) {
		for q, ok := s.next(); ok; q, ok = s.next() {
			c := chunk{kind: chunkErrorAt, cookie: q.cookie, length: 6 + 2 + 8}
			text := append(wire.AppendUint16(wire.AppendUint32(c.append(nil), 28), 2), "no"...)
			s.say(wire.AppendUint64(text, 5), chunk{flags: chunkDone, cookie: q.cookie}.append(nil))
		}
	})
	c := open(t, ClientConfig{Dial: p.dial})
	for range 2 {
		err := c.ReadAt(t.Context(), make([]byte, 8), 0)
		var remote *RemoteError
		if !errors.As(err, &remote) || remote.Errno != ENOSPC || remote.Message != "no" || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrLinkLost) {
			t.Errorf("%v", err)
		}
	}
	if p.dials != 1 {
		t.Errorf("%d connections were made", p.dials)
	}
}

// A write in flight on a lost connection is not sent again; reads are.
func TestWritesAreNotRepeated(t *testing.T) {
	p := newPuppet(t, memPage, func(s *session) {
		q, ok := s.next()
		if ok && q.cmd == cmdWrite {
			_, _ = io.ReadFull(s.br, make([]byte, q.length))
		}
	})
	c := open(t, ClientConfig{Dial: p.dial})
	err := c.WriteAt(t.Context(), []byte("x"), 0)
	if !errors.Is(err, ErrLinkLost) {
		t.Errorf("write: %v", err)
	}
	for _, f := range []func() error{func() error { return c.Trim(t.Context(), 0, 1) }, func() error { return c.Flush(t.Context()) }, func() error { return c.WriteZeroes(t.Context(), 0, 1, true) }} {
		if err := f(); !errors.Is(err, ErrLinkLost) {
			t.Errorf("%v", err)
		}
	}
}

// A flush after acknowledged writes and a lost connection cannot vouch for them.
func TestFlushAfterALossIsUnsure(t *testing.T) {
	var mu sync.Mutex
	writes := 0
	p := newPuppet(t, memPage, func(s *session) {
		for q, ok := s.next(); ok; q, ok = s.next() {
			if q.cmd == cmdWrite {
				_, _ = io.ReadFull(s.br, make([]byte, q.length))
				mu.Lock()
				writes++
				last := writes == 1
				mu.Unlock()
				s.say(appendSimple(nil, q.cookie, 0))
				if last {
					_, _ = s.next() // one more, which is not answered
					return
				}
				continue
			}
			if q.cmd == cmdRead {
				s.say(holeChunk(q, chunkDone, q.offset, q.offset+uint64(q.length)))
				continue
			}
			s.say(appendSimple(nil, q.cookie, 0))
		}
	})
	c := open(t, ClientConfig{Dial: p.dial})
	if err := c.WriteAt(t.Context(), []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadAt(t.Context(), make([]byte, 1), 0); err != nil { // repeated after the loss
		t.Fatal(err)
	}
	if err := c.Flush(t.Context()); !errors.Is(err, ErrLinkLost) {
		t.Errorf("the flush after the loss: %v", err)
	}
	for range 2 {
		if err := c.WriteAt(t.Context(), []byte("x"), 0); err != nil {
			t.Error(err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("a flush after that: %v", err)
		}
	}
}

// A connection on which nothing moves counts as lost after Patience, and not when nothing is in flight.
func TestAStalledLinkIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPuppet(t, memPage, func(s *session) {
			_, _ = s.next()
			_, _ = s.next() // never answers
		})
		c := open(t, ClientConfig{Dial: p.dial, Patience: 4 * time.Second, Rejoin: time.Second})
		<-time.After(time.Hour) // of the test's own clock
		if c.Connections() != 1 {
			t.Fatal("an idle connection was given up")
		}
		began := time.Now()
		err := c.WriteAt(t.Context(), []byte("x"), 0)
		if took := time.Since(began); !errors.Is(err, ErrLinkLost) || !errors.Is(err, errStalled) || took > 6*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		began = time.Now()
		err = c.Trim(t.Context(), 0, 1)
		if took := time.Since(began); !errors.Is(err, ErrLinkLost) || took < 40*time.Second || took > 60*time.Second {
			t.Errorf("what may be slow: after %v: %v", took, err)
		}
	})
}

// Without a connection, requests wait for Rejoin and then say why.
func TestRejoinIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down sync.Mutex
		lost := false
		refused := errors.New("nobody there")
		p := newPuppet(t, memPage, func(s *session) { _, _ = s.next() })
		c := open(t, ClientConfig{Rejoin: 3 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
			down.Lock()
			defer down.Unlock()
			if lost {
				return nil, refused
			}
			lost = true
			return p.dial(ctx)
		}})
		began := time.Now()
		err := c.ReadAt(t.Context(), make([]byte, 1), 0)
		if took := time.Since(began); !errors.Is(err, ErrLinkLost) || !errors.Is(err, refused) || took != 3*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// When its context ends, a read returns and its buffer is the caller's again, whatever the server sends later.
func TestAReadCanBeGivenUp(t *testing.T) {
	b := newGated(1 << 20)
	c := open(t, ClientConfig{Dial: serve(t, Export{Backend: b}), Window: 8192})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	p := make([]byte, 8192)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.ReadAt(ctx, p, 0); err != why {
			t.Errorf("the read that was given up: %v", err)
		}
	})
	<-b.entered
	cancel(why)
	wg.Wait()
	full, giveUp := context.WithCancel(t.Context())
	giveUp()
	if err := c.ReadAt(full, make([]byte, 8192), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a read that waits for the window: %v", err)
	}
	close(b.let)
	q := make([]byte, 8192)
	if err := c.ReadAt(t.Context(), q, 0); err != nil || !bytes.Equal(q, b.p[:8192]) {
		t.Errorf("a read afterwards: %v", err)
	}
	if bytes.Count(p, []byte{0}) != len(p) {
		t.Error("the buffer was written to after its read had been given up")
	}
}

// No more bytes are in flight than the window says, over all connections; and it can be changed.
func TestWindowBoundsWhatIsInFlight(t *testing.T) {
	b := newGated(1 << 20)
	c := open(t, ClientConfig{Dial: serve(t, Export{Backend: b}), Conns: 4, Window: 3 * memPage})
	var wg sync.WaitGroup
	for i := range int64(10) {
		wg.Go(func() {
			if err := c.ReadAt(t.Context(), make([]byte, memPage), i*memPage); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		<-b.entered
	}
	if used := c.window.used; used > 3*memPage {
		t.Errorf("%d bytes are in flight", used)
	}
	c.SetWindow(5 * memPage)
	for range 2 {
		<-b.entered
	}
	c.window.mu.Lock()
	if c.window.used != 5*memPage {
		t.Errorf("%d bytes are in flight", c.window.used)
	}
	c.window.mu.Unlock()
	close(b.let)
	wg.Wait()
	if c.window.used != 0 {
		t.Errorf("%d bytes are in flight when nothing is", c.window.used)
	}
}

// Close ends what waits, and another export under the same name is not taken for the old one.
func TestCloseEndsWhatWaits(t *testing.T) {
	b := newGated(1 << 20)
	c := open(t, ClientConfig{Dial: serve(t, Export{Backend: b})})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.WriteAt(t.Context(), make([]byte, 0), 0); err != nil {
			t.Error(err)
		}
		if err := c.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrClientClosed) {
			t.Errorf("the read that Close found: %v", err)
		}
	})
	<-b.entered
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := c.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrClientClosed) {
		t.Errorf("a read after Close: %v", err)
	}
	close(b.let)
}

func TestAnotherExportIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := newPuppet(t, memPage, func(s *session) { _, _ = s.next() })
		other := newPuppet(t, 2*memPage, func(s *session) { _, _ = s.next() })
		var mu sync.Mutex
		dials := 0
		c := open(t, ClientConfig{Rejoin: time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if dials++; dials == 1 {
				return small.dial(ctx)
			}
			return other.dial(ctx)
		}})
		if err := c.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrLinkLost) {
			t.Errorf("%v", err)
		}
	})
}

func TestOpenSaysWhy(t *testing.T) {
	dial := serve(t, Export{Name: "x", Backend: &memory{p: make([]byte, 1)}})
	if _, err := Open(t.Context(), ClientConfig{Dial: dial, Export: "y"}); !errors.Is(err, ErrNoExport) {
		t.Errorf("a wrong name: %v", err)
	}
	if _, err := Open(t.Context(), ClientConfig{}); err == nil {
		t.Error("no Dial function")
	}
	dead, cancel := context.WithCancel(t.Context())
	near, far := net.Pipe()
	defer far.Close() //nolint:errcheck // a pipe
	cancel()
	if _, err := Open(dead, ClientConfig{Dial: func(context.Context) (net.Conn, error) { return near, nil }}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// A client keeps to one connection where the server does not vouch for several.
func TestOneConnectionWithoutMultiConn(t *testing.T) {
	for unshared, want := range map[bool]int{true: 1, false: 3} {
		synctest.Test(t, func(t *testing.T) {
			srv, err := NewServer(Config{Exports: NewExports(Export{Backend: &memory{p: make([]byte, 1)}, Unshared: unshared})})
			if err != nil {
				t.Fatal(err)
			}
			defer srv.Close() //nolint:errcheck // it always succeeds
			c := open(t, ClientConfig{Conns: 3, Dial: func(context.Context) (net.Conn, error) {
				near, far := net.Pipe()
				go srv.ServeConn(context.Background(), far) //nolint:errcheck // Close waits for it
				return near, nil
			}})
			synctest.Wait()
			if got := c.Connections(); got != want {
				t.Errorf("unshared %t: %d connections", unshared, got)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A read that is given up while its data is coming does not return before that: its buffer is being written to.
func TestAReadIsNotGivenUpWithinItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rest := make(chan struct{})
		p := newPuppet(t, 4*memPage, func(s *session) {
			q, _ := s.next()
			all := dataChunk(q, chunkDone, 0, 4*memPage, 4*memPage)
			s.say(all[:10_000])
			<-rest
			s.say(all[10_000:])
			_, _ = s.next()
		})
		c := open(t, ClientConfig{Dial: p.dial})
		ctx, cancel := context.WithCancel(t.Context())
		got := make([]byte, 4*memPage)
		returned := make(chan error, 1)
		go func() { returned <- c.ReadAt(ctx, got, 0) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		if len(returned) != 0 {
			t.Error("it returned while its buffer was being written to")
		}
		close(rest)
		if err := <-returned; err != nil || !bytes.Equal(got, pattern(4*memPage, 6)) {
			t.Errorf("and then: %v", err)
		}
	})
}
