package postcopy

import (
	"context"
	"errors"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Fetcher gets the contents of pages from the source.
type Fetcher interface {
	// Fetch fills p with the bytes of the block at off. Holes are the parts of it that are known to be zeros, in the
	// block's offsets, in order and without overlap; p need not be filled there. An error that wraps ErrLink says that
	// the source may be reached again later. It has to return soon when ctx ends. It is used by several goroutines.
	Fetch(ctx context.Context, block int, off int64, p []byte) (holes []ram.Extent, err error)
}

// Near is what a Fetcher says when it never waits for a network: its pages are in memory or in a local file. Then the
// thread that reads a fault serves it, too.
type Near interface {
	Near() bool
}

func isNear(f Fetcher) bool {
	n, ok := f.(Near)
	return ok && n.Near()
}

// SparseReader reads a block's export: an nbd client is one. Holes are told as Fetcher does.
type SparseReader interface {
	ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error)
}

// NBDFetcher fetches from one reader for each block, in the order of the blocks. Every error is taken for a lost link,
// unless Permanent says that trying again is of no use: an error of the source's device, such as EIO, not one of the
// connection. The readers belong to the caller.
type NBDFetcher struct {
	Blocks    []SparseReader
	Permanent func(error) bool
}

// Fetch implements Fetcher.
func (f *NBDFetcher) Fetch(ctx context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	holes, err := f.Blocks[block].ReadSparse(ctx, p, off)
	if err == nil || errors.Is(err, ErrLink) || ctx.Err() != nil || (f.Permanent != nil && f.Permanent(err)) {
		return holes, err
	}
	return nil, &linkError{err}
}

// linkError is ErrLink with its cause.
type linkError struct{ err error }

func (e *linkError) Error() string   { return ErrLink.Error() + ": " + e.err.Error() }
func (e *linkError) Unwrap() []error { return []error{ErrLink, e.err} }
