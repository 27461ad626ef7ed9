package sys

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FileExtent is a part of a file, in bytes.
type FileExtent struct{ Off, Len int64 }

// DataExtents lists the parts of f between lo and hi that hold data, in order; all else is holes. lo and hi are multiples
// of PageSize. An error ends the list. What changes meanwhile may be seen or not.
//
// Elsewhere the kernel is asked by lseek(2), which moves the offset of f. On hugetlbfs it would take the file for data
// throughout. There each page is asked for with UFFDIO_CONTINUE on a mapping of our own, which finds it in the file or
// fails: no page is made or read, and nobody else sees it. The kernel wants such a mapping to be writable, so that we
// must have permission to write the file, even if f is open for reading only.
func DataExtents(f *os.File, lo, hi int64) iter.Seq2[FileExtent, error] {
	return func(yield func(FileExtent, error) bool) {
		huge, page, err := hugetlb(f)
		switch {
		case err != nil:
			yield(FileExtent{}, err)
		case huge:
			hugeExtents(f, lo, hi, page, yield)
		default:
			seekExtents(f, lo, hi, yield)
		}
	}
}

func seekExtents(f *os.File, lo, hi int64, yield func(FileExtent, error) bool) {
	for lo < hi {
		from, err := f.Seek(lo, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && from >= hi {
			return // no data behind lo
		}
		var to int64
		if err == nil {
			to, err = f.Seek(from, unix.SEEK_HOLE)
		}
		to = min(to, hi)
		if err == nil && to <= from {
			err = io.ErrNoProgress
		}
		if err != nil {
			yield(FileExtent{}, err)
			return
		}
		if !yield(FileExtent{from, to - from}, nil) {
			return
		}
		lo = to
	}
}

// hugeExtents asks a userfaultfd of our own.
func hugeExtents(f *os.File, lo, hi, page int64, yield func(FileExtent, error) bool) {
	if hi = min(hi, sizeOf(f)); lo >= hi {
		return
	}
	asker, err := newHugeAsker(f, lo, hi)
	if err != nil {
		yield(FileExtent{}, fmt.Errorf("look for holes on hugetlbfs: %w", err))
		return
	}
	defer asker.close()
	for lo < hi {
		n, err := asker.present(lo, hi)
		if n > 0 && !yield(FileExtent{lo, n}, nil) {
			return
		}
		if lo += n; lo == hi {
			return
		}
		if !errors.Is(err, unix.EFAULT) {
			yield(FileExtent{}, fmt.Errorf("look for holes on hugetlbfs: %w", err))
			return
		}
		lo += page // a hole
	}
}

// sizeOf is 0 for what has none.
func sizeOf(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// hugeAsker is a mapping of a file on hugetlbfs that is never touched, and a userfaultfd that watches it.
type hugeAsker struct {
	u   *UserFault
	m   []byte
	off int64 // of the mapping in the file
}

func newHugeAsker(f *os.File, lo, hi int64) (*hugeAsker, error) {
	a := &hugeAsker{off: lo}
	err := a.mapAll(f, hi)
	if errors.Is(err, unix.EACCES) { // f is open for reading
		var again *os.File
		if again, err = reopen(f); err == nil {
			err = a.mapAll(again, hi)
			_ = again.Close() // the mapping outlives it
		}
	}
	if err != nil {
		return nil, err
	}
	if a.u, err = NewUserFault(true); err == nil {
		_, err = a.u.API(FeatureMinorHugetlbfs)
	}
	if err == nil {
		err = a.u.Register(a.addr(lo), uint64(hi-lo), Minor)
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *hugeAsker) mapAll(f *os.File, hi int64) error {
	return control(f, "mmap", func(fd int) (err error) {
		a.m, err = unix.Mmap(fd, a.off, int(hi-a.off), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
		return err
	})
}

// reopen opens the file of f for writing too; the caller closes it.
func reopen(f *os.File) (again *os.File, err error) {
	err = control(f, "open", func(fd int) (err error) {
		again, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDWR, 0)
		return err
	})
	return again, err
}

func (a *hugeAsker) addr(off int64) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(a.m)))) + uint64(off-a.off)
}

// present tells how many bytes from lo on are there. If that is not all up to hi, err says why; EFAULT is a hole.
func (a *hugeAsker) present(lo, hi int64) (int64, error) {
	n, err := a.u.Continue(a.addr(lo), uint64(hi-lo), false)
	return int64(n), err
}

func (a *hugeAsker) close() {
	if a.u != nil {
		_ = a.u.Close() // it was only asked
	}
	_ = unix.Munmap(a.m) // nobody else knows of it
}
