package postcopy

import (
	"errors"
	"fmt"
)

var (
	// ErrLink: the connection to the source is lost. What was missing is missing still, and Run can be called again.
	ErrLink = errors.New("the link to the source is lost")
	// ErrGone: the process whose memory is filled has ended.
	ErrGone = errors.New("the guest's process is gone")
	// ErrUnknownFault: a fault at an address that is in no RAM block. Nothing can be placed there, so the thread waits.
	ErrUnknownFault = errors.New("a fault outside of the guest's RAM")
	// ErrBooks: the pages placed do not add up to the pages that were missing.
	ErrBooks = errors.New("the pages placed are not those that were missing")
	// ErrRunning: there is one Run at a time.
	ErrRunning = errors.New("the pager runs already")
)

// FetchError tells which pages did not come. It wraps what the Fetcher said, which is or is not ErrLink.
type FetchError struct {
	Block  string
	Offset int64
	Length int64
	// Demand: a thread of the guest waits for it.
	Demand bool
	Err    error
}

func (e *FetchError) Error() string {
	what := "bulk"
	if e.Demand {
		what = "demand"
	}
	return fmt.Sprintf("%s fetch of %d bytes at %d of block %q: %v", what, e.Length, e.Offset, e.Block, e.Err)
}

// Unwrap gives the Fetcher's error.
func (e *FetchError) Unwrap() error { return e.Err }

// PlaceError tells where the kernel refused a page. It wraps ErrGone when the process has ended, and the kernel's error.
type PlaceError struct {
	Op    string
	Block string
	Addr  uint64
	Err   error
}

func (e *PlaceError) Error() string {
	return fmt.Sprintf("%s at %#x of block %q: %v", e.Op, e.Addr, e.Block, e.Err)
}

// Unwrap gives the cause.
func (e *PlaceError) Unwrap() error { return e.Err }
