package sys

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Waker ends a Wait from another goroutine. It owns an eventfd.
type Waker struct {
	mu sync.RWMutex // held for reading while fd is used
	fd int          // -1 once closed
}

// NewWaker opens the eventfd; Close gives it back.
func NewWaker() (*Waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &Waker{fd: fd}, nil
}

// FD is the descriptor, readable from Wake to Reset; -1 once closed.
func (w *Waker) FD() int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.fd
}

// Wake ends the Waits of all who wait now, and of all who start to wait before Reset. It never blocks.
func (w *Waker) Wake() error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	for {
		_, err := unix.Write(w.fd, one[:])
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN: // the counter is full: it is readable as it is
			return nil
		}
		return os.NewSyscallError("write eventfd", err)
	}
}

// Reset forgets all Wakes so far.
func (w *Waker) Reset() error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var count [8]byte
	for {
		_, err := unix.Read(w.fd, count[:])
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN: // nobody woke it
			return nil
		}
		return os.NewSyscallError("read eventfd", err)
	}
}

// Close gives the descriptor back; again is fine. Whoever waits has to be done before.
func (w *Waker) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return nil
	}
	err := unix.Close(w.fd)
	w.fd = -1
	return os.NewSyscallError("close eventfd", err)
}

// Wait sleeps in this very thread, as long as it takes, until one of the descriptors can be read or has an error or a
// hang-up to tell, and says which: bit i is fds[i]. When stop was woken, err is ErrWoken, and ready is still true. stop
// may be nil. At most 62 descriptors.
func Wait(stop *Waker, fds ...int) (ready int, err error) {
	var few [4]unix.PollFd
	polls := few[:0]
	for _, fd := range fds {
		polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	if stop != nil {
		polls = append(polls, unix.PollFd{Fd: int32(stop.FD()), Events: unix.POLLIN})
	}
	if len(fds) > 62 {
		return 0, os.NewSyscallError("poll", unix.EINVAL)
	}
	for {
		_, err := unix.Poll(polls, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("poll", err)
		}
		return polled(polls, len(fds))
	}
}

// polled reads the answer of poll: the first n descriptors are the caller's, one more the waker's.
func polled(polls []unix.PollFd, n int) (ready int, err error) {
	for i, p := range polls {
		switch {
		case p.Revents&unix.POLLNVAL != 0:
			return 0, os.NewSyscallError("poll", unix.EBADF)
		case p.Revents == 0:
		case i < n:
			ready |= 1 << i
		default:
			err = ErrWoken
		}
	}
	return ready, err
}
