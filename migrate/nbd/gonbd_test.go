package nbd

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
	"syscall"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/backend"
)

// What follows are faults that go-nbd's own server has: none may come back with its backends.

// A read behind the end panicked the process; one at the end left a lock held, and hung all others.
func TestRequestsBehindTheEndAreRefused(t *testing.T) {
	const size = 64 << 10
	srv, err := NewServer(Config{Exports: NewExports(Export{Backend: backend.NewMemoryBackend(make([]byte, size))})})
	if err != nil {
		t.Fatal(err)
	}
	r, other := rawOn(t, srv).goTo("", false), rawOn(t, srv).goTo("", false)
	for i, tc := range []struct {
		offset uint64
		length uint32
	}{{size, 1}, {size, 4096}, {size - 1, 2}, {0, size + 1}, {1 << 63, 4096}, {math.MaxUint64, 1}, {math.MaxUint64 - 1, 4096}} {
		q := request{cookie: uint64(i), offset: tc.offset, length: tc.length}
		if got := r.does(q); got != EINVAL {
			t.Errorf("read of %d at %#x: %v", tc.length, tc.offset, got)
		}
		q.cmd = cmdWrite
		if got := r.does(q, make([]byte, tc.length)...); got != ENOSPC {
			t.Errorf("write of %d at %#x: %v", tc.length, tc.offset, got)
		}
	}
	for _, c := range []*raw{r, other} {
		if got := c.does(request{cookie: 9, length: 4096}); got != 0 {
			t.Errorf("a good read afterwards: %v", got)
		}
	}
	if got := r.does(request{length: 0}); got != EINVAL {
		t.Errorf("a read of nothing: %v", got)
	}
}

// Without multi-conn the flags were 0, which QEMU and libnbd refuse; read-only was never told.
func TestFlagsTellWhatMayBeDone(t *testing.T) {
	mem := &memory{p: make([]byte, 4096)}
	for name, tc := range map[string]struct {
		x       Export
		set     uint16
		not     uint16
		refused Errno
	}{
		"shared":    {Export{Backend: mem}, 1 | transFlush | transFUA | transWriteZeroes | transFastZero | transCache | transMultiConn, transReadOnly | transTrim | transDF, 0},
		"unshared":  {Export{Backend: mem, Unshared: true}, 1 | transFlush, transMultiConn, 0},
		"read-only": {Export{Backend: mem, ReadOnly: true}, 1 | transReadOnly | transMultiConn, transTrim | transWriteZeroes | transFastZero, EPERM},
	} {
		r := rawTo(t, Config{Exports: NewExports(tc.x)}).greet()
		list := r.option(optGo, named("", 0, 0))
		flags := wire.Uint16(list[0].data[10:])
		if flags&tc.set != tc.set || flags&tc.not != 0 {
			t.Errorf("%s: flags %#b", name, flags)
		}
		if got := r.does(request{cmd: cmdWriteZeroes, length: 1}); got != tc.refused {
			t.Errorf("%s: zeroes: %v", name, got)
		}
		if got := r.does(request{cmd: cmdWrite, length: 1}, 1); got != tc.refused {
			t.Errorf("%s: write: %v", name, got)
		}
	}
}

// After INFO on a good name, GO to another that is not there was taken.
func TestGoToNowhere(t *testing.T) {
	r := rawTo(t, Config{Exports: NewExports(Export{Name: "good", Backend: &memory{p: make([]byte, 4096)}})}).greet()
	if got := r.ends(optInfo, named("good", 0, 0)); got != repAck {
		t.Fatalf("INFO: %#x", got)
	}
	for range 2 {
		if got := r.ends(optGo, named("bad", 0, 0)); got != repErrUnknown {
			t.Fatalf("GO: %#x", got)
		}
	}
	if got := r.ends(optGo, named("good", 0, 0)); got != repAck {
		t.Errorf("GO: %#x", got)
	}
}

// The length of commands without data was taken for data, and the connection hung.
func TestUnknownCommandsKeepTheStream(t *testing.T) {
	r := rawTo(t, Config{Exports: NewExports(Export{Backend: &memory{p: pattern(8192, 1)}})}).goTo("", false)
	for _, q := range []request{{cmd: 4, length: 4096}, {cmd: 77, length: 1 << 30}, {cmd: cmdRead, flags: 1 << 9, length: 1}, {cmd: cmdBlockStatus, length: 1}, {flags: cmdFlagDF, length: 1}} {
		if got := r.does(q); got != EINVAL {
			t.Errorf("%+v: %v", q, got)
		}
	}
	if got := r.does(request{cookie: 5, length: 8192}); got != 0 {
		t.Errorf("a good read afterwards: %v", got)
	}
}

