package nbdtest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/nbd/nbdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// go-nbd's own backends plug in as they are.
func TestGoNBDMemory(t *testing.T) {
	nbdtest.Conformance(t, func(*testing.T) backend.Backend { return backend.NewMemoryBackend(make([]byte, nbdtest.Size)) })
}

func TestGoNBDFile(t *testing.T) {
	nbdtest.Conformance(t, func(t *testing.T) backend.Backend { return backend.NewFileBackend(onDisk(t)) })
}

func TestFile(t *testing.T) {
	for name, open := range map[string]func(*testing.T) *os.File{"disk": onDisk, "memory": inMemory} {
		for how, opts := range map[string]nbd.FileOptions{
			"":                    {},
			" zeroes":             {Zeroes: true},
			" mapped":             {Map: true},
			" mapped with zeroes": {Map: true, Zeroes: true},
			" mapped for writes":  {Map: true, MapWrites: true},
		} {
			t.Run(name+how, func(t *testing.T) {
				nbdtest.Conformance(t, func(t *testing.T) backend.Backend { return newFile(t, open(t), opts) })
			})
		}
	}
}

func newFile(t *testing.T, f *os.File, opts nbd.FileOptions) *nbd.File {
	t.Helper()
	b, err := nbd.NewFile(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func onDisk(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	return sized(t, f)
}

func inMemory(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("nbdtest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return sized(t, os.NewFile(uintptr(fd), "memfd"))
}

func sized(t *testing.T, f *os.File) *os.File {
	t.Helper()
	t.Cleanup(func() { _ = f.Close() }) // a test's file
	if err := f.Truncate(nbdtest.Size); err != nil {
		t.Fatal(err)
	}
	return f
}

// A file's holes are told, as holes or, where pages of zeroes are looked for, those too; and reading leaves them holes.
func TestHolesStayHoles(t *testing.T) {
	f := inMemory(t)
	zeroes := make([]byte, 8192)
	for off, p := range map[int64][]byte{4096: []byte("data"), 64 << 10: zeroes} {
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		opts nbd.FileOptions
		want int64
	}{{nbd.FileOptions{}, nbdtest.Size - 3*4096}, {nbd.FileOptions{Zeroes: true}, nbdtest.Size - 4096}, {nbd.FileOptions{Zeroes: true, Map: true}, nbdtest.Size - 4096}} {
		b := newFile(t, f, tc.opts)
		before := blocks(t, f)
		holes, err := b.ReadSparse(t.Context(), make([]byte, nbdtest.Size), 0)
		if err != nil {
			t.Fatal(err)
		}
		if tc.opts.Map {
			if _, holes, err = b.View(t.Context(), 0, nbdtest.Size); err != nil {
				t.Fatal(err)
			}
		}
		var got int64
		for _, h := range holes {
			got += h.Length
		}
		if got != tc.want {
			t.Errorf("%+v: %d bytes of holes, want %d: %v", tc.opts, got, tc.want, holes)
		}
		if after := blocks(t, f); after != before {
			t.Errorf("%+v: the file took %d blocks, and %d after it was read", tc.opts, before, after)
		}
	}
}

// What is punched is given back.
func TestPunchingGivesBack(t *testing.T) {
	f := inMemory(t)
	b := newFile(t, f, nbd.FileOptions{})
	if _, err := b.WriteAt(make([]byte, nbdtest.Size), 0); err != nil {
		t.Fatal(err)
	}
	full := blocks(t, f)
	if err := b.Trim(t.Context(), 0, nbdtest.Size/2); err != nil {
		t.Fatal(err)
	}
	if err := b.WriteZeroes(context.Background(), nbdtest.Size/2, nbdtest.Size/4, true); err != nil {
		t.Fatal(err)
	}
	if got := blocks(t, f); got != full/4 {
		t.Errorf("%d blocks of %d are left", got, full)
	}
}

func blocks(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// Pages of zeroes are those of the file, wherever a read begins.
func TestZeroesAreWholePages(t *testing.T) {
	f := inMemory(t)
	if _, err := f.WriteAt(make([]byte, 8*4096), 0); err != nil {
		t.Fatal(err)
	}
	b := newFile(t, f, nbd.FileOptions{Zeroes: true})
	holes, err := b.ReadSparse(t.Context(), make([]byte, 3*4096), 100)
	if err != nil || len(holes) != 1 || holes[0].Offset != 4096 || holes[0].Length != 2*4096 {
		t.Errorf("%v, %v", holes, err)
	}
}
