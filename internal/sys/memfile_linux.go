package sys

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Memfd makes a file of size bytes in memory that has no name in any folder; name shows in /proc only. With hugetlb its
// pages are huge ones of the default size, which size must be a multiple of. The caller closes it.
func Memfd(name string, size int64, hugetlb bool) (*os.File, error) {
	flags := unix.MFD_CLOEXEC
	if hugetlb {
		flags |= unix.MFD_HUGETLB
	}
	fd, err := unix.MemfdCreate(name, flags)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	if err := f.Truncate(size); err != nil {
		_ = f.Close() // it is of no use
		return nil, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return f, nil
}

// PunchHole throws away length bytes of f from off; they read as zeros then and take no memory. All mappings lose those
// pages too. Parts of a page at the ends are filled with zeros and not thrown away.
func PunchHole(f *os.File, off, length int64) error {
	return control(f, "fallocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	})
}

// Reserve makes sure that the range can be filled, on hugetlbfs: whoever maps a file there has its pages set apart, but a
// page that is punched goes back to the pool, and who touches it when that is empty is killed by SIGBUS. It is ENOMEM if
// there are not enough pages now. What is set apart stays so when this process is gone. off and length are whole pages.
func Reserve(f *os.File, off, length int64) error {
	m, err := MapShared(f, off, length, true)
	if err != nil {
		return err
	}
	return m.Close()
}

// Room is how many bytes the file system of f can still take, for us; bounded is false where it has no limit of its own, as a memfd
// has none. On hugetlbfs, where pages are set apart in another way, it says nothing of a file's own.
func Room(f *os.File) (free int64, bounded bool, err error) {
	var st unix.Statfs_t
	if err := control(f, "statfs", func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return 0, false, err
	}
	return int64(st.Bavail) * int64(st.Bsize), st.Blocks > 0, nil
}

// Space is how many bytes the file system of f can still take, for us, and how many it has in all.
func Space(f *os.File) (free, size int64, err error) {
	var st unix.Statfs_t
	err = control(f, "statfs", func(fd int) error { return unix.Fstatfs(fd, &st) })
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), err
}

// PageSize is the size of the pages that f is made of when it is mapped: a huge page's on hugetlbfs, else the machine's.
func PageSize(f *os.File) (int64, error) {
	huge, size, err := hugetlb(f)
	if err != nil || huge {
		return size, err
	}
	return int64(os.Getpagesize()), nil
}

// hugetlb tells whether f lies on hugetlbfs, and its block size, which is that of its pages there.
func hugetlb(f *os.File) (bool, int64, error) {
	var st unix.Statfs_t
	err := control(f, "fstatfs", func(fd int) error { return unix.Fstatfs(fd, &st) })
	return uint32(st.Type) == unix.HUGETLBFS_MAGIC, int64(st.Bsize), err
}

// Mapping is a part of a file mapped into our memory.
type Mapping struct {
	mu sync.Mutex
	b  []byte // nil once closed
}

// MapShared maps length bytes of f from off, a multiple of the page size: writes reach the file and all who map it. The
// mapping outlives f. To read a hole through it fills the hole with a page of zeros, which read(2) does not.
func MapShared(f *os.File, off, length int64, write bool) (*Mapping, error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	var b []byte
	err := control(f, "mmap", func(fd int) (err error) {
		b, err = unix.Mmap(fd, off, int(length), prot, unix.MAP_SHARED)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &Mapping{b: b}, nil
}

// Bytes is the memory; nil once closed. Touching it after Close, or beyond the end of the file, ends the process.
func (m *Mapping) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b
}

// Close unmaps the memory; again is fine. Nobody may use Bytes any more.
func (m *Mapping) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.b == nil {
		return nil
	}
	err := unix.Munmap(m.b)
	m.b = nil
	return os.NewSyscallError("munmap", err)
}

// control calls fn with the descriptor of f, again when a signal came in between, and explains its error.
func control(f *os.File, op string, fn func(fd int) error) error {
	var inner error
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Control(func(fd uintptr) {
		for inner = fn(int(fd)); inner == unix.EINTR; inner = fn(int(fd)) {
		}
	})
	if err != nil { // the descriptor is not there any more
		inner = os.ErrClosed
	}
	if inner != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: inner}
	}
	return nil
}
