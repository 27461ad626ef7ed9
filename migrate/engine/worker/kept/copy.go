package kept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Copy is a copy that is open for reading. It is safe for use by several goroutines.
type Copy struct {
	Info
	// Skipped says why a block of it cannot be read.
	Skipped []error
	blocks  map[ram.Block]*Pages
	files   []*os.File
}

// Pages are those of one block. Their contents are whatever somebody has left there: compare them.
type Pages struct {
	file *os.File
	base int64 // in the file
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
		c.blocks[block], c.files = p, append(c.files, p.file)
	}
	return c, nil
}

// OpenImage opens a file that somebody else made of a guest's RAM: all blocks, one after the other. The caller closes it.
func OpenImage(path string, blocks []ram.Block) (*Copy, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is no absolute path", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // of a pipe, that would wait
	if err != nil {
		return nil, err
	}
	c := &Copy{blocks: map[ram.Block]*Pages{}, files: []*os.File{f}}
	if err := c.lay(f, blocks); err != nil {
		return nil, errors.Join(fmt.Errorf("RAM in %s: %w", path, err), f.Close())
	}
	return c, nil
}

// lay finds the blocks in one file.
func (c *Copy) lay(f *os.File, blocks []ram.Block) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no plain file")
	}
	c.Kept = info.ModTime()
	var size int64
	for _, b := range blocks {
		size += b.Size
	}
	if info.Size() != size {
		return fmt.Errorf("it has %d bytes, and the guest %d", info.Size(), size)
	}
	var at int64
	for _, b := range blocks {
		p := &Pages{f, at, ram.NewBitmap(b.Pages())}
		if err := p.find(b); err != nil {
			return err
		}
		c.blocks[b] = p
		c.Blocks = append(c.Blocks, Block{b.Name, b.Size, b.PageSize, int64(p.held.Count()) * b.PageSize})
		at += b.Size
	}
	return nil
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
	p := &Pages{f, 0, ram.NewBitmap(b.Pages())}
	if err := p.look(b); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, nil
}

// look looks into a file of the block alone.
func (p *Pages) look(b ram.Block) error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != b.Size {
		return fmt.Errorf("it has %d bytes and should have %d", info.Size(), b.Size)
	}
	return p.find(b)
}

// find finds out which pages the file holds something of.
func (p *Pages) find(b ram.Block) error {
	for e, err := range sys.DataExtents(p.file, p.base, p.base+b.Size) {
		if err != nil {
			return err
		}
		off := e.Off - p.base
		p.held.SetRange(int(off/b.PageSize), int((off+e.Len+b.PageSize-1)/b.PageSize))
	}
	return nil
}

// Block gives the pages of a block, or nil if the copy has none of that name, size and page size.
func (c *Copy) Block(b ram.Block) *Pages { return c.blocks[b] }

// Held tells whether there is anything but zeros in a page.
func (p *Pages) Held(page int) bool { return p.held.Test(page) }

// ReadAt reads from the block.
func (p *Pages) ReadAt(b []byte, off int64) (int, error) { return p.file.ReadAt(b, p.base+off) }

// Close closes the files.
func (c *Copy) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
