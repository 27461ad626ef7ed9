package sys

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

func newMemfd(t *testing.T, pages int, huge bool) (f *os.File, page int64) {
	t.Helper()
	page = int64(os.Getpagesize())
	if huge {
		page = 2 << 20
	}
	f, err := Memfd("test", int64(pages)*page, huge)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // nothing is lost with it
	if got, err := PageSize(f); err != nil || got != page {
		t.Errorf("page size %d, %v; want %d", got, err, page)
	}
	return f, page
}

// extents collects what DataExtents says, in pages.
func extents(t *testing.T, f *os.File, lo, hi, page int64) (out []FileExtent) {
	t.Helper()
	for e, err := range DataExtents(f, lo*page, hi*page) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, FileExtent{e.Off / page, e.Len / page})
	}
	return out
}

func testExtents(t *testing.T, huge bool) {
	f, page := newMemfd(t, 8, huge)
	if got := extents(t, f, 0, 8, page); got != nil {
		t.Errorf("an empty file has %v", got)
	}
	m, err := MapShared(f, 0, 8*page, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{1, 2, 3, 6} {
		m.Bytes()[i*page] = 1
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		lo, hi int64
		want   []FileExtent
	}{
		{0, 8, []FileExtent{{1, 3}, {6, 1}}}, {2, 7, []FileExtent{{2, 2}, {6, 1}}}, {4, 6, nil}, {3, 3, nil},
		{7, 8, nil}, {6, 100, []FileExtent{{6, 1}}}, {8, 9, nil}, {20, 30, nil},
	} {
		if got := extents(t, f, tc.lo, tc.hi, page); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("from %d to %d: %v, want %v", tc.lo, tc.hi, got, tc.want)
		}
	}
	if err := PunchHole(f, 2*page, page); err != nil {
		t.Fatal(err)
	}
	if got := extents(t, f, 0, 8, page); !reflect.DeepEqual(got, []FileExtent{{1, 1}, {3, 1}, {6, 1}}) {
		t.Errorf("after punching: %v", got)
	}
	for e, err := range DataExtents(f, 0, 8*page) { // a caller that has enough
		if err != nil || e.Off != page {
			t.Error(e, err)
		}
		break
	}
}

func TestDataExtents(t *testing.T) { testExtents(t, false) }

// lseek(2) takes a file on hugetlbfs for data throughout; holes are found all the same.
func TestT1DataExtentsOnHugetlbfs(t *testing.T) {
	need.UFFD(t)
	hugePages(t, 16)
	f, _ := newMemfd(t, 8, true)
	if from, err := f.Seek(0, unix.SEEK_DATA); from != 0 || err != nil {
		t.Errorf("the kernel finds data at %d, %v: the detour may not be needed any more", from, err)
	}
	testExtents(t, true)
	m, err := MapShared(f, 2<<20, 2<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	m.Bytes()[0] = 1
	_ = m.Close() // it was only written
	r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // only read
	if got := extents(t, r, 0, 8, 2<<20); !reflect.DeepEqual(got, []FileExtent{{1, 1}}) {
		t.Errorf("by a file that is open for reading: %v", got)
	}
}

// A huge page that is punched is anybody's, until it is reserved again. The file system is one that has room for four.
func TestT1PunchedHugePagesCanBeReserved(t *testing.T) {
	need.UFFD(t)
	hugePages(t, 8)
	dir := fourHugePages(t)
	open := func(name string, size int64) *os.File {
		fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), name)
		t.Cleanup(func() { _ = f.Close() })
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		return f
	}
	const size = 2 << 20
	guest, other := open("guest", 4*size), open("other", 2*size)
	m, err := MapShared(guest, 0, 4*size, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }() // the file goes with it
	punch := func() {                // pages that were there: what never was stays reserved
		m.Bytes()[size], m.Bytes()[2*size] = 1, 1
		if err := PunchHole(guest, size, 2*size); err != nil {
			t.Fatal(err)
		}
	}
	punch()
	if err := Reserve(guest, size, 2*size); err != nil {
		t.Fatal(err)
	}
	if err := Reserve(other, 0, 2*size); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("another gets reserved pages: %v", err)
	}
	punch()
	if err := Reserve(other, 0, 2*size); err != nil {
		t.Errorf("the kernel keeps what is punched, so that nobody has to reserve it: %v", err)
	}
	if err := Reserve(guest, size, 2*size); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("reserved though another has them: %v", err)
	}
}

// fourHugePages is a file system with room for that many, and mounted nowhere.
func fourHugePages(t *testing.T) (dir int) {
	t.Helper()
	fs, err := unix.Fsopen("hugetlbfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fs) }() // the mount has it
	for key, value := range map[string]string{"pagesize": "2M", "size": "8M"} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatal(err)
	}
	dir, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(dir) })
	return dir
}

// Looking for holes makes no page.
func TestT1LookingForHolesFillsNone(t *testing.T) {
	need.UFFD(t)
	hugePages(t, 8)
	for _, huge := range []bool{false, true} {
		f, page := newMemfd(t, 8, huge)
		extents(t, f, 0, 8, page)
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks != 0 {
			t.Errorf("huge %t: %d blocks, %v", huge, st.Blocks, err)
		}
	}
}

func TestDataExtentsFails(t *testing.T) {
	f, page := newMemfd(t, 4, false)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range DataExtents(f, 0, 4*page) {
		if n++; !errors.Is(err, os.ErrClosed) {
			t.Errorf("%v, want closed", err)
		}
	}
	if n != 1 {
		t.Errorf("%d answers, want one", n)
	}
}

