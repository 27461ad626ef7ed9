package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

var (
	_ migrate.Monitored = (*Host)(nil)
	_ migrate.Located   = (*Host)(nil)
)

// Monitor gives this driver's own QMP connection. It is the Host's: it ends with it. QEMU answers there also while it waits
// for a guest.
func (h *Host) Monitor(_ context.Context, name string) (qmp.Executor, error) {
	if err := h.find(name, ""); err != nil {
		return nil, err
	}
	return h.c, nil
}

// Place is this machine, in the namespaces of the QEMU itself. It fails where the QEMU is out of our sight, as in another
// process namespace.
func (h *Host) Place(ctx context.Context) (migrate.Place, error) {
	const op = "find QEMU's process"
	if err := h.find("", ""); err != nil {
		return migrate.Place{}, err
	}
	if err := h.c.Err(); err != nil {
		return migrate.Place{}, fail(op, "", h.c.lost(err), "")
	}
	pid := h.pid
	if pid == 0 { // the client was handed in
		conn, seen, err := dialSocket(ctx, h.addr.socket)
		if err != nil {
			return migrate.Place{}, fail(op, "", err, "")
		}
		_ = conn.Close() // nothing was written; a QEMU that is busy with its client does not notice
		pid = seen
	}
	if pid, ok := qemuProcess(pid, h.addr.socket); ok {
		return migrate.Place{Local: true, PID: pid, SocketDir: filepath.Dir(h.addr.socket)}, nil
	}
	return migrate.Place{}, fail(op, "", fmt.Errorf("the process behind %s cannot be seen from here: %w", h.addr.socket, migrate.ErrNotSupported),
		"run vmmigrate on the host itself, outside of containers")
}

// dialSocket connects to a unix socket and tells which process has it; 0 if that is out of our sight.
func dialSocket(ctx context.Context, path string) (net.Conn, int, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, 0, err
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		_ = conn.Close() // it is of no use
		return nil, 0, errors.New("not a socket")
	}
	peer, err := sys.PeerOf(c)
	if err != nil && !errors.Is(err, sys.ErrNotLinux) {
		_ = conn.Close() // it is of no use
		return nil, 0, err
	}
	return conn, peer.PID, nil
}

// qemuProcess is pid if that is a QEMU. A service manager may have made the socket and handed it over; the QEMU is then the
// process that was started with its path.
func qemuProcess(pid int, socket string) (int, bool) {
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err == nil && isQEMU(args) {
		return pid, true
	}
	pids, err := usersOf(socket)
	if err != nil || len(pids) != 1 {
		return 0, false
	}
	return pids[0], true
}
