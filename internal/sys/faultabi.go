package sys

import (
	"encoding/binary"
	"syscall"
)

// Features are the abilities of a userfaultfd, negotiated once by UserFault.API (linux/userfaultfd.h, UFFD_FEATURE_*).
type Features uint64

// The features, each with the kernel that brought it.
const (
	FeaturePagefaultFlagWP  Features = 1 << 0  // 5.7: write-protection of private anonymous memory
	FeatureEventFork        Features = 1 << 1  // 4.11: EventFork; needs CAP_SYS_PTRACE
	FeatureEventRemap       Features = 1 << 2  // 4.11: EventRemap
	FeatureEventRemove      Features = 1 << 3  // 4.11: EventRemove
	FeatureMissingHugetlbfs Features = 1 << 4  // 4.11: Missing on hugetlbfs
	FeatureMissingShmem     Features = 1 << 5  // 4.11: Missing on tmpfs, memfd and shared anonymous memory
	FeatureEventUnmap       Features = 1 << 6  // 4.12: EventUnmap
	FeatureSigbus           Features = 1 << 7  // 4.14: faults raise SIGBUS and are not reported
	FeatureThreadID         Features = 1 << 8  // 4.14: Event.TID
	FeatureMinorHugetlbfs   Features = 1 << 9  // 5.13: Minor on hugetlbfs
	FeatureMinorShmem       Features = 1 << 10 // 5.14: Minor on shmem
	FeatureExactAddress     Features = 1 << 11 // 5.18: Event.Addr is not rounded down to the page
	FeatureWPHugetlbfsShmem Features = 1 << 12 // 5.19: WriteProtect on hugetlbfs and shmem
	FeatureWPUnpopulated    Features = 1 << 13 // 6.4: pages that are not there yet can be write-protected
	FeaturePoison           Features = 1 << 14 // 6.6: UserFault.Poison
	FeatureWPAsync          Features = 1 << 15 // 6.7: the kernel resolves write-protection faults and remembers them
	FeatureMove             Features = 1 << 16 // 6.8: UFFDIO_MOVE, which this package does not use
)

// Has tells that all the wanted features are among them.
func (f Features) Has(want Features) bool { return f&want == want }

// RegisterMode says which faults of a registered range are reported (UFFDIO_REGISTER_MODE_*). Modes can be joined.
type RegisterMode uint64

// The modes.
const (
	Missing      RegisterMode = 1 << 0 // the page is neither mapped nor in the file behind the mapping
	WriteProtect RegisterMode = 1 << 1 // a write to a page that was protected
	Minor        RegisterMode = 1 << 2 // the page is in the file, but not mapped here
)

// EventKind says what a message is about. Its zero value is invalid.
type EventKind uint8

// The kinds (UFFD_EVENT_*). All but EventPageFault have to be asked for as features.
const (
	EventPageFault EventKind = 0x12 // a thread waits for the page at Addr
	EventFork      EventKind = 0x13 // the process forked; FD watches the child's memory and is the reader's to close
	EventRemap     EventKind = 0x14 // mremap moved Length bytes from From to To
	EventRemove    EventKind = 0x15 // madvise threw away the pages from Start to End, which stay registered
	EventUnmap     EventKind = 0x16 // the mapping from Start to End is gone
)

// Flags of a page fault (UFFD_PAGEFAULT_FLAG_*).
const (
	FaultWrite        = 1 << 0 // it was a write
	FaultWriteProtect = 1 << 1 // the page was write-protected
	FaultMinor        = 1 << 2 // the page is in the file behind the mapping
)

// Event is one message of a userfaultfd. Which fields mean something depends on Kind.
type Event struct {
	Kind EventKind
	// Addr, Flags and TID belong to EventPageFault. TID is 0 without FeatureThreadID; else the thread as its own
	// process namespace numbers it.
	Addr, Flags uint64
	TID         uint32
	// FD belongs to EventFork, and the reader owns it.
	FD int
	// From, To and Length belong to EventRemap.
	From, To, Length uint64
	// Start and End belong to EventRemove and EventUnmap; End is the first byte behind.
	Start, End uint64
}

// messageSize is that of struct uffd_msg.
const messageSize = 32

// decodeEvents reads the messages of one read(2) into out and tells how many there were. A part of a message, more
// messages than fit, or a kind that this package does not know are EPROTO: nothing may be guessed about memory.
func decodeEvents(b []byte, out []Event) (int, error) {
	if len(b)%messageSize != 0 || len(b)/messageSize > len(out) {
		return 0, syscall.EPROTO
	}
	n := 0
	for ; len(b) > 0; b = b[messageSize:] {
		e, ok := decodeEvent([messageSize]byte(b))
		if !ok {
			return n, syscall.EPROTO
		}
		out[n] = e
		n++
	}
	return n, nil
}

// decodeEvent reads one struct uffd_msg: the kind in the first byte, its argument from the eighth on.
func decodeEvent(m [messageSize]byte) (Event, bool) {
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(m[8+8*i:]) }
	e := Event{Kind: EventKind(m[0])}
	switch e.Kind {
	case EventPageFault:
		e.Flags, e.Addr, e.TID = word(0), word(1), binary.NativeEndian.Uint32(m[24:])
	case EventFork:
		e.FD = int(binary.NativeEndian.Uint32(m[8:]))
	case EventRemap:
		e.From, e.To, e.Length = word(0), word(1), word(2)
	case EventRemove, EventUnmap:
		e.Start, e.End = word(0), word(1)
	default:
		return Event{}, false
	}
	return e, true
}
