package postcopy_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
)

// farSide is a source's RAM over NBD, by a connection that the reader of faults uses itself.
type farSide struct {
	*postcopy.NBDDirect
	conns, sends, fetches atomic.Int64
	every                 int64 // so many requests on, its connection is cut; 0 is never
	onSend                func(n int64)
	mu                    sync.Mutex
	conn                  net.Conn
}

func newFarSide(t *testing.T, pages int, fail func(off int64) error) *farSide {
	t.Helper()
	f, err := sys.Memfd("source", int64(pages)*page, false)
	if err != nil {
		t.Fatal(err)
	}
	for n := range pages {
		buf := make([]byte, page)
		if fill(buf, 0, n); zero(0, n) {
			continue
		}
		if _, err := f.WriteAt(buf, int64(n)*page); err != nil {
			t.Fatal(err)
		}
	}
	back, err := nbd.NewFile(f, nbd.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := nbd.NewServer(nbd.Config{Exports: nbd.NewExports(nbd.Export{Backend: failingFile{back, fail}, ReadOnly: true})})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(context.Background(), ownThreads{l}) })
	s := &farSide{NBDDirect: &postcopy.NBDDirect{Starts: []int64{0}}}
	s.Client, err = nbd.Open(t.Context(), nbd.ClientConfig{Direct: true, Dial: func(ctx context.Context) (net.Conn, error) {
		c, err := ownThreads{}.dial(ctx, l.Addr())
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conn = c
		s.conns.Add(1)
		return c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Client.Close()
		_ = srv.Close()
		wg.Wait()
		_, _ = back.Close(), f.Close()
	})
	return s
}

// failingFile fails as it is told.
type failingFile struct {
	*nbd.File
	fail func(off int64) error
}

func (f failingFile) View(context.Context, int64, int64) ([]byte, []ram.Extent, error) {
	return nil, nil, nil
}

func (f failingFile) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	if f.fail != nil {
		if err := f.fail(off); err != nil {
			return nil, err
		}
	}
	return f.File.ReadSparse(ctx, p, off)
}

// ownThreads makes connections wait in threads of their own.
type ownThreads struct{ net.Listener }

func (l ownThreads) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return sys.TakeConn(c.(*net.TCPConn))
}

func (ownThreads) dial(ctx context.Context, to net.Addr) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return sys.TakeConn(c.(*net.TCPConn))
}

func (s *farSide) Send(a *postcopy.Ask) bool {
	n := s.sends.Add(1)
	if s.onSend != nil {
		s.onSend(n)
	}
	ok := s.NBDDirect.Send(a)
	if s.every > 0 && n%s.every == 0 {
		s.mu.Lock()
		_ = s.conn.Close()
		s.mu.Unlock()
	}
	return ok
}

func (s *farSide) Fetch(ctx context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	s.fetches.Add(1)
	return s.NBDDirect.Fetch(ctx, block, off, p)
}

// The reader of faults asks over the network itself, and no worker has to.
func TestT1DirectFaults(t *testing.T) {
	const pages = 4096
	c := newChild(t, pages, page, true)
	far := newFarSide(t, pages, nil)
	cfg := c.config(c.fault, newOrigin(c.blocks))
	cfg.Demand, cfg.Events, cfg.Hold = far, true, true
	seen := &starter{until: 500, reached: make(chan struct{})}
	cfg.Trace = seen
	p := c.pager(cfg)
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	c.tell("walk 6 1")
	<-seen.reached
	p.Push()
	if err := <-run; err != nil {
		t.Fatal(err)
	}
	c.hear("walk done")
	c.checkFile()
	if st := p.Stats(); far.sends.Load() < 400 || far.fetches.Load() > far.sends.Load()/4 {
		t.Errorf("%d asked by the reader, %d by workers: %+v", far.sends.Load(), far.fetches.Load(), st)
	}
}

// The connection is cut again and again with faults on their way, and Runs end and begin with some.
func TestT1DirectSurvives(t *testing.T) {
	const pages = 4096
	c := newChild(t, pages, page, true)
	far := newFarSide(t, pages, nil)
	far.every = 97
	end := make(chan struct{}, 1)
	far.onSend = func(n int64) {
		if n%150 == 0 {
			select {
			case end <- struct{}{}:
			default:
			}
		}
	}
	cfg := c.config(c.fault, newOrigin(c.blocks))
	cfg.Demand, cfg.Events, cfg.Hold = far, true, true
	p := c.pager(cfg)
	c.tell("walk 8 1")
	runs := 0
	for ; far.sends.Load() < 1500; runs++ {
		ctx, cancel := context.WithCancel(t.Context())
		stop := make(chan struct{})
		go func() {
			select {
			case <-end:
			case <-stop:
			}
			cancel()
		}()
		err := p.Run(ctx)
		close(stop)
		if !errors.Is(err, context.Canceled) && !errors.Is(err, postcopy.ErrLink) {
			t.Fatal(err)
		}
	}
	p.Push()
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.hear("walk done")
	c.checkFile()
	if far.conns.Load() < 5 || runs < 5 {
		t.Errorf("%d connections in %d runs", far.conns.Load(), runs)
	}
}

// What the source cannot read ends the Run with what it said, as ever.
func TestT1DirectRefusal(t *testing.T) {
	c := newChild(t, 64, page, true)
	var heal atomic.Bool
	far := newFarSide(t, 64, func(off int64) error {
		if off == 5*page && !heal.Load() {
			return nbd.EIO
		}
		return nil
	})
	cfg := c.config(c.fault, newOrigin(c.blocks))
	cfg.Demand, cfg.Events, cfg.Hold = far, true, true
	p := c.pager(cfg)
	c.tell("walk 1 1")
	err := p.Run(t.Context())
	var fetch *postcopy.FetchError
	if !errors.As(err, &fetch) || !fetch.Demand || fetch.Offset != 5*page || !errors.Is(err, nbd.EIO) || errors.Is(err, postcopy.ErrLink) {
		t.Fatal(err)
	}
	heal.Store(true)
	p.Push()
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.hear("walk done")
	c.checkFile()
}
