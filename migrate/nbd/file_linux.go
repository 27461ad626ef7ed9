package nbd

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// finder finds the data of a file.
type finder struct {
	f      *os.File
	cached bool // the file lives in the page cache: tmpfs
}

// newFinder makes a finder; nil where the file system does not tell holes, or only at a price.
//
// On tmpfs SEEK_HOLE walks every page from where it starts to the next hole, to the end of the file if need be: asked for each
// request of a full file, it takes the square of the file's size. There cachestat(2), which ends where the range does, first
// tells whether a hole is in the range at all.
func newFinder(f *os.File) *finder {
	d := &finder{f: f}
	var st unix.Statfs_t
	if err := withFD(f, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return nil
	}
	if d.cached = uint32(st.Type) == unix.TMPFS_MAGIC; d.cached {
		if _, err := d.pages(0, 1); err != nil {
			return nil
		}
	}
	if _, err := f.Seek(0, unix.SEEK_DATA); err != nil && !errors.Is(err, unix.ENXIO) {
		return nil
	}
	return d
}

// pages is how many pages of a range have storage: in memory or swapped out.
func (d *finder) pages(at, end int64) (n uint64, err error) {
	err = withFD(d.f, func(fd int) error {
		var st unix.Cachestat_t
		err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(at), Len: uint64(end - at)}, &st, 0)
		n = st.Cache + st.Evicted
		return os.NewSyscallError("cachestat", err)
	})
	return n, err
}

// full is whether a range has no hole, and empty whether it has nothing else. Both are false when that is not known.
func (d *finder) full(at, end int64) (full, empty bool, err error) {
	if !d.cached {
		return false, false, nil
	}
	size := int64(os.Getpagesize())
	n, err := d.pages(at, end)
	return n >= uint64((end-1)/size-at/size+1), n == 0, err
}

// cachedWindow is how much of a file in the page cache is looked at at once: cachestat goes through all of the range.
const cachedWindow = 4 << 20

// next returns the first run of data between at and end, or part of it; an empty one at end, or before it, if there is none up
// to there.
func (d *finder) next(at, end int64) (from, to int64, err error) {
	if d.cached {
		end = min(end, at+cachedWindow)
	}
	full, empty, err := d.full(at, end)
	if err != nil || full {
		return at, end, err
	}
	if empty {
		return end, end, nil
	}
	from, err = d.f.Seek(at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && from >= end {
		return end, end, nil
	}
	if err != nil || from < at {
		return at, end, err
	}
	if full, _, err = d.full(from, end); err != nil || full {
		return from, end, err
	}
	to, err = d.f.Seek(from, unix.SEEK_HOLE)
	if err != nil || to <= from { // what was data was punched in between: then it is read as zeroes
		return from, end, err
	}
	return from, min(to, end), nil
}

// mapFile maps a file for reading, and for writing if that is wanted; nil where that would allocate.
func mapFile(f *os.File, size int64, write bool) (p []byte, err error) {
	err = withFD(f, func(fd int) error {
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil {
			return os.NewSyscallError("fstatfs", err)
		}
		if uint32(st.Type) == unix.HUGETLBFS_MAGIC {
			return nil
		}
		prot := unix.PROT_READ
		if write {
			prot |= unix.PROT_WRITE
		}
		p, err = unix.Mmap(fd, 0, int(size), prot, unix.MAP_SHARED)
		return os.NewSyscallError("mmap", err)
	})
	return p, err
}

func unmapFile(p []byte) error { return os.NewSyscallError("munmap", unix.Munmap(p)) }

func punchFile(f *os.File, off, length int64) error {
	return fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func zeroFile(f *os.File, off, length int64) error {
	return fallocate(f, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func fallocate(f *os.File, mode uint32, off, length int64) error {
	return withFD(f, func(fd int) error {
		err := unix.Fallocate(fd, mode, off, length)
		for errors.Is(err, unix.EINTR) {
			err = unix.Fallocate(fd, mode, off, length)
		}
		return os.NewSyscallError("fallocate", err)
	})
}

func prefetchFile(f *os.File, off, length int64) error {
	return withFD(f, func(fd int) error {
		return os.NewSyscallError("fadvise", unix.Fadvise(fd, off, length, unix.FADV_WILLNEED))
	})
}

func withFD(f *os.File, call func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	failed := io.ErrUnexpectedEOF // if call never runs
	if err := raw.Control(func(fd uintptr) { failed = call(int(fd)) }); err != nil {
		return err
	}
	return failed
}