// A name's length was believed: 20 bytes took gigabytes.
func TestLengthsAreNotBelieved(t *testing.T) {
	exports := NewExports(Export{Backend: &memory{p: make([]byte, 4096)}})
	long := bytes.Repeat([]byte{'x'}, maxName+1)
	r := rawTo(t, Config{Exports: exports}).greet()
	for name, data := range map[string][]byte{
		"longer than the option": {0xff, 0xff, 0xff, 0xff, 'x', 0},
		"longer than a name":     append(named(string(long)), 0, 0),
		"too short":              {0, 0},
		"informations missing":   named("", 0, 9),
		"informations too many":  named("", 0, 0, 0, 3),
	} {
		if got := r.ends(optInfo, data); got != repErrInvalid {
			t.Errorf("%s: %#x", name, got)
		}
	}
	if got := r.ends(optInfo, make([]byte, maxOption+1)); got != repErrTooBig {
		t.Errorf("a long option: %#x", got)
	}
	if got := r.ends(optInfo, named("", 0, 0)); got != repAck {
		t.Errorf("a good option afterwards: %#x", got)
	}
	r.write(optionHead(optGo, math.MaxUint32))
	r.gone()
	r = rawTo(t, Config{Exports: exports}).goTo("", false)
	r.ask(request{cmd: cmdWrite, length: math.MaxUint32})
	r.gone()
}

// The largest request was not minded.
func TestLargeRequestsAreRefused(t *testing.T) {
	r := rawTo(t, Config{Exports: NewExports(Export{Backend: &memory{p: make([]byte, 1<<20)}}), Limits: Limits{Request: 64 << 10}}).goTo("", false)
	if got := r.does(request{length: 64<<10 + 1}); got != EOVERFLOW {
		t.Errorf("read: %v", got)
	}
	if got := r.does(request{cmd: cmdWrite, length: 64<<10 + 1}, make([]byte, 64<<10+1)...); got != EOVERFLOW {
		t.Errorf("write: %v", got)
	}
	if got := r.does(request{length: 64 << 10}); got != 0 {
		t.Errorf("a good read afterwards: %v", got)
	}
}

// With two exports the list was malformed.
func TestListNamesAll(t *testing.T) {
	mem := &memory{p: make([]byte, 4096)}
	exports := NewExports(Export{Name: "a", Backend: mem}, Export{Name: "bb", Description: "two", Backend: mem})
	exports.Add(Export{Name: "gone", Backend: mem})
	exports.Remove("gone")
	r := rawTo(t, Config{Exports: exports}).greet()
	list := r.option(optList, nil)
	if len(list) != 3 || !bytes.Equal(list[0].data, named("a")) || !bytes.Equal(list[1].data, named("bb", 't', 'w', 'o')) {
		t.Errorf("list %v", list)
	}
	if got := r.ends(optList, []byte{1}); got != repErrInvalid {
		t.Errorf("a list with data: %#x", got)
	}
	if got := r.ends(99, []byte("whatever")); got != repErrUnsup {
		t.Errorf("an unknown option: %#x", got)
	}
	if got := r.ends(optAbort, nil); got != repAck {
		t.Errorf("ABORT: %#x", got)
	}
	r.gone()
}

// EXPORT_NAME, which every server must have, was refused.
func TestExportName(t *testing.T) {
	exports := NewExports(Export{Name: "old", Backend: &memory{p: pattern(8192, 2)}})
	for flags, pad := range map[uint32]int{3: 0, 1: 124} {
		r := rawTo(t, Config{Exports: exports})
		r.write(wire.AppendUint32(nil, flags))
		r.write(append(optionHead(optExportName, 3), "old"...))
		if p := r.read(10 + pad); wire.Uint64(p) != 8192 || wire.Uint16(p[8:])&1 == 0 {
			t.Errorf("answer %x", p)
		}
		r.ask(request{cookie: 1, length: 8192})
		if errno, p := r.reply(request{cookie: 1, length: 8192}); errno != 0 || !bytes.Equal(p, pattern(8192, 2)) {
			t.Errorf("read: %v", errno)
		}
	}
	r := rawTo(t, Config{Exports: exports}).greet()
	r.write(append(optionHead(optExportName, 3), "new"...))
	r.gone()
}

