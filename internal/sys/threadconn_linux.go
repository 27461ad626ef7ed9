package sys

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ThreadConn is a TCP connection that waits in poll(2), in the thread of whoever reads or writes, and not in the runtime's
// poller: what comes is taken up by the thread that waits for it, and by no other before. Busy neighbours do not delay it,
// and there is a descriptor to wait for together with others. Each wait takes a thread.
//
// One goroutine reads and one writes at a time; all else may be called by any.
type ThreadConn struct {
	mu            sync.RWMutex // held for reading while fd is used
	fd            int          // -1 once closed
	closing       atomic.Bool
	local, remote net.Addr
	in, out       direction
	try           atomic.Bool
}

var _ net.Conn = (*ThreadConn)(nil)

// direction is what reads, or writes, wait for besides the socket.
type direction struct {
	waker    *Waker       // a new deadline
	deadline atomic.Int64 // in ns since 1970; 0 is none
}

// TakeConn takes a connection from the runtime's poller. Nobody may use c any more, whatever the answer.
func TakeConn(c *net.TCPConn) (*ThreadConn, error) {
	t := &ThreadConn{fd: -1, local: c.LocalAddr(), remote: c.RemoteAddr()}
	raw, err := c.SyscallConn()
	if err == nil {
		var dup error
		err = raw.Control(func(fd uintptr) { t.fd, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
		if err == nil && dup != nil {
			t.fd, err = -1, os.NewSyscallError("fcntl", dup)
		}
	}
	if err == nil {
		t.in.waker, err = NewWaker()
	}
	if err == nil {
		t.out.waker, err = NewWaker()
	}
	if closed := c.Close(); err == nil { // it stays open by the other descriptor
		err = closed
	}
	if err != nil {
		t.free()
		return nil, err
	}
	return t, nil
}

// FD is the descriptor, for Wait; -1 once closed.
func (t *ThreadConn) FD() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.fd
}

// Try has reads that find nothing fail with ErrNotYet, or has them wait again.
func (t *ThreadConn) Try(on bool) { t.try.Store(on) }

// Control runs f with the descriptor, unless the connection is closed.
func (t *ThreadConn) Control(f func(fd int)) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.fd < 0 {
		return net.ErrClosed
	}
	f(t.fd)
	return nil
}

// Read implements net.Conn.
func (t *ThreadConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for {
		if err := t.ready(&t.in, unix.POLLIN); err != nil {
			return 0, t.explain("read", err)
		}
		n, err := unix.Read(t.fd, p)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN && !t.try.Load():
		case err == unix.EAGAIN:
			return 0, ErrNotYet
		case err != nil:
			return 0, t.explain("read", os.NewSyscallError("read", err))
		case n == 0 && t.closing.Load():
			return 0, t.explain("read", net.ErrClosed)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write implements net.Conn.
func (t *ThreadConn) Write(p []byte) (n int, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for n < len(p) {
		if _, err := t.left(&t.out); err != nil {
			return n, t.explain("write", err)
		}
		m, err := unix.SendmsgN(t.fd, p[n:], nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		n += max(m, 0)
		switch err {
		case nil, unix.EINTR:
			continue
		case unix.EAGAIN:
			err = t.ready(&t.out, unix.POLLOUT)
		default:
			err = os.NewSyscallError("write", err)
		}
		if err != nil {
			return n, t.explain("write", err)
		}
	}
	return n, nil
}

// left is how long may be waited; below zero is without an end.
func (t *ThreadConn) left(d *direction) (time.Duration, error) {
	if t.closing.Load() {
		return 0, net.ErrClosed
	}
	at := d.deadline.Load()
	if at == 0 {
		return -1, nil
	}
	wait := time.Until(time.Unix(0, at))
	if wait <= 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return wait, nil
}

// ready waits until the socket may be read from or written to, unless it is to be tried. The caller holds mu for reading.
func (t *ThreadConn) ready(d *direction, events int16) error {
	for {
		wait, err := t.left(d)
		if err != nil {
			return err
		}
		if events == unix.POLLIN && t.try.Load() {
			return nil
		}
		fds := [...]unix.PollFd{{Fd: int32(t.fd), Events: events}, {Fd: int32(d.waker.FD()), Events: unix.POLLIN}}
		n, err := unix.Ppoll(fds[:], timespec(wait), nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("ppoll", err)
		case n > 0 && fds[1].Revents != 0:
			if err := d.waker.Reset(); err != nil {
				return err
			}
		case n > 0:
			return nil
		}
	}
}

// timespec is nil for a wait without an end.
func timespec(d time.Duration) *unix.Timespec {
	if d < 0 {
		return nil
	}
	ts := unix.NsecToTimespec(d.Nanoseconds())
	return &ts
}

func (t *ThreadConn) explain(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: t.local, Addr: t.remote, Err: err}
}

// Close implements net.Conn. Who waits is woken.
func (t *ThreadConn) Close() error {
	if t.closing.Swap(true) {
		return t.explain("close", net.ErrClosed)
	}
	t.mu.RLock()
	_ = unix.Shutdown(t.fd, unix.SHUT_RDWR) // it may be shut already
	err := errors.Join(t.in.waker.Wake(), t.out.waker.Wake())
	t.mu.RUnlock()
	return errors.Join(err, t.free())
}

// free waits for who reads and writes, and gives all descriptors back.
func (t *ThreadConn) free() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, w := range []*Waker{t.in.waker, t.out.waker} {
		if w != nil {
			errs = append(errs, w.Close())
		}
	}
	if t.fd >= 0 {
		errs = append(errs, os.NewSyscallError("close", unix.Close(t.fd)))
	}
	t.fd = -1
	return errors.Join(errs...)
}

// CloseWrite says that nothing more will be sent.
func (t *ThreadConn) CloseWrite() error {
	var err error
	if closed := t.Control(func(fd int) { err = os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR)) }); closed != nil {
		return closed
	}
	return err
}

// LocalAddr implements net.Conn.
func (t *ThreadConn) LocalAddr() net.Addr { return t.local }

// RemoteAddr implements net.Conn.
func (t *ThreadConn) RemoteAddr() net.Addr { return t.remote }

// SetDeadline implements net.Conn.
func (t *ThreadConn) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

// SetReadDeadline implements net.Conn.
func (t *ThreadConn) SetReadDeadline(at time.Time) error { return t.setDeadline(&t.in, at) }

// SetWriteDeadline implements net.Conn.
func (t *ThreadConn) SetWriteDeadline(at time.Time) error { return t.setDeadline(&t.out, at) }

func (t *ThreadConn) setDeadline(d *direction, at time.Time) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.fd < 0 || t.closing.Load() {
		return t.explain("set deadline", net.ErrClosed)
	}
	ns := int64(0)
	if !at.IsZero() {
		ns = max(1, at.UnixNano())
	}
	d.deadline.Store(ns)
	return d.waker.Wake()
}
