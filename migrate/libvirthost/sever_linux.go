package libvirthost

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

var _ migrate.Severer = (*Host)(nil)

// libvirt's range for migration and disk ports at a destination, if qemu.conf does not name another.
const portLow, portHigh = 49152, 49215

// Sever closes, on this host, the TCP connections over which the guest's QEMU sends RAM and disks: those to the ticket's
// port and to libvirt's migration ports. It helps where the link is dead and QEMU waits for TCP, which can be for a
// quarter of an hour, in its main loop even, so that libvirt cannot cancel. It needs the daemon on this machine and root;
// elsewhere it is ErrNotSupported.
func (h *Host) Sever(ctx context.Context, name string, t migrate.Ticket) error {
	const op = "break the connections of the migration"
	pid, err := h.daemonPID()
	if err == nil {
		err = severIn(ctx, pid, name, ticketPort(t))
	}
	return migrate.Fail(op, migrate.SideSource, err, "")
}

// daemonPID is the process at the other end of the daemon's socket.
func (h *Host) daemonPID() (int, error) {
	c, ok := h.c.w.Conn.(syscall.Conn)
	if !ok || !h.t.local() {
		return 0, fmt.Errorf("the daemon is on another machine: %w", migrate.ErrNotSupported)
	}
	peer, err := sys.PeerOf(c)
	if err == nil && peer.PID == 0 {
		err = fmt.Errorf("the daemon's process is not visible: %w", migrate.ErrNotSupported)
	}
	return peer.PID, err
}

// ticketPort is the port of a migration URI; 0 if it has none.
func ticketPort(t migrate.Ticket) uint16 {
	u, err := url.Parse(t.URI)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

func severIn(ctx context.Context, daemon int, name string, port uint16) error {
	qemu, err := qemuOf(daemon, name)
	if err != nil {
		return err
	}
	conns, err := connectionsOf(qemu)
	if err != nil {
		return err
	}
	var errs []error
	inside := sys.InNetns(fmt.Sprintf("/proc/%d/ns/net", qemu), func() {
		for _, c := range conns {
			p := uint16(c.remote.Port)
			if ctx.Err() != nil || p != port && (p < portLow || p > portHigh) {
				continue
			}
			if err := netlink.SocketDestroy(c.local, c.remote); err != nil && !errors.Is(err, syscall.ENOENT) {
				errs = append(errs, fmt.Errorf("%v: %w", c.remote, err))
			}
		}
	})
	return errors.Join(append(errs, inside, ctx.Err())...)
}

// qemuOf finds the QEMU of that guest in the daemon's network namespace: two daemons may have guests of one name.
func qemuOf(daemon int, name string) (int, error) {
	where, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", daemon))
	if err != nil {
		return 0, err
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, p := range procs {
		cmdline, err := os.ReadFile(p + "/cmdline")
		if err != nil || !runsGuest(string(cmdline), name) {
			continue
		}
		if ns, err := os.Readlink(p + "/ns/net"); err == nil && ns == where {
			return strconv.Atoi(filepath.Base(p))
		}
	}
	return 0, fmt.Errorf("no QEMU of guest %s: %w", name, migrate.ErrNoDomain)
}

// runsGuest tells whether a command line, NUL-separated, is that of libvirt's QEMU for the guest.
func runsGuest(cmdline, name string) bool {
	args := strings.Split(cmdline, "\x00")
	i := slices.Index(args, "-name")
	return i >= 0 && i+1 < len(args) && strings.HasPrefix(args[i+1]+",", "guest="+strings.ReplaceAll(name, ",", ",,")+",")
}

// connection is one TCP connection of a process.
type connection struct{ local, remote *net.TCPAddr }

// connectionsOf lists the established TCP connections of a process.
func connectionsOf(pid int) ([]connection, error) {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return nil, err
	}
	mine := map[string]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				mine[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	var all []connection
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := parseTCP(f, mine)
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// established is the state's code in /proc/net/tcp.
const established = "01"

// parseTCP reads /proc/net/tcp or tcp6 and keeps the established connections whose inode is in mine.
func parseTCP(r io.Reader, mine map[string]bool) ([]connection, error) {
	var out []connection
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 || f[3] != established || !mine[f[9]] {
			continue
		}
		local, err1 := parseAddr(f[1])
		remote, err2 := parseAddr(f[2])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		out = append(out, connection{local, remote})
	}
	return out, sc.Err()
}

// parseAddr reads ADDRESS:PORT in hexadecimal; the address is made of 32-bit words in the machine's order, which is
// little-endian on all that QEMU/KVM hosts commonly are.
func parseAddr(s string) (*net.TCPAddr, error) {
	addr, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	p, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(b) != net.IPv4len && len(b) != net.IPv6len {
		return nil, fmt.Errorf("%q is no address of /proc/net/tcp", s)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	return &net.TCPAddr{IP: b, Port: int(p)}, nil
}
