package sys

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Copy places the pages of src at dst, each in one step as far as the watched process can tell, and, if wake is set,
// lets those go on that wait for them. n is how many bytes were placed before err. Both dst and len(src) are multiples
// of the page size of the mapping. src must not lie in watched memory.
//
// EEXIST: the page at dst+n is there already, and stays as it is; EAGAIN: the mapping is changing, so read the events
// and call again; ENOENT: dst+n is not registered; ESRCH: the process is gone; ENOSPC, ENOMEM: no memory, or no huge
// page. A page that is there in the middle of src shows as EEXIST too, with the pages before it placed: the kernel's own
// answer, EAGAIN for all reasons alike, is asked again here.
func (u *UserFault) Copy(dst uint64, src []byte, wake bool) (n int, err error) {
	if len(src) == 0 {
		return 0, nil
	}
	var pin runtime.Pinner
	pin.Pin(&src[0])
	defer pin.Unpin()
	return pushOn(len(src), func(at int) (int64, error) {
		arg := uffdCopyArg{dst: dst + uint64(at), src: uint64(uintptr(unsafe.Pointer(&src[at]))),
			len: uint64(len(src) - at), mode: dontWake(wake)}
		err := u.ioctl("UFFDIO_COPY", uffdioCopy, unsafe.Pointer(&arg))
		return arg.copied, err
	})
}

// ZeroPage places pages of zeros, as Copy places pages. It is EINVAL on hugetlbfs: copy zeros there.
func (u *UserFault) ZeroPage(start, length uint64, wake bool) (n int, err error) {
	return u.fill("UFFDIO_ZEROPAGE", uffdioZeropage, start, length, wake)
}

// Continue maps the pages that the file behind the mapping holds, as Copy places pages. EFAULT: the file holds no page
// at start+n; EEXIST: it is mapped already.
func (u *UserFault) Continue(start, length uint64, wake bool) (n int, err error) {
	return u.fill("UFFDIO_CONTINUE", uffdioContinue, start, length, wake)
}

// Poison marks pages as broken: who touches them gets SIGBUS, as if the memory had failed. Errors are those of Copy.
func (u *UserFault) Poison(start, length uint64) (n int, err error) {
	return u.fill("UFFDIO_POISON", uffdioPoison, start, length, true)
}

func (u *UserFault) fill(op string, request uintptr, start, length uint64, wake bool) (int, error) {
	return pushOn(int(length), func(at int) (int64, error) {
		arg := uffdFillArg{start: start + uint64(at), len: length - uint64(at), mode: dontWake(wake)}
		err := u.ioctl(op, request, unsafe.Pointer(&arg))
		return arg.done, err
	})
}

func dontWake(wake bool) uint64 {
	if wake {
		return 0
	}
	return modeDontWake
}

// pushOn repeats a call that tells how far it came until it does all, or nothing: only then does its error say why.
func pushOn(length int, call func(at int) (done int64, err error)) (n int, err error) {
	for n < length {
		done, err := call(n)
		n += max(int(done), 0)
		if err != nil && (done <= 0 || !errors.Is(err, unix.EAGAIN)) {
			return n, err
		}
		if err == nil && done <= 0 {
			return n, os.NewSyscallError("userfaultfd", unix.EPROTO) // neither progress nor error: do not spin
		}
	}
	return n, nil
}

// eventsPerRead bounds the messages of one read(2), which go through the stack.
const eventsPerRead = 64

// Read takes waiting messages, 64 at most, with one read(2) and tells how many. EAGAIN: there are none; EINVAL: the
// conversation was not opened by API.
func (u *UserFault) Read(events []Event) (n int, err error) {
	var buf [eventsPerRead * messageSize]byte
	want := min(len(events), eventsPerRead) * messageSize
	u.mu.RLock()
	defer u.mu.RUnlock()
	for {
		got, err := unix.Read(u.fd, buf[:want])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("read userfaultfd", err)
		}
		n, err := decodeEvents(buf[:got], events)
		return n, os.NewSyscallError("read userfaultfd", err)
	}
}
