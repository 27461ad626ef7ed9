package postcopy

import (
	"context"
	"errors"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
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

// Direct is a Fetcher by whose connection the thread that reads faults asks and hears by itself: no other thread has to be
// woken for a fault. Fetch works as ever, while that thread calls Take.
type Direct interface {
	Fetcher
	// Watch sets what Take calls with each Ask that has ended, and what is called, from whatever goroutine, when
	// Descriptor has changed or there is something for Take.
	Watch(wake func(), done func(*Ask))
	// Descriptor is readable when there may be something for Take; -1 is none.
	Descriptor() int
	// Send asks and does not wait; it is false, and nothing was done, where that cannot be.
	Send(a *Ask) bool
	// Take takes up the answers that have come, and does not wait for more.
	Take()
	// Drop gives an Ask up that was sent. Nothing touches it any more.
	Drop(a *Ask)
}

// Ask is what a Direct is asked for: a Fetch in two halves. It belongs to the Direct from Send until Take or Drop gives it
// back.
type Ask struct {
	Block  int
	Offset int64
	P      []byte
	// Holes and Err are the answer, as Fetch gives it. After an error the page is fetched by Fetch.
	Holes []ram.Extent
	Err   error

	read  nbd.Read
	asked time.Duration
	s     *space
	pt    part
}

// SparseReader reads a block's export: nbd.Client is one. Holes are told as Fetcher does, and p is left as it was there.
type SparseReader interface {
	ReadData(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error)
}

// NBDFetcher fetches from one export for each block, in the order of the blocks; they may share a client each, or
// have one for every block. The clients belong to the caller.
//
// An error that the server gave as its answer, such as EIO of its device, is what it is; every other one, such as
// nbd.ErrLinkLost, and that it shuts down, is taken for a lost link.
type NBDFetcher []SparseReader

var _ SparseReader = (*nbd.Client)(nil)

// Fetch implements Fetcher.
func (f NBDFetcher) Fetch(ctx context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	holes, err := f[block].ReadData(ctx, p, off)
	var answer nbd.Errno
	switch {
	case err == nil:
		return holes, nil
	case ctx.Err() != nil, errors.Is(err, ErrLink):
		return nil, err
	case errors.As(err, &answer) && answer != nbd.ESHUTDOWN && !errors.Is(err, nbd.ErrLinkLost):
		return nil, err
	}
	return nil, &linkError{err}
}

// linkError is ErrLink with its cause.
type linkError struct{ err error }

func (e *linkError) Error() string   { return ErrLink.Error() + ": " + e.err.Error() }
func (e *linkError) Unwrap() []error { return []error{ErrLink, e.err} }