// Random writes and holes: the extents are what a plain list says.
func TestDataExtentsAtRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	f, page := newMemfd(t, 64, false)
	var data [64]bool
	for range 200 {
		i, n := rng.Int64N(64), rng.Int64N(8)
		n = min(n, 64-i)
		fill := rng.IntN(2) == 0
		var err error
		if fill {
			_, err = f.WriteAt(bytes.Repeat([]byte{1}, int(n*page)), i*page)
		} else if n > 0 {
			err = PunchHole(f, i*page, n*page)
		}
		if err != nil {
			t.Fatal(err)
		}
		for j := i; j < i+n; j++ {
			data[j] = fill
		}
		var got [64]bool
		for _, e := range extents(t, f, 0, 64, page) {
			for j := e.Off; j < e.Off+e.Len; j++ {
				got[j] = true
			}
		}
		if got != data {
			t.Fatalf("data at %v, want %v", got, data)
		}
	}
}

func TestPunchHole(t *testing.T) {
	f, page := newMemfd(t, 4, false)
	if _, err := f.WriteAt(bytes.Repeat([]byte{7}, int(4*page)), 0); err != nil {
		t.Fatal(err)
	}
	if err := PunchHole(f, page, 2*page); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4*page)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if got[page-1] != 7 || got[page] != 0 || got[3*page-1] != 0 || got[3*page] != 7 {
		t.Error("the hole is elsewhere")
	}
	if err := PunchHole(f, 0, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("no length: %v, want EINVAL", err)
	}
}

func TestMapShared(t *testing.T) {
	f, page := newMemfd(t, 4, false)
	m, err := MapShared(f, page, 2*page, true)
	if err != nil {
		t.Fatal(err)
	}
	copy(m.Bytes(), "here")
	if int64(len(m.Bytes())) != 2*page {
		t.Errorf("%d bytes", len(m.Bytes()))
	}
	got := make([]byte, 4)
	if _, err := f.ReadAt(got, page); err != nil || string(got) != "here" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil || m.Bytes() != nil {
		t.Errorf("closed twice: %v, %d bytes left", err, len(m.Bytes()))
	}
	if _, err := MapShared(f, 1, page, false); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an offset within a page: %v, want EINVAL", err)
	}
	if _, err := MapShared(f, 0, 0, false); !errors.Is(err, unix.EINVAL) {
		t.Errorf("no length: %v, want EINVAL", err)
	}
}

// Whoever looks for what is missing by reading has to use read(2).
func TestT1ReadingAHole(t *testing.T) {
	f, page := newMemfd(t, 4, false)
	b := make([]byte, 4*page)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if got := extents(t, f, 0, 4, page); got != nil {
		t.Errorf("read(2) fills %v", got)
	}
	m, err := MapShared(f, 0, 4*page, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }() // only read
	if m.Bytes()[page] != 0 {
		t.Error("a hole is not zero")
	}
	if got := extents(t, f, 1, 2, page); len(got) != 1 {
		t.Errorf("reading through a mapping fills %v, want the page", got)
	}
}

func TestOpenMapped(t *testing.T) {
	for _, name := range []string{"memfd", "file"} {
		t.Run(name, func(t *testing.T) {
			f, page := newMemfd(t, 8, false)
			if name == "file" {
				var err error
				if f, err = os.Create(filepath.Join(t.TempDir(), "ram file")); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = f.Close() }() // nothing is lost with it
				if err := errors.Join(f.Truncate(8*page), os.Remove(f.Name())); err != nil {
					t.Fatal(err)
				}
			}
			m, err := MapShared(f, 2*page, 4*page, true)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = m.Close() }() // nothing is lost with it
			addr := addressOf(m.Bytes())
			g, off, err := OpenMapped(os.Getpid(), addr+uint64(page)+5, true)
			if err != nil || off != 3*page+5 {
				t.Fatalf("offset %d, %v; want %d", off, err, 3*page+5)
			}
			defer func() { _ = g.Close() }() // nothing is lost with it
			if _, err := g.WriteAt([]byte("seen"), off); err != nil {
				t.Fatal(err)
			}
			if got := string(m.Bytes()[page+5:][:4]); got != "seen" {
				t.Errorf("the mapping holds %q", got)
			}
			maps, err := Maps(os.Getpid())
			i := slices.IndexFunc(maps, func(m Map) bool { return m.Start <= addr && addr < m.End })
			if err != nil || i < 0 || !maps[i].Shared() || maps[i].Offset != uint64(2*page) {
				t.Errorf("mapping %d of %d, %v", i, len(maps), err)
			}
			h, err := openMap(os.Getpid(), Map{Inode: maps[i].Inode}, false) // by the descriptors, as without privilege
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EBADF) {
				t.Errorf("writing what was opened for reading: %v, want EBADF", err)
			}
			_ = h.Close() // only read
		})
	}
}

func TestOpenMappedFindsNothing(t *testing.T) {
	b, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }() // nothing is lost with it
	for _, addr := range []uint64{addressOf(b), 0, 1 << 62} {
		if _, _, err := OpenMapped(os.Getpid(), addr, false); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%#x: %v, want not exist", addr, err)
		}
	}
	if _, _, err := OpenMapped(1<<30, 0, false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such process: %v, want not exist", err)
	}
}
