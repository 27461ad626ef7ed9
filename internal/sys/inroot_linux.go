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
	return FileInfo{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size,
		Device: uint64(st.Dev), Inode: st.Ino}, nil
}

// FilesystemInRoot names the type of the file system that holds path as stat(1) does (tmpfs, nfs, ext2/ext3), or by
// its magic number.
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
	return filesystemName(uint32(st.Type)), nil
}

// filesystemName knows the magic numbers of linux/magic.h, and of file systems kept elsewhere, that matter for guests.
func filesystemName(magic uint32) string {
	switch magic {
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.HUGETLBFS_MAGIC:
		return "hugetlbfs"
	case unix.EXT4_SUPER_MAGIC:
		return "ext2/ext3" // and ext4, which shares the number
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.CEPH_SUPER_MAGIC:
		return "ceph"
	case unix.CIFS_SUPER_MAGIC:
		return "cifs"
	case unix.SMB2_SUPER_MAGIC:
		return "smb2"
	case unix.OCFS2_SUPER_MAGIC:
		return "ocfs2"
	case 0x01161970:
		return "gfs/gfs2"
	case 0x0bd00bd0:
		return "lustre"
	case 0x2fc12fc1:
		return "zfs"
	}
	return fmt.Sprintf("type %#x", magic)
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
