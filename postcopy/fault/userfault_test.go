package fault_test

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// armed is a userfaultfd of our own, on memory that nobody touches.
func armed(t *testing.T, pages int) (*fault.Userfault, uint64, *os.File) {
	t.Helper()
	need.UFFD(t)
	page := int64(os.Getpagesize())
	f, err := sys.Memfd("fault-test", int64(pages)*page, false)
	if err != nil {
		t.Fatal(err)
	}
	m, err := sys.MapShared(f, 0, int64(pages)*page, true)
	if err != nil {
		t.Fatal(err)
	}
	u, err := sys.NewUserFault(true)
	if err != nil {
		t.Fatal(err)
	}
	src, err := fault.New(u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(src.Close(), src.Close(), u.Close(), m.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	})
	var addr uint64
	maps, err := sys.Maps(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		if info, err := f.Stat(); err == nil && m.Inode == info.Sys().(*syscall.Stat_t).Ino {
			addr = m.Start
		}
	}
	if err := fault.Arm(u, false, fault.Range{Start: addr, Length: uint64(int64(pages) * page)}); err != nil {
		t.Fatal(err)
	}
	return src, addr, f
}

// What is placed through a source is in the file, once, and what the kernel refuses it says.
func TestT1SourcePlaces(t *testing.T) {
	src, addr, f := armed(t, 4)
	page := os.Getpagesize()
	data := make([]byte, 2*page)
	data[page] = 42
	if n, err := src.Copy(addr, data); n != 2*page || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, page)
	if _, err := f.ReadAt(got, int64(page)); err != nil || got[0] != 42 {
		t.Error(got[0], err)
	}
	if n, err := src.ZeroPage(addr+uint64(page), uint64(page)); n != 0 || !errors.Is(err, syscall.EEXIST) {
		t.Error(n, err)
	}
	if n, err := src.ZeroPage(addr+uint64(2*page), uint64(page)); n != page || err != nil {
		t.Error(n, err)
	}
	if err := src.Wake(addr, uint64(4*page)); err != nil {
		t.Error(err)
	}
	if err := src.Unregister(addr, uint64(4*page)); err != nil {
		t.Error(err)
	}
	if _, err := src.Copy(addr+uint64(3*page), data[:page]); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}

// An interrupt ends one wait, be it before or after its beginning.
func TestT1Interrupt(t *testing.T) {
	src, _, _ := armed(t, 1)
	if err := src.Interrupt(); err != nil {
		t.Fatal(err)
	}
	if err := src.Wait(); !errors.Is(err, fault.ErrInterrupted) {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- src.Wait() }()
	if err := src.Interrupt(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; !errors.Is(err, fault.ErrInterrupted) {
		t.Fatal(err)
	}
	var e [1]fault.Event
	if n, err := src.Read(e[:]); n != 0 || !errors.Is(err, syscall.EAGAIN) {
		t.Error(n, err)
	}
}
