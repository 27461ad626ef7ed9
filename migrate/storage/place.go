package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Place gives a staged image its name. It never takes the place of another file; one that is placed already is left so.
func Place(m Made) error {
	const op = "place"
	dir, err := m.open()
	if err != nil {
		return fail(op, m.Path, err)
	}
	defer func() { _ = dir.Close() }() // only read from
	name := filepath.Base(m.Path)
	if found, err := m.at(dir, m.Staged); err != nil || !found {
		if placed, perr := m.at(dir, name); err == nil && perr == nil && placed {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%s: %w", m.Staged, os.ErrNotExist)
		}
		return fail(op, m.Path, err)
	}
	fd := int(dir.Fd())
	err = unix.Renameat2(fd, m.Staged, fd, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		if err = unix.Linkat(fd, m.Staged, fd, name, 0); err == nil { // NFS has no renaming that replaces nothing
			err = unix.Unlinkat(fd, m.Staged, 0)
		}
	}
	if err == nil {
		err = dir.Sync()
	}
	return fail(op, m.Path, err)
}

// Remove removes what Stage made, placed or not, and tells whether there was anything. A file that is another is left and
// ErrForeign; one that is in use is left and ErrInUse.
func Remove(m Made) (bool, error) {
	const op = "remove"
	dir, err := m.open()
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // the folder is gone, and all that was in it
	}
	if err != nil {
		return false, fail(op, m.Path, err)
	}
	defer func() { _ = dir.Close() }() // only read from
	removed := false
	for _, name := range []string{m.Staged, filepath.Base(m.Path)} {
		if name != m.Staged && m.Inode == 0 {
			continue // of that name it is not known that it is ours
		}
		gone, err := m.removeAt(dir, name)
		removed = removed || gone
		if err != nil && !(errors.Is(err, ErrForeign) && removed) {
			return removed, fail(op, m.Path, err)
		}
	}
	return removed, nil
}

// open opens the folder of an image that was made.
func (m Made) open() (*os.File, error) {
	if err := checkPath(m.Path); err != nil {
		return nil, err
	}
	if !ourName.MatchString(m.Staged) {
		return nil, fmt.Errorf("%q is no name of ours: %w", m.Staged, ErrForeign)
	}
	return openFolder(m.Path)
}

// at tells whether the image has that name; ErrForeign if another file has it.
func (m Made) at(dir *os.File, name string) (bool, error) {
	now, err := statx(int(dir.Fd()), name, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err != nil:
		return false, err
	case m.Inode == 0 && name == m.Staged: // the name tells
		return true, nil
	case now.Inode != m.Inode, m.Born != 0 && now.Born != m.Born, m.Born == 0 && now.Device != m.Device:
		return false, ErrForeign
	}
	return true, nil
}

// removeAt removes the image if it has that name and nobody uses it.
func (m Made) removeAt(dir *os.File, name string) (bool, error) {
	if found, err := m.at(dir, name); err != nil || !found {
		return false, err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }() // only read from
	used, err := locked(f)
	if err == nil && used {
		err = ErrInUse
	}
	if err == nil {
		err = unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	return err == nil, err
}
