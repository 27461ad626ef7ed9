package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy/track"
)

// memory is a guest's RAM as files: its blocks back to back, as one device. Reading and writing it never touches QEMU's
// address space, so that a page that is missing there stays so for the one who serves it.
type memory struct {
	parts []part
	size  int64
}

// part is one block.
type part struct {
	ram.Block
	index int    // among the blocks
	addr  uint64 // in QEMU's address space
	start int64  // in the device
	file  *os.File
	base  int64 // in the file
	// mapped is set where the file system has no write(2): hugetlbfs.
	mapped *sys.Mapping
}

// openMemory opens the files behind the regions of a QEMU process.
func openMemory(pid int, regions []agent.Region, write bool) (*memory, error) {
	m := &memory{}
	for _, r := range regions {
		if err := m.add(pid, r, write); err != nil {
			return nil, errors.Join(fmt.Errorf("RAM block %q: %w", r.Name, err), m.close())
		}
	}
	if len(m.parts) == 0 {
		return nil, errors.New("no RAM blocks were named")
	}
	return m, nil
}

func (m *memory) add(pid int, r agent.Region, write bool) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.Addr == 0 {
		return errors.New("it is not known where QEMU has mapped it")
	}
	file, base, err := sys.OpenMapped(pid, r.Addr, write)
	if err != nil {
		return err
	}
	p := part{Block: r.Block, index: len(m.parts), addr: r.Addr, start: m.size, file: file, base: base}
	m.parts, m.size = append(m.parts, p), m.size+r.Size
	if err := covers(pid, r); err != nil {
		return err
	}
	if write && r.PageSize > 4096 {
		at := &m.parts[len(m.parts)-1]
		at.mapped, err = sys.MapShared(file, base, r.Size, true)
	}
	return err
}

// covers makes sure that one file is mapped over the whole block without a gap.
func covers(pid int, r agent.Region) error {
	maps, err := sys.Maps(pid)
	if err != nil {
		return err
	}
	next, inode := r.Addr, uint64(0)
	for _, v := range maps {
		if v.End <= next || v.Start > next {
			continue
		}
		if inode == 0 {
			inode = v.Inode
		}
		if v.Inode != inode || v.Inode == 0 {
			break
		}
		if next = v.End; next >= r.Addr+uint64(r.Size) {
			return nil
		}
	}
	return fmt.Errorf("no single file is mapped over all of its %d MiB", r.Size>>20)
}

func (m *memory) close() error {
	var errs []error
	for _, p := range m.parts {
		if p.mapped != nil {
			errs = append(errs, p.mapped.Close())
		}
		errs = append(errs, p.file.Close())
	}
	m.parts = nil
	return errors.Join(errs...)
}

func (m *memory) blocks() []ram.Block {
	out := make([]ram.Block, len(m.parts))
	for i, p := range m.parts {
		out[i] = p.Block
	}
	return out
}

// each calls f for the pieces of a run of the device's bytes: the block, the offset in it and where the piece is in the run.
func (m *memory) each(off, length int64, f func(p *part, at, from, n int64) error) error {
	if off < 0 || length < 0 || off > m.size-length {
		return fmt.Errorf("bytes [%d, %d) of RAM of %d", off, off+length, m.size)
	}
	for i := range m.parts {
		p := &m.parts[i]
		lo, hi := max(off, p.start), min(off+length, p.start+p.Size)
		if lo >= hi {
			continue
		}
		if err := f(p, lo-p.start, lo-off, hi-lo); err != nil {
			return err
		}
	}
	return nil
}

// write puts bytes of one block into its file.
func (p *part) write(b []byte, off int64) error {
	if p.mapped != nil {
		copy(p.mapped.Bytes()[off:off+int64(len(b))], b)
		return nil
	}
	_, err := p.file.WriteAt(b, p.base+off)
	return err
}

// punch makes pages of one block holes. Huge pages stay the guest's: another process might take them otherwise, and the guest be
// killed where it comes to need them.
func (p *part) punch(off, n int64) error {
	err := sys.PunchHole(p.file, p.base+off, n)
	if err == nil && p.mapped != nil {
		if err = sys.Reserve(p.file, p.base+off, n); err != nil {
			err = fmt.Errorf("keep huge pages for the guest: %w", err)
		}
	}
	return err
}

