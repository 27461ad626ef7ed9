package disks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// A disk's checksums are a device of their own: sumSize bytes for each unit of the disk, zeros for a unit that is zero.
const (
	unitSize = 4 << 10
	sumSize  = 16
)

// pieceUnits is how many units are worked on at once, and pieceSize their bytes: pieces that are under way together are to fit into a
// cache, for each is copied many times.
const (
	pieceUnits = 64
	pieceSize  = pieceUnits * unitSize
)

// unitsOf is how many units a disk has; the last may be short.
func unitsOf(size int64) int { return int((size + unitSize - 1) / unitSize) }

// sparse is a device that knows while it is read what of it is zero (nbd.SparseReader).
type sparse interface {
	ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error)
}

// sums are the checksums of a disk as it is at the time when they are read. They are a backend of an NBD export.
type sums struct {
	of   sparse
	size int64 // the disk's
}

// newSums makes checksums of a disk of that many bytes.
func newSums(of sparse, size int64) *sums { return &sums{of, size} }

// sumsSize is how many bytes the checksums of a disk take.
func sumsSize(size int64) int64 { return int64(unitsOf(size)) * sumSize }

// Size implements backend.Backend.
func (s *sums) Size() (int64, error) { return sumsSize(s.size), nil }

// errReadOnly: checksums follow from the disk.
var errReadOnly = errors.New("checksums are not written")

// WriteAt implements backend.Backend.
func (s *sums) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }

// Sync implements backend.Backend.
func (s *sums) Sync() error { return nil }

// ReadAt implements backend.Backend.
func (s *sums) ReadAt(p []byte, off int64) (int, error) {
	if _, err := s.ReadSparse(context.Background(), p, off); err != nil { // only those without a context come here
		return 0, err
	}
	return len(p), nil
}

// ReadSparse implements nbd.SparseReader. It fills all of p; the holes are what it is spared to send.
func (s *sums) ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	end := off + int64(len(p))
	if off < 0 || end > sumsSize(s.size) {
		return nil, fmt.Errorf("%d bytes at %d of the checksums of a disk of %d bytes", len(p), off, s.size)
	}
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	var out [pieceUnits * sumSize]byte
	for unit := off / sumSize; unit*sumSize < end; {
		lo := unit * unitSize
		part := buf[:min(pieceSize, s.size-lo, unitSize*((end+sumSize-1)/sumSize-unit))]
		got, err := sumsAt(ctx, s.of, part, lo, out[:0])
		if err != nil {
			return nil, err
		}
		holes = place(holes, p, off, got, unit*sumSize)
		unit += int64(len(got) / sumSize)
	}
	return holes, nil
}

// place copies what of the checksums got, which stand at from, belongs into p, which stands at off, and notes those of zeros.
func place(holes []ram.Extent, p []byte, off int64, got []byte, from int64) []ram.Extent {
	for at := from; at < from+int64(len(got)); at += sumSize {
		lo, hi := max(at, off), min(at+sumSize, off+int64(len(p)))
		one := got[at-from:][:sumSize]
		copy(p[lo-off:hi-off], one[lo-at:hi-at])
		if !allZero(one) {
			continue
		}
		if n := len(holes); n > 0 && holes[n-1].End() == lo {
			holes[n-1].Length += hi - lo
		} else {
			holes = append(holes, ram.Extent{Offset: lo, Length: hi - lo})
		}
	}
	return holes
}

// pieces are buffers.
var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// sumsAt reads p from off, which is the beginning of a unit, and appends the checksums of its units to out.
func sumsAt(ctx context.Context, of sparse, p []byte, off int64, out []byte) ([]byte, error) {
	holes, err := of.ReadSparse(ctx, p, off)
	if err != nil {
		return nil, err
	}
	for lo := 0; lo < len(p); lo += unitSize {
		unit := p[lo:min(lo+unitSize, len(p))]
		sum := sumOf(unit, off+int64(lo), &holes)
		out = append(out, sum[:]...)
	}
	return out, nil
}

// sumOf gives the checksum of a unit that stands at off. Holes are in order; what lies before the unit's end is taken off.
func sumOf(unit []byte, off int64, holes *[]ram.Extent) (sum [sumSize]byte) {
	end := off + int64(len(unit))
	for len(*holes) > 0 && (*holes)[0].Offset < end {
		h := (*holes)[0]
		if h.Offset <= off && h.End() >= end {
			return sum
		}
		if lo, hi := max(h.Offset, off), min(h.End(), end); lo < hi {
			clear(unit[lo-off : hi-off])
		}
		if h.End() > end {
			break
		}
		*holes = (*holes)[1:]
	}
	if allZero(unit) {
		return sum
	}
	full := sha256.Sum256(unit)
	copy(sum[:], full[:])
	return sum
}

var zeroUnit [unitSize]byte

// allZero is whether p, of at most a unit, holds only zeros.
func allZero(p []byte) bool { return bytes.Equal(p, zeroUnit[:len(p)]) }
