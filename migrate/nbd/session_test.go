package nbd

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// told is a backend with extents, dirty ones too, that keeps note of zeroes and trims.
type told struct {
	sparse
	extents, dirty []Status
	zeroed         []bool // punch, of each WriteZeroes
	zeroErr        error
	trims          int
}

func (b *told) Extents(context.Context, int64, int64) ([]Status, error)      { return b.extents, nil }
func (b *told) DirtyExtents(context.Context, int64, int64) ([]Status, error) { return b.dirty, nil }
func (b *told) Trim(context.Context, int64, int64) error                     { b.trims++; return nil }
func (b *told) WriteZeroes(_ context.Context, _, _ int64, punch bool) error {
	b.zeroed = append(b.zeroed, punch)
	return b.zeroErr
}

func newTold() *told {
	return &told{
		sparse:  sparse{&memory{p: pattern(9*memPage, 4)}},
		extents: []Status{{memPage, 0}, {memPage, 3}, {memPage, 3}, {1 << 20, 0}},
		dirty:   []Status{{100, StatusDirty}, {1 << 40, 0}},
	}
}

// A client that wants no fragments gets one piece; others get data and holes.
func TestStructuredReads(t *testing.T) {
	r := rawTo(t, Config{Exports: NewExports(Export{Backend: newTold()})}).goTo("", true)
	q := request{cookie: 7, length: 9 * memPage}
	r.ask(q)
	var kinds []uint16
	got := make([]byte, q.length)
	for _, c := range r.chunks(7) {
		kinds = append(kinds, c.kind)
		if off := wire.Uint64(c.data); c.kind == chunkData {
			copy(got[off:], c.data[8:])
		}
	}
	if want := []uint16{chunkData, chunkHole, chunkData, chunkHole, chunkData, chunkHole, chunkData}; !slices.Equal(kinds, want) || !bytes.Equal(got, pattern(9*memPage, 4)) {
		t.Errorf("chunks %v", kinds)
	}
	q.flags = cmdFlagDF
	r.ask(q)
	if list := r.chunks(7); len(list) != 1 || list[0].kind != chunkData || !bytes.Equal(list[0].data[8:], pattern(9*memPage, 4)) {
		t.Errorf("%d chunks with DF", len(list))
	}
	q.offset = 1 << 40
	r.ask(q)
	if list := r.chunks(7); len(list) != 1 || list[0].kind != chunkError || Errno(wire.Uint32(list[0].data)) != EINVAL || len(list[0].data) < 10 {
		t.Errorf("an error: %v", list)
	}
}

func TestBlockStatus(t *testing.T) {
	c := open(t, ClientConfig{Dial: serve(t, Export{Name: "x", Backend: newTold()}), Export: "x"})
	for name, want := range map[string][]Status{
		BaseAllocation: {{memPage, 0}, {2 * memPage, 3}, {6 * memPage, 0}},
		DirtyBitmap:    {{100, StatusDirty}, {9*memPage - 100, 0}},
	} {
		if got, err := c.BlockStatus(t.Context(), name, 0, 9*memPage); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := c.BlockStatus(t.Context(), "qemu:allocation-depth", 0, 1); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("an unknown context: %v", err)
	}
	b := newTold()
	r := rawTo(t, Config{Exports: NewExports(Export{Name: "x", Backend: b})}).goTo("x", true, BaseAllocation)
	r.ask(request{cmd: cmdBlockStatus, flags: cmdFlagReqOne, length: 8192})
	if list := r.chunks(0); len(list) != 1 || list[0].length != 12 {
		t.Errorf("with REQ_ONE: %v", list)
	}
	b.extents = []Status{{0, 0}}
	r.ask(request{cmd: cmdBlockStatus, length: 8192})
	if list := r.chunks(0); len(list) != 1 || list[0].kind != chunkError {
		t.Errorf("with a backend that makes no sense: %v", list)
	}
}

// Extents end where blocks do, and on the safe side.
func TestStatusesAreWholeBlocks(t *testing.T) {
	hole, dirty := StatusHole|StatusZero, StatusDirty
	for _, tc := range []struct {
		list  []Status
		dirty bool
		want  []Status
	}{
		{[]Status{{1024, 0}, {1024, hole}}, false, []Status{{1024, 0}, {1024, hole}}},
		{[]Status{{100, 0}, {1948, hole}}, false, []Status{{512, 0}, {1536, hole}}},
		{[]Status{{100, hole}, {1948, 0}}, false, []Status{{2048, 0}}},
		{[]Status{{100, dirty}, {1948, 0}}, true, []Status{{512, dirty}, {1536, 0}}},
		{[]Status{{1000, 0}, {1, dirty}, {1047, 0}}, true, []Status{{512, 0}, {512, dirty}, {1024, 0}}},
		{[]Status{{600, hole}}, false, []Status{{512, hole}, {512, 0}}},
		{[]Status{{600, 0}}, true, []Status{{512, 0}, {512, dirty}}},
		{[]Status{{100, hole}, {100, hole}, {100, 0}, {724, hole}}, false, []Status{{512, 0}, {512, hole}}},
	} {
		if got := align(tc.list, 512, tc.dirty); !slices.Equal(got, tc.want) {
			t.Errorf("%v (dirty %t): %v, want %v", tc.list, tc.dirty, got, tc.want)
		}
	}
}