// A backend's error came after the good reply had gone out, and cost the connection.
func TestBackendErrorsAreAnswered(t *testing.T) {
	mem := &memory{p: make([]byte, 64<<10)}
	var fails error
	mem.fail = func(string, int64) error { return fails }
	r := rawTo(t, Config{Exports: NewExports(Export{Backend: mem})}).goTo("", false)
	for _, tc := range []struct {
		err  error
		want Errno
	}{
		{syscall.ENOSPC, ENOSPC}, {&errnoError{syscall.EDQUOT}, ENOSPC}, {syscall.EIO, EIO}, {syscall.EINVAL, EINVAL},
		{syscall.EROFS, EPERM}, {syscall.ENOMEM, ENOMEM}, {syscall.EOVERFLOW, EOVERFLOW}, {syscall.EOPNOTSUPP, ENOTSUP},
		{errors.ErrUnsupported, ENOTSUP}, {ESHUTDOWN, ESHUTDOWN}, {context.Canceled, ESHUTDOWN}, {errors.New("whatever"), EIO}, {syscall.EBADF, EIO},
	} {
		fails = tc.err
		if got := r.does(request{length: 4096}); got != tc.want {
			t.Errorf("read with %v: %v, want %v", tc.err, got, tc.want)
		}
		if got := r.does(request{cmd: cmdWrite, length: 4}, 1, 2, 3, 4); got != tc.want {
			t.Errorf("write with %v: %v, want %v", tc.err, got, tc.want)
		}
		if got := r.does(request{cmd: cmdFlush}); got != tc.want {
			t.Errorf("flush with %v: %v, want %v", tc.err, got, tc.want)
		}
	}
	fails = nil
	mem.p = mem.p[:4096] // it became shorter than it said
	if got := r.does(request{length: 8192}); got != EIO {
		t.Errorf("a short read: %v", got)
	}
	if got := r.does(request{cmd: cmdWrite, offset: 4095, length: 2}, 1, 2); got != EIO {
		t.Errorf("a short write: %v", got)
	}
	if got := r.does(request{length: 4096}); got != 0 {
		t.Errorf("a good read afterwards: %v", got)
	}
}

type errnoError struct{ errno syscall.Errno }

func (e *errnoError) Error() string { return "wrapped" }
func (e *errnoError) Unwrap() error { return e.errno }

// Flush did nothing, and so did FUA.
func TestFlushAndFUASync(t *testing.T) {
	mem := &memory{p: make([]byte, 4096)}
	r := rawTo(t, Config{Exports: NewExports(Export{Backend: mem})}).goTo("", false)
	for want, q := range []request{{cmd: cmdWrite, length: 1}, {cmd: cmdFlush}, {cmd: cmdWrite, flags: cmdFlagFUA, length: 1}, {cmd: cmdWriteZeroes, flags: cmdFlagFUA, length: 1}, {flags: cmdFlagFUA, length: 1}} {
		var data []byte
		if q.cmd == cmdWrite {
			data = []byte{1}
		}
		if got := r.does(q, data...); got != 0 {
			t.Fatalf("%+v: %v", q, got)
		}
		if mem.syncs != min(want, 3) {
			t.Errorf("after %+v: %d syncs", q, mem.syncs)
		}
	}
}

// together is a backend that answers no read before so many are asked for.
type together struct {
	*memory
	gate sync.WaitGroup
}

func (b *together) ReadAt(p []byte, off int64) (int, error) {
	b.gate.Done()
	b.gate.Wait()
	return b.memory.ReadAt(p, off)
}

// One request at a time was served: with a backend of 1 ms, 16 in flight took 15 times as long as elsewhere. Here none is
// answered unless all are in flight, on one connection.
func TestManyRequestsAreInFlight(t *testing.T) {
	const many = 16
	b := &together{memory: &memory{p: pattern(many*memPage, 3)}}
	b.gate.Add(many)
	c := open(t, ClientConfig{Dial: serve(t, Export{Backend: b})})
	var wg sync.WaitGroup
	for i := range int64(many) {
		wg.Go(func() {
			p := make([]byte, memPage)
			if err := c.ReadAt(t.Context(), p, i*memPage); err != nil || !bytes.Equal(p, b.p[i*memPage:][:memPage]) {
				t.Errorf("read %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}
