package postcopy

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// missingByContinue maps the file and asks a userfaultfd of our own, page by page, to map what the file holds: EFAULT says
// that it holds nothing there.
func missingByContinue(p Part, b ram.Block, missing *ram.Bitmap) (err error) {
	m, err := sys.MapShared(p.File, p.Offset, b.Size, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	addr, err := mappedAt(p, b.Size)
	if err != nil {
		return err
	}
	u, err := sys.NewUserFault(true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	if _, err := u.API(sys.FeatureMinorHugetlbfs); err != nil {
		return err
	}
	if err := u.Register(addr, uint64(b.Size), sys.Minor); err != nil {
		return err
	}
	for page := range b.Pages() {
		_, err := u.Continue(addr+uint64(page)*uint64(b.PageSize), uint64(b.PageSize), false)
		switch {
		case errors.Is(err, syscall.EFAULT):
			missing.Set(page)
		case err != nil && !errors.Is(err, syscall.EEXIST):
			return err
		}
	}
	return nil
}

// mappedAt finds where a part is mapped in our own memory.
func mappedAt(p Part, size int64) (uint64, error) {
	maps, err := sys.Maps(os.Getpid())
	if err != nil {
		return 0, err
	}
	info, err := p.File.Stat()
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	for _, m := range maps {
		if ok && m.Inode == st.Ino && m.Offset == uint64(p.Offset) && m.End-m.Start == uint64(size) && m.Shared() {
			return m.Start, nil
		}
	}
	return 0, fmt.Errorf("no mapping of %s at %d", p.File.Name(), p.Offset)
}
