package disks

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// rawTarget is a file or a block device that holds what the guest sees.
type rawTarget struct {
	*nbd.File
	f *os.File
}

func openRaw(path string) (t target, size int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	r := &rawTarget{f: f}
	if err = lockWriting(f); err == nil {
		r.File, err = nbd.NewFile(f, nbd.FileOptions{})
	}
	if err == nil {
		size, err = r.Size()
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return r, size, nil
}

// The bytes of a file on which QEMU holds its locks (block/file-posix.c): from the first on those of the permissions that it
// uses, from the second on those that it does not share; and the numbers of two permissions.
const (
	usedLocks     = 100
	unsharedLocks = 200
	writeLock     = 1
	resizeLock    = 3
)

// lockWriting takes QEMU's locks of one who writes and lets nobody else write. They go with the file.
func lockWriting(f *os.File) error {
	for _, at := range []int64{usedLocks + writeLock, unsharedLocks + writeLock, unsharedLocks + resizeLock} {
		l := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: at, Len: 1}
		switch err := lockBytes(f, unix.F_OFD_SETLK, &l); {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EOPNOTSUPP):
			return nil // such a file system knows no locks, and QEMU does without
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return fmt.Errorf("%s: %w", f.Name(), storage.ErrInUse)
		case err != nil:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
	// As QEMU does: all take theirs, and then look for those of others.
	for _, at := range []int64{usedLocks + writeLock, unsharedLocks + writeLock} {
		l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: at, Len: 1}
		if err := lockBytes(f, unix.F_OFD_GETLK, &l); err != nil {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if l.Type != unix.F_UNLCK {
			return fmt.Errorf("%s: %w", f.Name(), storage.ErrInUse)
		}
	}
	return nil
}

func lockBytes(f *os.File, cmd int, l *unix.Flock_t) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.FcntlFlock(fd, cmd, l) })
	return errors.Join(err, failed)
}

func (r *rawTarget) write(_ context.Context, p []byte, off int64) error {
	_, err := r.WriteAt(p, off)
	return err
}

func (r *rawTarget) zero(ctx context.Context, off, length int64) error {
	err := r.WriteZeroes(ctx, off, length, true)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for end := off + length; off < end; { // where holes cannot be made
		n := min(end-off, unitSize)
		if err := r.write(ctx, zeroUnit[:n], off); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func (r *rawTarget) flush(context.Context) error { return r.Sync() }

func (r *rawTarget) close(context.Context) error { return errors.Join(r.File.Close(), r.f.Close()) }
