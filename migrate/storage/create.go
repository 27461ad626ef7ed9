package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Spec is an image to make.
type Spec struct {
	// Migration and Target (a disk's, such as vda) name the image until it is placed.
	Migration string `json:"migration"`
	Target    string `json:"target"`
	Path      string `json:"path"`
	Format    string `json:"format"`
	// Size is what the guest sees, in bytes.
	Size int64 `json:"size"`
	// Like is the image whose options it is to have, where it is of the same format.
	Like *Layer `json:"like,omitempty"`
	// Backing is the image below it, of BackingFormat; it has to be there.
	Backing       string `json:"backing,omitempty"`
	BackingFormat string `json:"backing_format,omitempty"`
	// Data is how many bytes will be written to it at first. A twentieth more has to be free.
	Data int64 `json:"data,omitempty"`
	// OwnerLike is a file of this host whose owner and mode it is to have; empty: the folder's.
	OwnerLike string `json:"owner_like,omitempty"`
}

// Need is how much space has to be free for data bytes.
func Need(data int64) int64 { return data + data/20 }

// Made is an image that was made here: where it is, and what tells it from any other that comes to have its name.
type Made struct {
	Target string `json:"target"`
	Path   string `json:"path"`
	// Staged is its name in Path's folder until it is placed.
	Staged string `json:"staged"`
	// Device and Inode are its numbers, Born when it was made, in nanoseconds since 1970; zero is not known. Without
	// Inode it may not have been made at all.
	Device uint64 `json:"device,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	Born   int64  `json:"born,omitempty"`
}

// Intended is what Stage is about to make, as far as it is known before.
func (s Spec) Intended() Made {
	return Made{Target: s.Target, Path: s.Path, Staged: stagedName(s.Migration, s.Target)}
}

// Stage makes the image beside where it is to be. The space is looked at first. When it fails nothing is left.
func Stage(ctx context.Context, s Spec) (Made, error) {
	const op = "make"
	if err := s.check(); err != nil {
		return Made{}, fail(op, s.Path, err)
	}
	dir, err := openFolder(s.Path)
	if err != nil {
		return Made{}, fail(op, s.Path, err)
	}
	defer func() { _ = dir.Close() }() // only read from
	if err := s.room(dir); err != nil {
		return Made{}, fail(op, s.Path, err)
	}
	if err := vacant(dir, filepath.Base(s.Path)); err != nil {
		return Made{}, fail(op, s.Path, err)
	}
	m, err := s.stage(ctx, dir)
	return m, fail(op, s.Path, err)
}

func (s Spec) check() error {
	if err := checkPath(s.Path); err != nil {
		return err
	}
	if err := checkFormat(s.Format); err != nil {
		return err
	}
	switch {
	case !plainName.MatchString(s.Migration) || !plainName.MatchString(s.Target):
		return fmt.Errorf("%q and %q are no names of a migration and a disk", s.Migration, s.Target)
	case s.Size <= 0 || s.Size > maxSize || s.Size%512 != 0:
		return fmt.Errorf("%d bytes are no size of a disk", s.Size)
	case s.Data < 0 || s.Data > maxSize:
		return fmt.Errorf("%d bytes of data", s.Data)
	case s.Like != nil && s.Like.DataFile != "":
		return fmt.Errorf("the source's image keeps its data in another file (%s), and such a one %w", s.Like.DataFile, ErrUnsupported)
	case s.Like != nil && s.Like.Encrypted:
		return fmt.Errorf("the source's image is encrypted, and without its secret such a one %w", ErrUnsupported)
	case s.Backing != "" && s.Format != formatQcow2:
		return fmt.Errorf("a %s image with another below it %w", s.Format, ErrUnsupported)
	case s.Backing != "":
		return errors.Join(checkPath(s.Backing), checkFormat(s.BackingFormat), exists(s.Backing))
	}
	return nil
}

func exists(path string) error {
	if _, err := os.Stat(path); err != nil {
		return &Error{"find the layer below:", path, err, "copy it to the same path there, or use --copy-storage-all"}
	}
	return nil
}

// openFolder opens the folder of path, through links, unless it is one of the kernel's.
func openFolder(path string) (*os.File, error) {
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := checkFolder(folder); err != nil {
		return nil, err
	}
	return os.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

func (s Spec) room(dir *os.File) error {
	var f unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &f); err != nil {
		return err
	}
	if free := available(f); free < Need(s.Data) {
		return fmt.Errorf("%w: %d bytes are needed, %d are free", ErrNoRoom, Need(s.Data), free)
	}
	return nil
}

// vacant makes sure that nothing has the name, a link to nothing included.
func vacant(dir *os.File, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = ErrExists
	}
	return err
}

func (s Spec) stage(ctx context.Context, dir *os.File) (m Made, err error) {
	m = s.Intended()
	fd, err := unix.Openat(int(dir.Fd()), m.Staged, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return Made{}, err
	}
	f := os.NewFile(uintptr(fd), m.Staged)
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, unix.Unlinkat(int(dir.Fd()), m.Staged, 0))
			m = Made{}
		}
	}()
	if err = s.own(dir, f); err == nil {
		err = s.fill(ctx, f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = m.identify(f)
	}
	return m, err
}

// own gives the image its owner and mode. A folder's mode is taken without what it lets others do.
func (s Spec) own(dir, f *os.File) error {
	var st unix.Stat_t
	mode := func() uint32 { return st.Mode&0o660 | 0o600 }
	err := unix.Fstat(int(dir.Fd()), &st)
	if s.OwnerLike != "" {
		err = unix.Stat(s.OwnerLike, &st)
		mode = func() uint32 { return st.Mode & 0o777 }
	}
	if err != nil {
		return err
	}
	return errors.Join(unix.Fchown(int(f.Fd()), int(st.Uid), int(st.Gid)), unix.Fchmod(int(f.Fd()), mode()))
}

// fill makes the image within the file. qemu-img gets at it by its descriptor, so that nobody can put another in its place.
func (s Spec) fill(ctx context.Context, f *os.File) error {
	if s.Format == formatRaw {
		return f.Truncate(s.Size)
	}
	args := []string{"create", "-q", "-f", formatQcow2, "-u"}
	if o := s.options(); o != "" {
		args = append(args, "-o", o)
	}
	if s.Backing != "" {
		args = append(args, "-b", s.Backing, "-F", s.BackingFormat)
	}
	_, err := qemuImg(ctx, []*os.File{f}, append(args, "/proc/self/fd/3", strconv.FormatInt(s.Size, 10))...)
	return err
}

// options are those of the image that it is to be like.
func (s Spec) options() string {
	l := s.Like
	if l == nil || l.Format != formatQcow2 {
		return ""
	}
	var o []string
	if l.Compat == "0.10" || l.Compat == "1.1" {
		o = append(o, "compat="+l.Compat)
	}
	if l.ClusterSize > 0 {
		o = append(o, "cluster_size="+strconv.FormatInt(l.ClusterSize, 10))
	}
	if l.LazyRefcounts {
		o = append(o, "lazy_refcounts=on")
	}
	if l.ExtendedL2 {
		o = append(o, "extended_l2=on")
	}
	return strings.Join(o, ",")
}

// identify notes what tells the file from all others.
func (m *Made) identify(f *os.File) error {
	st, err := statx(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	m.Device, m.Inode, m.Born = st.Device, st.Inode, st.Born
	return err
}

// statx reads a file's identity.
func statx(dir int, name string, flags int) (Made, error) {
	var x unix.Statx_t
	if err := unix.Statx(dir, name, flags, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_TYPE, &x); err != nil {
		return Made{}, err
	}
	m := Made{Device: unix.Mkdev(x.Dev_major, x.Dev_minor), Inode: x.Ino}
	if x.Mask&unix.STATX_BTIME != 0 {
		m.Born = x.Btime.Sec*1e9 + int64(x.Btime.Nsec)
	}
	return m, nil
}
