package storage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// The bytes of a file on which QEMU holds its locks (block/file-posix.c): one for each permission that it uses from the first
// on, and one for each that it does not share from the second on.
const (
	lockUsed     = 100
	lockUnshared = 200
	lockKinds    = 100
)

// inUse tells whether somebody holds one of QEMU's locks on the file. It takes none.
func inUse(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	return locked(f)
}

func locked(f *os.File) (bool, error) {
	for _, at := range []int64{lockUsed, lockUnshared} {
		l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: at, Len: lockKinds}
		switch err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP):
			return false, nil // such a file system knows no locks, and QEMU does without
		case err != nil:
			return false, err
		case l.Type != unix.F_UNLCK:
			return true, nil
		}
	}
	return false, nil
}
