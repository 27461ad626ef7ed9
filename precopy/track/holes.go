package track

import (
	"context"
	"fmt"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// book is what is known of the holes of one region's file.
//
// Looking all of a file up takes a tenth of a microsecond a page, ten times as long as a scan of page tables. So the book
// is balanced instead: a file grows only by pages that become mapped, and the file system counts its pages.
//
//	pages of the file == pages with data at the last look + holes of then that are mapped now + what is not ours
//
// If that is not so, a page was thrown away (or something else is going on), and all is looked up.
type book struct {
	known bool        // whether the file tells of holes at all
	data  *ram.Bitmap // pages that were no holes at the last harvest; nil before the first
	other int64       // pages of the file besides; negative: not known
}

// mapper is a watcher that can look into page tables.
type mapper interface {
	// mapped adds those of the pages that are in the process's page tables.
	mapped(ctx context.Context, region int, among, out *ram.Bitmap) error
}

// settle brings a region's book up to date and adds pages that became holes to out. The first time out becomes all that
// are not.
func (t *tracker) settle(ctx context.Context, i int, out *ram.Bitmap) error {
	b, r := &t.books[i], t.regions[i]
	switch first := b.data == nil; {
	case !b.known:
		if b.data = ram.NewBitmap(0); first {
			out.Fill()
		}
		return nil
	case !first:
		if even, err := t.balance(ctx, i); even || err != nil {
			return err
		}
	}
	data, other, err := lookUp(r)
	if err != nil {
		return err
	}
	if b.data == nil {
		out.Reset()
		out.Or(data)
	} else {
		b.data.AndNot(data)
		out.Or(b.data)
	}
	b.data, b.other = data, other
	return nil
}

// balance tells whether no page of the region can have been thrown away, and enters the new ones.
func (t *tracker) balance(ctx context.Context, i int) (bool, error) {
	b, r := &t.books[i], t.regions[i]
	m, ok := t.watcher.(mapper)
	if !ok || b.other < 0 {
		return false, nil
	}
	holes := ram.NewBitmap(b.data.Len())
	holes.Fill()
	holes.AndNot(b.data)
	fresh := ram.NewBitmap(b.data.Len())
	if err := m.mapped(ctx, i, holes, fresh); err != nil {
		return false, err
	}
	pages, err := filePages(r)
	if err != nil || pages != int64(b.data.Count()+fresh.Count())+b.other {
		return false, err
	}
	b.data.Or(fresh)
	return true, nil
}

// lookUp asks the file system for each page, and how many there are besides; -1 if that changed meanwhile.
func lookUp(r Region) (data *ram.Bitmap, other int64, err error) {
	before, err := filePages(r)
	if err != nil {
		return nil, 0, err
	}
	if data, err = present(r); err != nil {
		return nil, 0, err
	}
	after, err := filePages(r)
	if err != nil {
		return nil, 0, err
	}
	if before != after {
		return data, -1, nil
	}
	return data, after - int64(data.Count()), nil
}

// filePages counts the pages that the region's file has.
func filePages(r Region) (int64, error) {
	info, err := r.File.Stat()
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s: no count of blocks", r.File.Name())
	}
	return st.Blocks * 512 / r.Block.PageSize, nil // blocks are 512 bytes whatever the file system
}

// holesKnown tells whether the file behind a region says what is a hole. On hugetlbfs it does if we may write it.
func holesKnown(r Region) bool {
	if r.File == nil {
		return false
	}
	for _, err := range sys.DataExtents(r.File, r.Base, r.Base+r.Block.PageSize) {
		if err != nil {
			return false
		}
	}
	return true
}

// present gives the pages of the region's file that are not holes, as far as the file system knows.
func present(r Region) (*ram.Bitmap, error) {
	out := ram.NewBitmap(r.Block.Pages())
	for e, err := range sys.DataExtents(r.File, r.Base, r.Base+r.Block.Size) {
		if err != nil {
			return nil, err
		}
		setBytes(out, r.Block, e.Off-r.Base, e.Off-r.Base+e.Len)
	}
	return out, nil
}

// setBytes adds the pages that the bytes lo up to, but not with, hi of a block touch.
func setBytes(pages *ram.Bitmap, b ram.Block, lo, hi int64) {
	pages.SetRange(int(lo/b.PageSize), int((hi+b.PageSize-1)/b.PageSize))
}
