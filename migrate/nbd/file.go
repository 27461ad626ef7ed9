package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

	"github.com/pojntfx/go-nbd/pkg/backend"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// FileOptions say how a File is read.
type FileOptions struct {
	// Zeroes also takes runs of whole pages for holes that are there and hold only zeroes, as a guest's free memory does.
	Zeroes bool
	// Map sends from a mapping of the file and not from a copy. It is for files that nobody truncates and whose size is that
	// at the time of NewFile: touching what is gone ends the process. It is not done where holes are not told,
	// as on hugetlbfs: reading them through a mapping would take pages.
	Map bool
	// MapWrites also receives into the mapping what overwrites data; what fills holes is written. It needs Map.
	MapWrites bool
}

// page is the smallest run of zeroes that is told from data.
const page = 4096

// File is a backend on a file or block device that knows its holes: disks in raw format, and the RAM of a guest. Unlike
// go-nbd's it leaves holes holes, lets writers run side by side and can zero, trim and prefetch. It is safe for use by several
// goroutines. It moves the file's offset.
type File struct {
	f    *os.File
	opts FileOptions
	size int64
	find *finder // nil where the file system tells no holes

	mapped  []byte
	closing sync.Once
	unmap   error
}

// Every optional interface but the dirty bitmap, which whoever tracks adds by embedding a File.
var (
	_ backend.Backend = (*File)(nil)
	_ SparseReader    = (*File)(nil)
	_ Viewer          = (*File)(nil)
	_ Receiver        = (*File)(nil)
	_ Extenter        = (*File)(nil)
	_ ZeroWriter      = (*File)(nil)
	_ Trimmer         = (*File)(nil)
	_ Cacher          = (*File)(nil)
)

// NewFile makes a backend of a file of constant size, which stays the caller's. Close has to be called before the file is
// closed, and after the servers that use it.
func NewFile(f *os.File, opts FileOptions) (*File, error) {
	size, err := f.Seek(0, io.SeekEnd) // a block device has no size elsewhere
	if err != nil {
		return nil, fmt.Errorf("nbd backend: size of %s: %w", f.Name(), err)
	}
	b := &File{f: f, opts: opts, size: size, find: newFinder(f)}
	if opts.Map && size > 0 && b.find != nil {
		if b.mapped, err = mapFile(f, size, opts.MapWrites); err != nil {
			return nil, fmt.Errorf("nbd backend: map %s: %w", f.Name(), err)
		}
	}
	return b, nil
}

// Close gives the mapping back, and leaves the file open.
func (b *File) Close() error {
	b.closing.Do(func() {
		if b.mapped != nil {
			b.unmap = unmapFile(b.mapped)
		}
	})
	return b.unmap
}

// Size implements backend.Backend.
func (b *File) Size() (int64, error) { return b.size, nil }

// ReadAt implements backend.Backend.
func (b *File) ReadAt(p []byte, off int64) (int, error) { return b.f.ReadAt(p, off) }

// WriteAt implements backend.Backend.
func (b *File) WriteAt(p []byte, off int64) (int, error) { return b.f.WriteAt(p, off) }

// Sync implements backend.Backend.
func (b *File) Sync() error { return b.f.Sync() }

// ReadSparse implements SparseReader: holes are not read.
func (b *File) ReadSparse(_ context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	return b.scan(off, int64(len(p)), func(at, n int64) ([]byte, error) {
		q := p[at-off:][:n]
		_, err := io.ReadFull(io.NewSectionReader(b.f, at, n), q)
		return q, err
	})
}

// View implements Viewer, if the file is mapped.
func (b *File) View(_ context.Context, off, length int64) (p []byte, holes []ram.Extent, err error) {
	if b.mapped == nil {
		return nil, nil, nil
	}
	holes, err = b.scan(off, length, func(at, n int64) ([]byte, error) { return b.mapped[at : at+n], nil })
	return b.mapped[off : off+length], holes, err
}

// Receive implements Receiver: where the file is mapped for it and has no holes, so that nothing has to be found for them.
func (b *File) Receive(off, length int64) []byte {
	if b.mapped == nil || !b.opts.MapWrites {
		return nil
	}
	if full, _, err := b.find.full(off, off+length); err != nil || !full {
		return nil
	}
	return b.mapped[off : off+length]
}

// scan gets the data of a range and returns what is none of it: holes, and zeroes if they are looked for.
func (b *File) scan(off, length int64, get func(at, n int64) ([]byte, error)) (holes []ram.Extent, err error) {
	for at, end := off, off+length; at < end; {
		from, to, err := b.data(at, end)
		if err != nil {
			return nil, err
		}
		holes = addHole(holes, at, from)
		if from < to {
			p, err := get(from, to-from)
			if err != nil {
				return nil, err
			}
			if b.opts.Zeroes {
				holes = addZeroes(holes, p, from)
			}
		}
		at = to
	}
	return holes, nil
}

// data is the first run of data in a range, or part of it; it is empty if there is none up to where it ends.
func (b *File) data(at, end int64) (from, to int64, err error) {
	if b.find == nil {
		return at, end, nil
	}
	return b.find.next(at, end)
}

func addHole(holes []ram.Extent, from, to int64) []ram.Extent {
	if from >= to {
		return holes
	}
	if n := len(holes); n > 0 && holes[n-1].End() == from {
		holes[n-1].Length += to - from
		return holes
	}
	return append(holes, ram.Extent{Offset: from, Length: to - from})
}

// addZeroes adds the runs of whole pages of p, which stands at off, that hold only zeroes.
func addZeroes(holes []ram.Extent, p []byte, off int64) []ram.Extent {
	skip := int(-off & (page - 1))
	for at := skip; at+page <= len(p); at += page {
		if isZero(p[at : at+page]) {
			holes = addHole(holes, off+int64(at), off+int64(at)+page)
		}
	}
	return holes
}

var zeroPage [page]byte

// isZero is whether a page holds only zeroes. Most that does not shows it in its first bytes.
func isZero(p []byte) bool {
	return p[0] == 0 && bytes.Equal(p, zeroPage[:])
}

// maxExtents bounds one answer.
const maxExtents = 4096

// Extents implements Extenter. Zeroes that are stored count as data.
func (b *File) Extents(ctx context.Context, off, length int64) ([]Status, error) {
	var list []Status
	for at, end := off, off+length; at < end && len(list) < maxExtents; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		from, to, err := b.data(at, end)
		if err != nil {
			return nil, err
		}
		if from > at {
			list = append(list, Status{from - at, StatusHole | StatusZero})
		}
		if to > from {
			list = append(list, Status{to - from, 0})
		}
		at = to
	}
	return list, nil
}

// WriteZeroes implements ZeroWriter. It fails with errors.ErrUnsupported where the file system cannot do it without writing.
func (b *File) WriteZeroes(_ context.Context, off, length int64, punch bool) error {
	if punch {
		return unsupported(punchFile(b.f, off, length))
	}
	return unsupported(zeroFile(b.f, off, length))
}

// Trim implements Trimmer. Where the file system cannot punch holes nothing is done, which is allowed.
func (b *File) Trim(_ context.Context, off, length int64) error {
	err := unsupported(punchFile(b.f, off, length))
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// Cache implements Cacher.
func (b *File) Cache(_ context.Context, off, length int64) error {
	return unsupported(prefetchFile(b.f, off, min(length, math.MaxInt32)))
}

// unsupported makes the file system's ways of saying so errors.ErrUnsupported.
func unsupported(err error) error {
	if err != nil && errnoOf(err) == ENOTSUP {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}
