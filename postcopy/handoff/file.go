package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// File has the contents of the regions, each from its offset on: a snapshot's memory file. It is a postcopy.Fetcher
// that never waits for a network. It closes nothing.
type File struct {
	From    io.ReaderAt
	Regions []Region
}

// Fetch reads a part of a region. The last page of the file may be short; a page that begins behind its end is
// an error, and not zeros.
func (f *File) Fetch(_ context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	if block < 0 || block >= len(f.Regions) || off < 0 || off+int64(len(p)) > f.Regions[block].Size {
		return nil, fmt.Errorf("there is no region %d with %d bytes at %d", block, len(p), off)
	}
	n, err := f.From.ReadAt(p, f.Regions[block].Offset+off)
	switch {
	case n == len(p):
		return nil, nil
	case errors.Is(err, io.EOF) && len(p)-n < int(f.Regions[block].PageSize) && n > 0:
		clear(p[n:])
		return nil, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("contents of region %d at %d: %w", block, off+int64(n), err)
}

// Near tells the pager that a fault can be served by the thread that reads it.
func (f *File) Near() bool { return true }
