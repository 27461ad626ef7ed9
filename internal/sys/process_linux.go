package sys

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Process is a process that is told from every other that gets its number later. It owns a pidfd.
type Process struct {
	pid int
	mu  sync.RWMutex // held for reading while fd is used
	fd  int          // -1 once closed
}

// OpenProcess holds on to the process that has the number now. ESRCH: there is none.
func OpenProcess(pid int) (*Process, error) {
	fd, err := openPidfd(pid)
	if err != nil {
		return nil, err
	}
	return &Process{pid: pid, fd: fd}, nil
}

// PID is the process's number, which is another's some time after it has ended.
func (p *Process) PID() int { return p.pid }

// Alive tells whether the process has not ended. What was looked up by its number before belongs to it then. One that has
// ended and that its parent has not heard of has ended. After Close it is false.
func (p *Process) Alive() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return false
	}
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n == 0
		}
	}
}

// Close gives the pidfd back; again is fine.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	err := unix.Close(p.fd)
	p.fd = -1
	return os.NewSyscallError("close pidfd", err)
}
