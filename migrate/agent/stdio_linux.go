package agent

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Stdio takes standard input and output over as a connection, for ServeConn. Afterwards both are /dev/null, so that
// nothing else can write into the connection, and that it ends when the connection is closed. It needs pipes or sockets.
func Stdio() (net.Conn, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("take over standard input and output: %w", err)
	}
	defer null.Close()
	var files [2]*os.File
	for fd := range files {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			err = unix.SetNonblock(own, true)
		}
		if err == nil {
			err = unix.Dup3(int(null.Fd()), fd, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("take over standard input and output: %w", err)
		}
		files[fd] = os.NewFile(uintptr(own), "stdio")
	}
	return &pipeConn{in: files[0], out: files[1]}, nil
}
