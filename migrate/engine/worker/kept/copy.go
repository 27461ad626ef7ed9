package kept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Copy is a copy that is open for reading. It is safe for use by several goroutines.
type Copy struct {
	Info
	// Skipped says why a block of it cannot be read.
	Skipped []error
	blocks  map[ram.Block]*Pages
}

// Pages are those of one block. Their contents are whatever somebody has left there: compare them.
type Pages struct {
	file *os.File
	held *ram.Bitmap
}

// Find opens the copy of a guest, or says ErrNone. The caller closes it.
func (s Store) Find(uuid string) (*Copy, error) {
	name, err := Name(uuid)
	if err != nil {
		return nil, err
	}
	root, err := s.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // it is read from
	dir, err := folder(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // the same
	c := &Copy{blocks: map[ram.Block]*Pages{}}
	if c.Info, err = read(dir, name); err != nil {
		return nil, fmt.Errorf("the copy of the guest's RAM: %w", err)
	}
	for _, b := range c.Info.Blocks {
		block := ram.Block{Name: b.Name, Size: b.Size, PageSize: b.PageSize}
		p, err := openPages(dir, block)
		if err != nil {
			c.Skipped = append(c.Skipped, fmt.Errorf("the copy of RAM block %q: %w", b.Name, err))
			continue
		}
		c.blocks[block] = p
	}
	return c, nil
}

func openPages(dir *os.Root, b ram.Block) (*Pages, error) {
	name, err := fileOf(b.Name)
	if err != nil {
		return nil, err
	}
	f, err := plain(dir, name)
	if err != nil {
		return nil, err
	}
	p := &Pages{f, ram.NewBitmap(b.Pages())}
	if err := p.look(b); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, nil
}

// look finds out which pages the file holds something of.
func (p *Pages) look(b ram.Block) error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != b.Size {
		return fmt.Errorf("it has %d bytes and should have %d", info.Size(), b.Size)
	}
	for e, err := range sys.DataExtents(p.file, 0, b.Size) {
		if err != nil {
			return err
		}
		p.held.SetRange(int(e.Off/b.PageSize), int((e.Off+e.Len+b.PageSize-1)/b.PageSize))
	}
	return nil
}

// Block gives the pages of a block, or nil if the copy has none of that name, size and page size.
func (c *Copy) Block(b ram.Block) *Pages { return c.blocks[b] }

// Held tells whether there is anything but zeros in a page.
func (p *Pages) Held(page int) bool { return p.held.Test(page) }

// ReadAt reads from the block.
func (p *Pages) ReadAt(b []byte, off int64) (int, error) { return p.file.ReadAt(b, off) }

// Close closes the files.
func (c *Copy) Close() error {
	var errs []error
	for _, p := range c.blocks {
		errs = append(errs, p.file.Close())
	}
	return errors.Join(errs...)
}
