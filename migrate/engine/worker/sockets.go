package worker

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ourSockets match the sockets that migrations by agents make beside those of libvirt: QEMU's streams and its second
// monitor.
func ourSockets() []string {
	return []string{"vmmigrate-*.in", "vmmigrate-*.out", "vmmigrate-*.qmp"}
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
