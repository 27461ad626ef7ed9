package nbd

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Status is one run of bytes that are alike in a context.
type Status struct {
	// Length is in bytes.
	Length int64
	// Flags are the context's: those of base:allocation are StatusHole and StatusZero, that of a dirty bitmap is StatusDirty.
	Flags uint32
}

// What a Status's flags mean.
const (
	// StatusHole says, in base:allocation, that no storage is taken.
	StatusHole uint32 = 1 << 0
	// StatusZero says, in base:allocation, that all bytes read as zero.
	StatusZero uint32 = 1 << 1
	// StatusDirty says, in a dirty bitmap, that something was written.
	StatusDirty uint32 = 1 << 0
)

// A backend of an Export is go-nbd's backend.Backend: ReadAt, WriteAt, Size and Sync, all of which have to bear being called
// by several goroutines. It may have any of the interfaces below, too. The server never calls it with a range that is not
// within its size, and never with a length of zero.

// ContextBackend is a backend whose reads and writes can be given up.
type ContextBackend interface {
	// ReadAtContext is io.ReaderAt with a context, which ends when the connection does.
	ReadAtContext(ctx context.Context, p []byte, off int64) (int, error)
	// WriteAtContext is io.WriterAt with a context.
	WriteAtContext(ctx context.Context, p []byte, off int64) (int, error)
}

// SparseReader is a backend that knows while it reads which parts are zero: they are not sent.
type SparseReader interface {
	// ReadSparse fills p from off, and returns the runs that hold only zeroes: absolute, in order, not overlapping. What it
	// leaves in p at those is of no matter. It reads all of p or fails.
	ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error)
}

// Viewer is a backend whose data is in memory already: it is sent from there, without a copy.
type Viewer interface {
	// View returns length bytes of memory that hold the data from off on, and the runs of it that are zero, as ReadSparse
	// does; those are not touched. A nil p says that there is no such memory for this range, and it is read as usual.
	// The memory is only read, and must stay until the server is closed; what is written to it meanwhile may be seen, or not.
	View(ctx context.Context, off, length int64) (p []byte, holes []ram.Extent, err error)
}

// Receiver is a backend whose memory may be written to by others: data goes there straight from the connection.
type Receiver interface {
	// Receive returns the memory that holds the range, or nil if it has to be written as usual. What is received is there
	// from then on, bit by bit, also when the connection is lost meanwhile; a request that failed half-way leaves half of it.
	Receive(off, length int64) []byte
}

// Extenter is a backend that knows its holes: base:allocation.
type Extenter interface {
	// Extents says what there is from off on: runs in order without a gap, at least one, that may end before or after
	// off+length. Unknown is no flag: data.
	Extents(ctx context.Context, off, length int64) ([]Status, error)
}

// DirtyExtenter is a backend that knows what was written to it: DirtyBitmap.
type DirtyExtenter interface {
	// DirtyExtents is as Extents, with StatusDirty for what was written, and for what it is not known of.
	DirtyExtents(ctx context.Context, off, length int64) ([]Status, error)
}

// ZeroWriter is a backend that makes zeroes without being sent them.
type ZeroWriter interface {
	// WriteZeroes makes the range read as zero. Only when punch is set may it give the storage back.
	WriteZeroes(ctx context.Context, off, length int64, punch bool) error
}

// Trimmer is a backend that can be told that a range is no longer needed.
type Trimmer interface {
	// Trim lets the backend forget the range; what it reads as afterwards is not known.
	Trim(ctx context.Context, off, length int64) error
}

// Cacher is a backend that can be told that a range will soon be read.
type Cacher interface {
	// Cache makes the range quick to read. It is a hint; failing is harmless.
	Cache(ctx context.Context, off, length int64) error
}
