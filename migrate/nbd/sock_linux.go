package nbd

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// unixBuffer is what a unix socket's send buffer is asked to hold: its default makes two processes take turns too often.
const unixBuffer = 1 << 20

// tuneSocket lets the kernel notice within patience that a TCP peer is gone, and gives unix sockets room. All of it only
// helps, so that what fails is let be. TCP's buffers are left to the kernel, which knows the path.
func tuneSocket(conn net.Conn, patience time.Duration) {
	switch c := bareConn(conn).(type) {
	case *net.TCPConn:
		_ = c.SetNoDelay(true)
		second := max(time.Second, (patience / 4).Round(time.Second))
		_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: second, Interval: second, Count: 4})
		control(c, func(fd int) {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
		})
	case *sys.ThreadConn:
		_ = c.Control(func(fd int) {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
		})
	case *net.UnixConn:
		control(c, func(fd int) {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, unixBuffer) != nil {
				_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, unixBuffer)
			}
		})
	}
}

// acked is how many bytes the peer of a TCP connection has acknowledged, or 0 where that is not known.
func acked(conn net.Conn) (n uint64) {
	look := func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Bytes_acked
		}
	}
	switch c := bareConn(conn).(type) {
	case *net.TCPConn:
		control(c, look)
	case *sys.ThreadConn:
		_ = c.Control(look)
	}
	return n
}

func control(c syscall.Conn, f func(fd int)) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