// Contexts are listed by query, and count for the export they were set for alone.
func TestContexts(t *testing.T) {
	x := Export{Name: "x", Backend: newTold()}
	cfg := Config{Exports: NewExports(x, Export{Name: "y", Backend: newTold()}, Export{Name: "plain", Backend: &memory{p: make([]byte, 4096)}})}
	r := rawTo(t, cfg).greet()
	if got := r.ends(optListMeta, metaQuery("x")); got != repErrInvalid {
		t.Errorf("without structured replies: %#x", got)
	}
	r.ends(optStructuredReply, nil)
	for _, tc := range []struct {
		export  string
		queries []string
		want    int
	}{{"x", nil, 2}, {"plain", nil, 1}, {"x", []string{"base:"}, 1}, {"x", []string{"qemu:dirty-bitmap:"}, 1}, {"x", []string{"nobody:knows", DirtyBitmap}, 1}, {"plain", []string{DirtyBitmap}, 0}} {
		if list := r.option(optListMeta, metaQuery(tc.export, tc.queries...)); len(list) != tc.want+1 {
			t.Errorf("%+v: %v", tc, list)
		}
	}
	if list := r.option(optSetMeta, metaQuery("x", "base:")); len(list) != 1 {
		t.Errorf("a namespace was set: %v", list)
	}
	if list := r.option(optSetMeta, metaQuery("x", BaseAllocation)); len(list) != 2 {
		t.Errorf("set: %v", list)
	}
	if got := r.ends(optSetMeta, metaQuery("nowhere", BaseAllocation)); got != repErrUnknown {
		t.Errorf("a wrong name: %#x", got)
	}
	r.option(optSetMeta, metaQuery("x", BaseAllocation))
	if got := r.ends(optGo, named("y", 0, 0)); got != repAck {
		t.Fatalf("GO: %#x", got)
	}
	r.ask(request{cmd: cmdBlockStatus, length: 4096})
	if list := r.chunks(0); list[0].kind != chunkError {
		t.Errorf("contexts of another export: %v", list)
	}
	for name, data := range map[string][]byte{"short": named("x"), "missing": wire.AppendUint32(named("x"), 1), "many": wire.AppendUint32(named("x"), 1<<31), "more": append(metaQuery("x"), 0)} {
		if _, _, err := parseMeta(data); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestZeroes(t *testing.T) {
	b := newTold()
	r := rawTo(t, Config{Exports: NewExports(Export{Name: "told", Backend: b}, Export{Name: "plain", Backend: b.memory})}).goTo("told", false)
	z := request{cmd: cmdWriteZeroes, length: 8192}
	keep, fast := z, z
	keep.flags, fast.flags = cmdFlagNoHole, cmdFlagFastZero
	if a, b := r.does(z), r.does(keep); a != 0 || b != 0 {
		t.Errorf("zeroes: %v, %v", a, b)
	}
	if !slices.Equal(b.zeroed, []bool{true, false}) {
		t.Errorf("punched: %v", b.zeroed)
	}
	b.zeroErr = errors.ErrUnsupported
	if got := r.does(fast); got != ENOTSUP || b.p[0] == 0 {
		t.Errorf("fast zeroes where there are none: %v", got)
	}
	if got := r.does(z); got != 0 || bytes.Count(b.p[:8192], []byte{0}) != 8192 {
		t.Errorf("slow zeroes: %v", got)
	}
	if got := r.does(request{cmd: cmdTrim, length: 1}); got != 0 || b.trims != 1 {
		t.Errorf("trim: %v", got)
	}
	b.p[5000] = 1
	r = rawTo(t, Config{Exports: NewExports(Export{Name: "plain", Backend: b.memory})}).goTo("plain", false)
	if got := r.does(fast); got != ENOTSUP || b.p[5000] == 0 {
		t.Errorf("fast zeroes of a backend that knows none: %v", got)
	}
	if got := r.does(z); got != 0 || b.p[5000] != 0 {
		t.Errorf("zeroes of a backend that knows none: %v", got)
	}
}

func TestBlockSizes(t *testing.T) {
	mem := &memory{p: make([]byte, 64<<10)}
	r := rawTo(t, Config{Exports: NewExports(Export{Backend: mem, MinBlock: 512, PreferredBlock: 4096, MaxBlock: 8192})}).goTo("", false)
	for _, tc := range []struct {
		offset uint64
		length uint32
		want   Errno
	}{{0, 512, 0}, {256, 512, EINVAL}, {512, 700, EINVAL}, {0, 8192, 0}, {0, 8704, EOVERFLOW}} {
		if got := r.does(request{offset: tc.offset, length: tc.length}); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	for _, x := range []Export{{MinBlock: 3}, {MinBlock: 1 << 20}, {PreferredBlock: 100}, {MinBlock: 4096, PreferredBlock: 512}, {PreferredBlock: 8192, MaxBlock: 4096}, {MinBlock: 4096, MaxBlock: 6000}} {
		x.Backend = mem
		if _, err := newDevice(x, maxPayload); err == nil {
			t.Errorf("%+v is taken", x)
		}
	}
}

// A backend that panics costs its client the connection, and nobody else anything.
func TestBackendPanics(t *testing.T) {
	mem := &memory{p: make([]byte, 4096)}
	mem.fail = func(string, int64) error { panic("a bug") }
	r := rawTo(t, Config{Exports: NewExports(Export{Backend: mem})}).goTo("", false)
	if got := r.does(request{length: 1}); got != EIO {
		t.Errorf("%v", got)
	}
	r.gone()
}

// gated is a backend whose reads wait to be let go.
type gated struct {
	*memory
	entered chan int64
	let     chan struct{}
}

func newGated(n int) *gated {
	return &gated{&memory{p: pattern(n, 5)}, make(chan int64, 1000), make(chan struct{})}
}

func (b *gated) ReadAt(p []byte, off int64) (int, error) {
	b.entered <- off
	<-b.let
	return b.memory.ReadAt(p, off)
}

// Close answers what is in flight, and then nothing runs any more.
func TestCloseIsGraceful(t *testing.T) {
	b := newGated(1 << 20)
	srv, err := NewServer(Config{Exports: NewExports(Export{Backend: b})})
	if err != nil {
		t.Fatal(err)
	}
	r := rawOn(t, srv).goTo("", false)
	q := request{cookie: 3, length: 4096}
	r.ask(q)
	<-b.entered
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Close() }) // it always succeeds
	<-srv.ctx.Done()
	close(b.let)
	if errno, _ := r.reply(q); errno != 0 {
		t.Errorf("what was in flight: %v", errno)
	}
	wg.Wait()
	r.gone()
	if err := srv.ServeConn(t.Context(), r.conn); err != ErrServerClosed {
		t.Errorf("served after Close: %v", err)
	}
}

// A client that takes no answer, or does not negotiate, does not hold Close up for ever.
func TestNobodyHoldsTheServerUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := NewServer(Config{Exports: NewExports(Export{Backend: &memory{p: make([]byte, 1<<20)}})})
		if err != nil {
			t.Fatal(err)
		}
		r := rawOn(t, srv).goTo("", false)
		r.ask(request{length: 4096})
		_ = rawOn(t, srv) // says nothing
		synctest.Wait()
		began := time.Now()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

func TestHandshakeHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := NewServer(Config{Exports: NewExports()})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		defer near.Close() //nolint:errcheck // a pipe
		began := time.Now()
		go func() { _, _ = near.Read(make([]byte, 100)) }()
		if err := srv.ServeConn(t.Context(), far); err == nil || time.Since(began) != 10*time.Second {
			t.Errorf("ended after %v: %v", time.Since(began), err)
		}
	})
}

// Requests beyond the limits wait in the socket, by count and by bytes.
func TestRequestsInFlightAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		limits Limits
		want   int
	}{"count": {Limits{Requests: 3}, 3}, "bytes": {Limits{Bytes: 4 * memPage}, 4}, "one is always let in": {Limits{Bytes: 1}, 1}} {
		synctest.Test(t, func(t *testing.T) {
			b := newGated(64 * memPage)
			srv, err := NewServer(Config{Exports: NewExports(Export{Backend: b}), Limits: tc.limits})
			if err != nil {
				t.Fatal(err)
			}
			r := rawOn(t, srv).goTo("", false)
			const asked = 8
			go func() {
				for i := range uint64(asked) {
					_, _ = r.conn.Write(request{cookie: 1, offset: i * memPage, length: memPage}.append(nil))
				}
			}()
			synctest.Wait()
			if got := len(b.entered); got != tc.want {
				t.Errorf("%s: %d are in flight, want %d", name, got, tc.want)
			}
			close(b.let)
			for range asked {
				r.reply(request{cookie: 1, length: memPage})
			}
		})
	}
}
