package sys

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Maps lists the mappings of a process, lowest address first. It needs what ptrace needs; a process that is gone is
// fs.ErrNotExist, or has none.
func Maps(pid int) ([]Map, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	return parseMaps(text)
}

// OpenMapped opens the file that a process has mapped at addr, for reading or also for writing, and says which of its
// bytes lies there. The caller closes it. It finds files that have no name any more, such as a memfd. Memory without a
// file, or no memory at all, is ENOENT (fs.ErrNotExist).
func OpenMapped(pid int, addr uint64, write bool) (f *os.File, offset int64, err error) {
	maps, err := Maps(pid)
	if err != nil {
		return nil, 0, err
	}
	for _, m := range maps {
		if addr < m.Start || addr >= m.End {
			continue
		}
		f, err := openMap(pid, m, write)
		return f, int64(m.Offset + addr - m.Start), err
	}
	return nil, 0, noFileAt(pid, addr)
}

func noFileAt(pid int, addr uint64) error {
	return &os.PathError{Op: "open", Path: fmt.Sprintf("the file mapped at %#x by process %d", addr, pid), Err: unix.ENOENT}
}

// openMap tries the link of the mapping itself, for which the kernel wants CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and
// then the descriptors that the process still has.
func openMap(pid int, m Map, write bool) (*os.File, error) {
	if m.Inode == 0 {
		return nil, noFileAt(pid, m.Start)
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := openSame(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End), flags, m)
	if err == nil {
		return f, nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, dirErr := os.ReadDir(dir)
	if dirErr != nil {
		return nil, err
	}
	for _, fd := range fds {
		if f, fdErr := openSame(dir+"/"+fd.Name(), flags, m); fdErr == nil {
			return f, nil
		}
	}
	return nil, err
}

// openSame opens path if it leads to the file of the mapping. It looks before it opens, since the other descriptors of
// the process may be devices that act when they are opened.
func openSame(path string, flags int, m Map) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Ino != m.Inode || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	f, err := os.OpenFile(path, flags|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !sameFile(info, m) {
		err = &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	if err != nil {
		_ = f.Close() // it is not the one
		return nil, err
	}
	return f, nil
}

// sameFile compares the inode, and the device where both use the same number for it (btrfs and overlayfs do not).
func sameFile(info os.FileInfo, m Map) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Ino == m.Inode
}
