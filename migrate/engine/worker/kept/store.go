package kept

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Store is a folder with copies. The zero value of all but Dir is fine.
type Store struct {
	// Dir is made when the first copy is.
	Dir string
	// Limit bounds the bytes that all copies together take; 0 is no limit but the file system's.
	Limit int64

	// For tests: how much room there is, nil asks the file system; and whether what was written need not be on the disk.
	space    func(*os.Root) (free, size int64, err error)
	unsynced bool
}

const (
	newPrefix = ".new-"
	oldPrefix = ".old-"
)

// open opens the folder, and sees that nobody else can reach into it.
func (s Store) open(create bool) (*os.Root, error) {
	if !filepath.IsAbs(s.Dir) {
		return nil, fmt.Errorf("the folder %q for copies of RAM is no absolute path", s.Dir)
	}
	if create {
		if err := os.MkdirAll(filepath.Dir(s.Dir), 0o755); err != nil {
			return nil, err
		}
		if err := os.Mkdir(s.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	link, err := os.Lstat(s.Dir)
	var info fs.FileInfo
	if err == nil {
		info, err = root.Stat(".")
	}
	switch {
	case err != nil:
	case !os.SameFile(link, info):
		err = fmt.Errorf("%s is a link", s.Dir)
	default:
		err = private(info)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("folder for copies of RAM: %w", err), root.Close())
	}
	return root, nil
}

// private refuses what others than its owner, who has to be us, can reach.
func private(info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not ours", info.Name())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is open to others (%v)", info.Name(), info.Mode().Perm())
	}
	return nil
}

// folder opens a guest's folder, which is no link.
func folder(root *os.Root, name string) (*os.Root, error) {
	link, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	dir, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat(".")
	if err == nil && !os.SameFile(link, info) {
		err = fmt.Errorf("%s is a link", name)
	}
	if err == nil {
		err = private(info)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// plain opens a file for reading that is nothing but a file, and has no other name.
func plain(dir *os.Root, name string) (*os.File, error) {
	link, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // of a pipe, that would wait
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !os.SameFile(link, info) || !info.Mode().IsRegular() || !ok || st.Nlink != 1 {
			err = fmt.Errorf("%s is not a file of its own", name)
		} else {
			err = private(info)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// read reads what a guest's folder says that it is.
func read(dir *os.Root, uuid string) (Info, error) {
	f, err := plain(dir, infoFile)
	if err != nil {
		return Info{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxInfo+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Info{}, err
	}
	return parse(raw, uuid)
}

// parse refuses what it does not know.
func parse(raw []byte, uuid string) (Info, error) {
	var i Info
	if len(raw) > maxInfo {
		return i, fmt.Errorf("%s is longer than %d bytes", infoFile, maxInfo)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&i); err != nil {
		return Info{}, fmt.Errorf("%s: %w", infoFile, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Info{}, fmt.Errorf("%s goes on behind its end", infoFile)
	}
	return i, i.check(uuid)
}

// List tells of all copies. What is no whole copy is left out.
func (s Store) List() ([]Info, error) {
	root, err := s.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out, err := list(root)
	return out, errors.Join(err, root.Close())
}

func list(root *os.Root) ([]Info, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, e := range entries {
		if name, err := Name(e.Name()); err != nil || name != e.Name() {
			continue
		}
		dir, err := folder(root, e.Name())
		if err != nil {
			continue
		}
		if i, err := read(dir, e.Name()); err == nil {
			out = append(out, i)
		}
		_ = dir.Close() // it was read from
	}
	return out, nil
}

// Drop removes the copy of a guest. One that is being used goes when its user is done.
func (s Store) Drop(uuid string) error {
	name, err := Name(uuid)
	if err != nil {
		return err
	}
	root, err := s.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNone
	}
	if err != nil {
		return err
	}
	err = locked(root, func() error {
		err := sweep(root)
		if _, gone := root.Lstat(name); errors.Is(gone, fs.ErrNotExist) {
			return errors.Join(ErrNone, err)
		}
		return errors.Join(root.RemoveAll(name), err)
	})
	return errors.Join(err, root.Close())
}

// locked runs f while no other process, or goroutine, does. The folder is the lock.
func locked(root *os.Root, f func() error) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	if err := flock(d, unix.LOCK_EX); err != nil {
		return errors.Join(err, d.Close())
	}
	return errors.Join(f(), d.Close())
}

func flock(d *os.File, how int) error {
	for {
		if err := unix.Flock(int(d.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sweep removes what was left half-done. It runs within locked.
func sweep(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), newPrefix) && !strings.HasPrefix(e.Name(), oldPrefix) {
			continue
		}
		if e.IsDir() {
			d, err := root.Open(e.Name())
			if err != nil {
				errs = append(errs, err)
				continue
			}
			err = flock(d, unix.LOCK_EX|unix.LOCK_NB)
			_ = d.Close() // and the lock with it: nobody begins with a folder that is there
			if err != nil {
				continue // somebody is at it
			}
		}
		errs = append(errs, root.RemoveAll(e.Name()))
	}
	return errors.Join(errs...)
}
