package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenInRoot opens path for reading as a process whose root directory is root (such as /proc/PID/root) would: symbolic
// links, absolute ones too, lead nowhere else. It does not wait for a writer if path is a FIFO. The caller closes.
// Errors are *os.PathError.
func OpenInRoot(root, path string) (*os.File, error) {
	fd, err := openIn(root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// StatInRoot tells of the file at path, as seen from root. It follows links and opens nothing.
func StatInRoot(root, path string) (FileInfo, error) {
	fd, err := openIn(root, path, unix.O_PATH)
	if err != nil {
		return FileInfo{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // a path descriptor holds nothing
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return FileInfo{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return FileInfo{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size}, nil
}

// FilesystemInRoot names the type of the file system that holds path, in the words of stat(1): tmpfs, hugetlbfs, or
// the magic number for others.
func FilesystemInRoot(root, path string) (string, error) {
	fd, err := openIn(root, path, unix.O_PATH)
	if err != nil {
		return "", &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // a path descriptor holds nothing
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return "", &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	switch st.Type {
	case unix.TMPFS_MAGIC:
		return "tmpfs", nil
	case unix.HUGETLBFS_MAGIC:
		return "hugetlbfs", nil
	}
	return fmt.Sprintf("type %#x", st.Type), nil
}

// openIn returns a descriptor that the caller closes.
func openIn(root, path string, flags int) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(dir) }() // a path descriptor holds nothing
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		// EAGAIN: something was renamed while the path was walked.
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return fd, err
	}
}