// room tells whether the files can take the pages of the set, which are holes in them. A page that does not fit is one that the
// guest waits for without end, or is killed for. Huge pages are the guest's from the beginning.
func (m *memory) room(pages ram.Set) error {
	type place struct{ free, wanted int64 }
	places := map[uint64]*place{} // by device: blocks may share one
	for i, b := range pages {
		p := &m.parts[i]
		if p.PageSize > zeroUnit {
			continue
		}
		free, bounded, err := sys.Room(p.file)
		if err != nil {
			return fmt.Errorf("RAM block %q: %w", p.Name, err)
		}
		info, err := p.file.Stat()
		if err != nil {
			return fmt.Errorf("RAM block %q: %w", p.Name, err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !bounded || !ok {
			continue
		}
		dev := uint64(st.Dev) //nolint:unconvert // the type differs between machines
		at := places[dev]
		if at == nil {
			at = &place{free: free}
			places[dev] = at
		}
		if at.wanted += int64(b.Count()) * p.PageSize; at.wanted > at.free {
			return &migrate.OpError{Op: "make room for the guest's RAM", Side: migrate.SideDestination,
				Err: fmt.Errorf("%d MiB are to come, and the file system of RAM block %q has room for %d MiB", at.wanted>>20, p.Name, at.free>>20),
				Fix: "enlarge it there, such as by mount -o remount,size=… /dev/shm, or move another guest away"}
		}
	}
	return nil
}

// device shows the memory to the NBD server: read-only, with what is zero left out.
type device struct {
	m *memory
	// sent, if set, hears of all that was read, for a tracker that compares with it.
	sent track.Witness
}

func (d device) ReadAt(b []byte, off int64) (int, error) {
	err := d.m.each(off, int64(len(b)), func(p *part, at, from, n int64) error {
		_, err := p.file.ReadAt(b[from:from+n], p.base+at)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// errReadOnly: nobody but the guest writes its RAM.
var errReadOnly = errors.New("guest RAM is exported read-only")

func (d device) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (d device) Size() (int64, error)               { return d.m.size, nil }
func (d device) Sync() error                        { return nil }

// zeroUnit is the size in bytes at which zeros are looked for.
const zeroUnit = 4096

// zeros is what an empty unit looks like.
func zeros() []byte { return zeroPage[:] }

var zeroPage [zeroUnit]byte

// ReadSparse reads, and tells what of it is zero. Those bytes of b are zero, too.
func (d device) ReadSparse(ctx context.Context, b []byte, off int64) ([]ram.Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := d.ReadAt(b, off); err != nil {
		return nil, err
	}
	if d.sent != nil {
		return zeroExtents(b, off), d.m.each(off, int64(len(b)), func(p *part, at, from, n int64) error {
			d.sent.Sent(p.index, at, b[from:from+n])
			return nil
		})
	}
	return zeroExtents(b, off), nil
}

// mappedDevice shows the memory to the destination's agent without a copy. It is for pages that are no holes: to read a hole of a
// mapping is to fill it, and the destination asks for none.
type mappedDevice struct{ device }

// mapAll maps the blocks of small pages for reading.
func (m *memory) mapAll() error {
	for i := range m.parts {
		p := &m.parts[i]
		if p.PageSize > zeroUnit {
			continue
		}
		var err error
		if p.mapped, err = sys.MapShared(p.file, p.base, p.Size, false); err != nil {
			return fmt.Errorf("map RAM block %q: %w", p.Name, err)
		}
	}
	return nil
}

// View implements nbd.Viewer.
func (v mappedDevice) View(ctx context.Context, off, length int64) ([]byte, []ram.Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	for i := range v.m.parts {
		p := &v.m.parts[i]
		if p.mapped != nil && off >= p.start && off+length <= p.start+p.Size {
			b := p.mapped.Bytes()[off-p.start : off-p.start+length]
			return b, zeroExtents(b, off), nil
		}
	}
	return nil, nil, nil
}

// zeroExtents finds the units of b that are zero; off is where b lies in the device.
func zeroExtents(b []byte, off int64) []ram.Extent {
	var out []ram.Extent
	for i := 0; i < len(b); i += zeroUnit {
		unit := b[i:min(i+zeroUnit, len(b))]
		if !bytes.Equal(unit, zeros()[:len(unit)]) {
			continue
		}
		at := off + int64(i)
		if n := len(out); n > 0 && out[n-1].End() == at {
			out[n-1].Length += int64(len(unit))
		} else {
			out = append(out, ram.Extent{Offset: at, Length: int64(len(unit))})
		}
	}
	return out
}

// holes gives the pages of the memory that its files do not hold.
func (m *memory) holes(ctx context.Context) (ram.Set, error) {
	set := ram.NewSet(m.blocks())
	for i := range m.parts {
		p := &m.parts[i]
		set[i].Fill()
		for e, err := range sys.DataExtents(p.file, p.base, p.base+p.Size) {
			if err != nil {
				return nil, fmt.Errorf("holes of RAM block %q: %w", p.Name, err)
			}
			lo, hi := (e.Off-p.base)/p.PageSize, (e.Off+e.Len-p.base+p.PageSize-1)/p.PageSize
			set[i].ClearRange(int(lo), int(hi))
		}
	}
	return set, ctx.Err()
}

// buffers are reused; each is of the largest piece that is fetched at once.
type buffers struct {
	pool sync.Pool
	size int
}

func newBuffers(size int) *buffers {
	b := &buffers{size: size}
	b.pool.New = func() any { p := make([]byte, size); return &p }
	return b
}

func (b *buffers) get() *[]byte  { return b.pool.Get().(*[]byte) }
func (b *buffers) put(p *[]byte) { b.pool.Put(p) }
