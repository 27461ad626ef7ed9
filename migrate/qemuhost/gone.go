package qemuhost

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// processGone tells for certain that the QEMU behind a lost connection has ended. Anything else counts as alive.
func (h *Host) processGone(ctx context.Context) bool {
	if h.isGone() {
		return true
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", h.addr.socket)
	if err == nil {
		_ = c.Close() // it was opened to see that somebody listens
		return false
	}
	return nobody(h.addr.socket, err)
}

// nobody tells from the error of dialling a unix socket that there is no process behind it. A socket file may have been
// removed under a QEMU that lives, so the processes of this machine are asked too.
func nobody(socket string, err error) bool {
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return !inUse(socket)
}

// inUse tells whether a process was started with a socket's path in its arguments. Where that cannot be found out, it
// counts as in use.
func inUse(socket string) bool {
	pids, err := usersOf(socket)
	return err != nil || len(pids) > 0
}

// usersOf lists the QEMUs that were started with a socket's path in their arguments.
func usersOf(socket string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && isQEMU(args) && bytes.Contains(args, []byte(socket)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// isQEMU tells whether a process's arguments begin with the name of a QEMU. Others may name the socket too, such as the
// command that is looking for it.
func isQEMU(cmdline []byte) bool {
	name, _, _ := bytes.Cut(cmdline, []byte{0})
	base := filepath.Base(string(name))
	return bytes.HasPrefix([]byte(base), []byte("qemu")) || base == "kvm"
}
