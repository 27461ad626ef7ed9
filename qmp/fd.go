package qmp

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rightsWriter is what a connection must offer to carry descriptors. A
// *net.UnixConn does.
type rightsWriter interface {
	WriteMsgUnix(b, oob []byte, addr *net.UnixAddr) (n, oobn int, err error)
}

// sendWithFile writes msg and attaches file to its first byte. Sent reports
// whether any of it reached the wire. The file keeps its blocking mode, which
// Fd would change for everyone who shares it.
func sendWithFile(conn net.Conn, msg []byte, file *os.File) (sent bool, err error) {
	w, ok := conn.(rightsWriter)
	if !ok {
		return false, ErrNoDescriptors
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return false, err
	}
	var n int
	var werr error
	if err := raw.Control(func(fd uintptr) {
		n, _, werr = w.WriteMsgUnix(msg, syscall.UnixRights(int(fd)), nil)
	}); err != nil {
		return false, err
	}
	if werr != nil {
		return n > 0, werr
	}
	if n < len(msg) {
		return true, writeAll(conn, msg[n:])
	}
	return true, nil
}

// writeAll writes b, whose beginning is already on the wire.
func writeAll(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}
