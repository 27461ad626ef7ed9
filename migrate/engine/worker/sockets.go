package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// ourSockets match the sockets that migrations by agents make beside those of libvirt: QEMU's streams and its second
// monitor.
func ourSockets() []string {
	return []string{"vmmigrate-*.in", "vmmigrate-*.out", "vmmigrate-*.qmp", "vmmigrate-*.live", "vmmigrate-*.mir", "vmmigrate-*.nbd"}
}

// sweepSockets removes from the folder of a stream's socket those of earlier migrations that nobody listens on: a QEMU or an
// agent that was killed leaves them. It looks only where the QEMU's sockets are to be seen, in our own network namespace.
func sweepSockets(stream string, pid int) error {
	if stream == "" {
		return nil
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil || theirs != ours {
		return err
	}
	var found []string
	for _, pattern := range ourSockets() {
		match, err := filepath.Glob(filepath.Join(filepath.Dir(stream), pattern))
		if err != nil {
			return err
		}
		found = append(found, match...)
	}
	if len(found) == 0 {
		return nil
	}
	bound, err := boundSockets() // after the looking: what is made meanwhile is not among those found
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range found {
		if !bound[path] {
			errs = append(errs, removeSocket(path))
		}
	}
	return errors.Join(errs...)
}

// boundSockets are the paths that unix sockets are bound to.
func boundSockets() (map[string]bool, error) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	bound := map[string]bool{}
	sc := bufio.NewScanner(f)
	for sc.Scan() { // Num RefCount Protocol Flags Type St Inode Path
		if at := strings.IndexByte(sc.Text(), '/'); at >= 0 {
			bound[sc.Text()[at:]] = true
		}
	}
	return bound, sc.Err()
}

// removeSocket removes a socket, if it is one and still there.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// errStranger: device state is the guest's secrets, and whoever sends it can make of the guest what he likes.
var errStranger = errors.New("it is neither the guest's QEMU nor the superuser's")

// trusted tells whether the other end of a unix socket is the guest's QEMU, or its manager, which hands QEMU connections that it
// makes itself. The socket's own mode depends on our umask and on the folder that it is in.
func trusted(c net.Conn, qemu int) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil // a test's
	}
	peer, err := sys.PeerOf(u)
	if err != nil {
		return err
	}
	if peer.PID == qemu || peer.UID == 0 || int(peer.UID) == os.Geteuid() {
		return nil
	}
	return fmt.Errorf("process %d of user %d: %w", peer.PID, peer.UID, errStranger)
}

// acceptFrom takes the first connection that is trusted.
func acceptFrom(l net.Listener, qemu int, log *slog.Logger) (net.Conn, error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return nil, err
		}
		if err = trusted(c, qemu); err == nil {
			return c, nil
		}
		log.Warn("somebody else connects as QEMU", "err", err)
		_ = c.Close() // it is refused
	}
}
