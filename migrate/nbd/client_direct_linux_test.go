package nbd

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// threads makes what a Dial function gives connections of a thread, and keeps the newest.
type threads struct {
	dial func(context.Context) (net.Conn, error)
	mu   sync.Mutex
	last net.Conn
}

func (d *threads) Dial(ctx context.Context) (net.Conn, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	own, err := sys.TakeConn(c.(*net.TCPConn))
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = own
	return own, nil
}

func (d *threads) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.last.Close()
}

// driver calls Take as a thread that reads faults does.
type driver struct {
	t     *testing.T
	c     *Client
	waker *sys.Waker
	got   []*Read
}

func drive(t *testing.T, cfg ClientConfig) *driver {
	t.Helper()
	cfg.Direct = true
	w, err := sys.NewWaker()
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{t: t, waker: w}
	t.Cleanup(func() { _ = w.Close() })
	d.c = open(t, cfg)
	d.c.Watch(func() { _ = w.Wake() }, func(r *Read) { d.got = append(d.got, r) })
	return d
}

// next gives the reads that end next.
func (d *driver) next() []*Read {
	d.t.Helper()
	for {
		if d.c.Take(); len(d.got) > 0 {
			got := d.got
			d.got = nil
			return got
		}
		d.wait()
	}
}

func (d *driver) wait() {
	d.t.Helper()
	var fds []int
	if fd := d.c.Descriptor(); fd >= 0 {
		fds = append(fds, fd)
	}
	if _, err := sys.Wait(d.waker, fds...); errors.Is(err, sys.ErrWoken) {
		_ = d.waker.Reset()
	}
}

// sent sends again and again until there is a connection.
func (d *driver) sent(r *Read) {
	d.t.Helper()
	for !d.c.Send(r) {
		d.c.Take()
		d.wait()
	}
}

// Many reads are under way at once, and what comes is right: with holes, over TLS, larger than what is looked at ahead, and
// beside a ReadAt of somebody else.
func TestDirectReads(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "tls": true} {
		t.Run(name, func(t *testing.T) {
			const size = 1 << 20
			data := pattern(size, 3)
			cfg := Config{Exports: NewExports(Export{Backend: sparse{&memory{p: data}}})}
			var client ClientConfig
			if secure {
				cfg.TLS, client.TLS = newAuthority(t).mutual()
			}
			_, dial := start(t, cfg)
			client.Dial = (&threads{dial: dial}).Dial
			d := drive(t, client)
			other := make(chan error, 1)
			go func() {
				p := make([]byte, size)
				err := d.c.ReadAt(t.Context(), p, 0)
				if err == nil && !bytes.Equal(p, data) {
					err = errors.New("wrong data")
				}
				_ = d.waker.Wake()
				other <- err
			}()
			d.readAll(data, 400)
			for len(other) == 0 {
				d.c.Take()
				d.wait()
			}
			if err := <-other; err != nil {
				t.Error(err)
			}
			if d.c.window.used != 0 {
				t.Errorf("%d bytes of the window are lost", d.c.window.used)
			}
		})
	}
}

// readAll makes n reads, eight at a time.
func (d *driver) readAll(data []byte, n int) {
	d.t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	send := func(r *Read) {
		most := 80 << 10
		if n--; n%50 == 0 {
			most = 300 << 10
		}
		r.P = make([]byte, 1+rng.IntN(most))
		r.Offset = int64(rng.IntN(len(data) - len(r.P)))
		d.sent(r)
	}
	for range 8 {
		send(new(Read))
	}
	for flying := 8; flying > 0; {
		for _, r := range d.next() {
			for _, h := range r.Holes {
				clear(r.P[h.Offset-r.Offset : h.End()-r.Offset])
			}
			if r.Err != nil || !bytes.Equal(r.P, data[r.Offset:][:len(r.P)]) {
				d.t.Fatalf("%d bytes at %d: %v", len(r.P), r.Offset, r.Err)
			}
			if flying--; n > 0 {
				send(r)
				flying++
			}
		}
	}
}

// shut is a backend that reads when it is let.
func shut(size int) (b *memory, gate chan struct{}) {
	gate = make(chan struct{})
	return &memory{p: pattern(size, 3), fail: func(string, int64) error { <-gate; return nil }}, gate
}

// When the connection is lost, reads end and say so, and may be sent again over the next one.
func TestDirectLinkLost(t *testing.T) {
	back, gate := shut(4 * memPage)
	dial := &threads{dial: serve(t, Export{Backend: back})}
	d := drive(t, ClientConfig{Dial: dial.Dial})
	reads := []*Read{{P: make([]byte, memPage)}, {P: make([]byte, memPage), Offset: memPage}}
	for range 2 {
		for _, r := range reads {
			d.sent(r)
		}
		dial.cut()
		for n := 0; n < len(reads); {
			for _, r := range d.next() {
				if n++; !errors.Is(r.Err, ErrLinkLost) {
					t.Fatal(r.Err)
				}
			}
		}
	}
	close(gate)
	for _, r := range reads {
		d.sent(r)
	}
	for n := 0; n < len(reads); {
		for _, r := range d.next() {
			if n++; r.Err != nil || !bytes.Equal(r.P, back.p[r.Offset:][:memPage]) {
				t.Fatal(r.Err)
			}
		}
	}
}

// A read that was given up is not told of, and its answer touches nothing.
func TestDirectDrop(t *testing.T) {
	back, gate := shut(4 * memPage)
	d := drive(t, ClientConfig{Dial: (&threads{dial: serve(t, Export{Backend: back})}).Dial})
	dropped := &Read{P: make([]byte, memPage)}
	d.sent(dropped)
	d.c.Drop(dropped)
	close(gate)
	r := &Read{P: make([]byte, memPage), Offset: memPage}
	d.sent(r)
	for got := d.next(); got[0] != r || len(got) > 1; got = d.next() {
		t.Fatal("a read that was given up has ended")
	}
	for d.c.window.used != 0 { // the answers may come in another order
		d.wait()
		d.c.Take()
	}
	if !bytes.Equal(dropped.P, make([]byte, memPage)) {
		t.Error("the buffer of a read that was given up was written to")
	}
	d.sent(dropped) // it is as good as new
	if got := d.next(); got[0] != dropped || dropped.Err != nil || !bytes.Equal(dropped.P, back.p[:memPage]) {
		t.Error(dropped.Err)
	}
}

// What a server refuses is told with its words, and what cannot be asked is not sent.
func TestDirectRefusals(t *testing.T) {
	back := &memory{p: pattern(4*memPage, 3), fail: func(string, int64) error { return EIO }}
	d := drive(t, ClientConfig{Dial: (&threads{dial: serve(t, Export{Backend: back})}).Dial, Window: memPage})
	r := &Read{P: make([]byte, memPage)}
	d.sent(r)
	if d.c.Send(&Read{P: make([]byte, 1)}) {
		t.Error("there was no room for it")
	}
	if d.next(); !errors.Is(r.Err, EIO) {
		t.Error(r.Err)
	}
	if d.c.Send(&Read{P: make([]byte, memPage), Offset: 4 * memPage}) || d.c.Send(&Read{}) {
		t.Error("sent what is outside of the export, or nothing")
	}
	if _, err := Open(t.Context(), ClientConfig{Direct: true, Dial: serve(t, Export{Backend: back})}); err == nil {
		t.Error("a direct client without a descriptor")
	}
}
