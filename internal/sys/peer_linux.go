package sys

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// PeerOf tells which process is at the other end of a connected unix socket. For a server that a service manager
// listens for, it is the service manager.
func PeerOf(c syscall.Conn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("ask for the peer of a unix socket: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, fmt.Errorf("ask for the peer of a unix socket: %w", err)
	}
	if credErr != nil {
		return Peer{}, fmt.Errorf("ask for the peer of a unix socket: %w", credErr)
	}
	return Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, nil
}
