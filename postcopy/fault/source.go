package fault

import (
	"errors"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// Event is one message of a userfaultfd.
type Event = sys.Event

// ErrInterrupted is what Wait returns after Interrupt.
var ErrInterrupted = errors.New("the wait for faults was interrupted")

// Source is one userfaultfd: the faults of one address space and the calls that answer them. All but Read, which is for one
// thread at a time, may be used by several threads.
//
// Addresses are those of the guest's process, lengths are in bytes and whole pages. Errors wrap the kernel's: EAGAIN
// when the layout is changing and events have to be read first, EEXIST where a page is already, ESRCH when the process
// is gone, ENOENT where nothing is registered.
type Source interface {
	Reader
	Placer
	Owner
}

// Reader gives what happens in the address space.
type Reader interface {
	// Read takes as many messages as there are and fit, and EAGAIN when there are none. It does not wait.
	Read(events []Event) (int, error)
	// Wait returns when there may be something to read, or with ErrInterrupted.
	Wait() error
	// Interrupt ends the wait that is under way, or the next one.
	Interrupt() error
}

// PairWaiter is a Reader whose Wait can also be for another descriptor.
type PairWaiter interface {
	// WaitWith is Wait, and returns also when there may be something to read from fd. It tells which of both it is, or
	// neither.
	WaitWith(fd int) (events, other bool, err error)
}

// Placer fills pages that are missing. None of its calls changes a page that is there.
type Placer interface {
	// Copy places the bytes of src at dst and wakes who waits there. It returns how many bytes were placed before the
	// error.
	Copy(dst uint64, src []byte) (int, error)
	// ZeroPage places zeros and wakes who waits there. The pages of hugetlbfs refuse it with EINVAL.
	ZeroPage(start, length uint64) (int, error)
	// Wake lets those who wait in the range try again.
	Wake(start, length uint64) error
}

// QuietPlacer is a Placer that can also place pages and wake nobody, who is woken later then.
type QuietPlacer interface {
	// CopyQuiet is Copy, and leaves it to the caller to Wake who waits there.
	CopyQuiet(dst uint64, src []byte) (int, error)
}

// Owner keeps the registration and the descriptor.
type Owner interface {
	// Unregister ends the watch of a range and wakes who waits in it: what is missing there then reads as zeros.
	Unregister(start, length uint64) error
	// Child makes a source of the descriptor that came with an EventFork. It belongs to the caller.
	Child(fd int) (Source, error)
	// Close ends the use of the descriptor. Where it is the last one of its userfaultfd, the kernel unregisters all.
	Close() error
}
