package disks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// The bytes of a file on which QEMU holds its locks (block/file-posix.c): one for each permission that it uses from the first
// on, and one for each that it does not share from the second on.
const (
	lockUsed     = 100
	lockUnshared = 200
)

// The permissions that concern us, as those bytes are numbered.
const (
	permRead   = 0
	permWrite  = 1
	permResize = 3
)

// imageLock holds, as QEMU would, that an image is read and that nobody else may write to it.
type imageLock struct{ f *os.File }

// lockImage takes it. Somebody who has the image open for writing has a while to let go of it.
func lockImage(ctx context.Context, path string, patience time.Duration) (*imageLock, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	k := &imageLock{f}
	for until := time.Now().Add(patience); ; {
		busy, err := k.take()
		switch {
		case err != nil:
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), k.release())
		case !busy:
			return k, nil
		case time.Now().After(until):
			return nil, errors.Join(fmt.Errorf("%w: somebody still has %s open for writing", migrate.ErrBusy, path), k.release())
		}
		if err := k.free(); err != nil { // it may be opened for writing again, by who has to
			return nil, errors.Join(err, k.release())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), k.release())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// take locks first and looks then, as QEMU does: of two who do so one at least sees the other.
func (k *imageLock) take() (busy bool, err error) {
	for _, at := range []int64{lockUsed + permRead, lockUnshared + permWrite, lockUnshared + permResize} {
		l := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: at, Len: 1}
		switch err := k.lock(unix.F_OFD_SETLK, &l); {
		case unlockable(err):
			return false, nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return true, nil
		case err != nil:
			return false, err
		}
	}
	for _, at := range []int64{lockUnshared + permRead, lockUsed + permWrite, lockUsed + permResize} {
		l := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: at, Len: 1}
		if err := k.lock(unix.F_OFD_GETLK, &l); err != nil || l.Type != unix.F_UNLCK {
			return err == nil, err
		}
	}
	return false, nil
}

func (k *imageLock) free() error {
	l := unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET, Start: lockUsed, Len: 2 * (lockUnshared - lockUsed)}
	return k.lock(unix.F_OFD_SETLK, &l)
}

func (k *imageLock) lock(cmd int, l *unix.Flock_t) error {
	raw, err := k.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.FcntlFlock(fd, cmd, l) }); err != nil {
		return err
	}
	return failed
}

// unlockable is whether a file system knows no locks: QEMU does without, there.
func unlockable(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EOPNOTSUPP)
}

func (k *imageLock) release() error { return k.f.Close() }
