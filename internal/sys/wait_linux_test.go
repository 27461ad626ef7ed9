package sys

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

func newPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() }) // again is fine
	return r, w
}

func TestWait(t *testing.T) {
	w, err := NewWaker()
	if err != nil {
		t.Fatal(err)
	}
	r1, w1 := newPipe(t)
	r2, w2 := newPipe(t)
	if _, err := w1.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	fds := []int{int(r2.Fd()), int(r1.Fd())}
	if ready, err := Wait(w, fds...); ready != 2 || err != nil {
		t.Errorf("ready %b, %v; want the second", ready, err)
	}
	_ = w2.Close() // a hang-up is something to tell, too
	if ready, err := Wait(nil, fds...); ready != 3 || err != nil {
		t.Errorf("ready %b, %v; want both", ready, err)
	}
	for range 2 {
		if err := w.Wake(); err != nil {
			t.Fatal(err)
		}
	}
	if ready, err := Wait(w, fds...); ready != 3 || !errors.Is(err, ErrWoken) {
		t.Errorf("ready %b, %v; want both and woken", ready, err)
	}
	if err := errors.Join(w.Reset(), w.Reset()); err != nil {
		t.Fatal(err)
	}
	if ready, err := Wait(w, fds[1]); ready != 1 || err != nil {
		t.Errorf("after reset: ready %b, %v", ready, err)
	}
	if _, err := Wait(nil, 1<<20); !errors.Is(err, unix.EBADF) {
		t.Errorf("no such descriptor: %v, want EBADF", err)
	}
	if _, err := Wait(nil, make([]int, 63)...); !errors.Is(err, unix.EINVAL) {
		t.Errorf("too many: %v, want EINVAL", err)
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil || w.FD() != -1 {
		t.Errorf("close twice: %v, descriptor %d", err, w.FD())
	}
	if err := w.Wake(); !errors.Is(err, unix.EBADF) {
		t.Errorf("wake a closed one: %v, want EBADF", err)
	}
	if ready, err := Wait(w, fds[1]); ready != 1 || err != nil {
		t.Errorf("a closed one counts for none: ready %b, %v", ready, err)
	}
}

// A thread that already sleeps is woken.
func TestWakeEndsAWait(t *testing.T) {
	w, err := NewWaker()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }() // again is fine
	r, _ := newPipe(t)
	done := make(chan error, 1)
	go func() { _, err := Wait(w, int(r.Fd())); done <- err }()
	if err := w.Wake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrWoken) {
		t.Errorf("%v, want ErrWoken", err)
	}
}

func TestParseFeatures(t *testing.T) {
	for text, want := range map[string]Features{
		"pos:\t0\nflags:\t02004002\npending:\t1\ntotal:\t2\nAPI:\taa:80000020:1ffff\n": FeatureMissingShmem,
		"API:\taa:0:1ffff\n": 0, "API:\taa\n": 0, "": 0, "API:\taa:zz:1\n": 0,
	} {
		if got := parseFeatures(text); got != want {
			t.Errorf("%q: %#x, want %#x", text, got, want)
		}
	}
}
