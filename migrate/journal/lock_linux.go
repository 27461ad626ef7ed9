package journal

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// errLocked: somebody else holds the lock.
var errLocked = errors.New("locked")

// lock is a file that is locked as long as this is open. The lock belongs to the open file (F_OFD_SETLK): it ends with
// the process, however that ends, and a look at it does not take it.
type lock struct {
	f *os.File
}

// take locks the file at path, creating it, and writes who holds it. It never waits. With errLocked it returns what the
// holder wrote.
func take(path, holder string) (*lock, string, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, "", err
		}
		lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
			who := readHolder(f)
			f.Close()
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
				return nil, who, errLocked
			}
			return nil, "", &os.PathError{Op: "lock", Path: path, Err: err}
		}
		if !stillThere(f, path) { // its last holder removed it meanwhile
			f.Close()
			continue
		}
		if err := errors.Join(f.Truncate(0), writeHolder(f, holder)); err != nil {
			f.Close()
			return nil, "", err
		}
		return &lock{f: f}, "", nil
	}
}

func writeHolder(f *os.File, holder string) error {
	_, err := f.WriteAt([]byte(holder+"\n"), 0)
	return err
}

func readHolder(f *os.File) string {
	b := make([]byte, 256)
	n, _ := f.ReadAt(b, 0)
	return strings.TrimSpace(string(b[:n]))
}

func stillThere(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// release removes the file and gives the lock free.
func (l *lock) release() error {
	return errors.Join(os.Remove(l.f.Name()), l.f.Close())
}

// held tells whether somebody holds the lock at path.
func held(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return false, &os.PathError{Op: "look at the lock", Path: path, Err: err}
	}
	return lk.Type != unix.F_UNLCK, nil
}
