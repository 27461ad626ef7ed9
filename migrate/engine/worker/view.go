package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// view is a guest's RAM for reading, with what it lacks: shared files are read as such, and memory that only QEMU has through
// /proc/PID/mem. A page that is not there is never touched, so that looking takes no memory.
type view struct {
	*memory
	private []bool       // by block: read through /proc/PID/mem
	known   []bool       // by block: pages that are not there are zeros
	pages   *sys.Pagemap // nil unless some are
}

// openView opens the memory at the regions of a QEMU process.
func openView(pid int, regions []agent.Region) (*view, error) {
	v := &view{memory: &memory{}}
	maps, err := sys.Maps(pid)
	if err != nil {
		return nil, err
	}
	for _, r := range regions {
		if err := v.addRegion(pid, maps, r); err != nil {
			return nil, errors.Join(fmt.Errorf("RAM block %q: %w", r.Name, err), v.close())
		}
	}
	if len(v.parts) == 0 {
		return nil, errors.New("no RAM blocks were named")
	}
	return v, nil
}

func (v *view) addRegion(pid int, maps []sys.Map, r agent.Region) error {
	if err := r.Check(); err != nil {
		return err
	}
	shared, anonymous, err := kindOf(maps, r)
	if err != nil {
		return err
	}
	v.private, v.known = append(v.private, !shared), append(v.known, shared || anonymous)
	if shared {
		return v.add(pid, r, false)
	}
	if v.pages == nil {
		if v.pages, err = sys.OpenPagemap(pid); err != nil {
			return err
		}
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	v.parts = append(v.parts, part{Block: r.Block, index: len(v.parts), addr: r.Addr, start: v.size, file: file, base: int64(r.Addr)})
	v.size += r.Size
	return nil
}

// kindOf tells what is mapped over a region, and refuses one with gaps or of several kinds.
func kindOf(maps []sys.Map, r agent.Region) (shared, anonymous bool, err error) {
	if r.Addr == 0 {
		return false, false, errors.New("it is not known where QEMU has mapped it")
	}
	next, end := r.Addr, r.Addr+uint64(r.Size)
	var first *sys.Map
	for i, m := range maps {
		if m.End <= next || m.Start > next {
			continue
		}
		if first == nil {
			first = &maps[i]
		}
		if m.Inode != first.Inode || m.Device != first.Device || m.Shared() != first.Shared() {
			break
		}
		if next = m.End; next >= end {
			return m.Shared() && m.Inode != 0, m.Inode == 0, nil
		}
	}
	return false, false, fmt.Errorf("QEMU has no memory of one kind over all of its %d MiB", r.Size>>20)
}

func (v *view) close() error {
	err := v.memory.close()
	if v.pages != nil {
		err = errors.Join(err, v.pages.Close())
	}
	return err
}

// only is one block as a device.
func (v *view) only(i int) *memory {
	one := &memory{parts: []part{v.parts[i]}, size: v.parts[i].Size}
	one.parts[0].start = 0
	return one
}

// data calls yield for what is there of a block between two offsets, in order. yield's error ends it.
func (v *view) data(p *part, lo, hi int64, yield func(lo, hi int64) error) error {
	clipped := func(from, to int64) error {
		if from, to = max(from, lo), min(to, hi); from < to {
			return yield(from, to)
		}
		return nil
	}
	from, to := lo-lo%p.PageSize, hi+(p.PageSize-hi%p.PageSize)%p.PageSize
	switch {
	case !v.known[p.index]:
		return yield(lo, hi)
	case v.private[p.index]:
		return v.mapped(p, from, to, clipped)
	}
	for e, err := range sys.DataExtents(p.file, p.base+from, p.base+to) {
		if err != nil {
			return fmt.Errorf("holes of RAM block %q: %w", p.Name, err)
		}
		if err := clipped(e.Off-p.base, e.Off-p.base+e.Len); err != nil {
			return err
		}
	}
	return nil
}

// mapped is data for memory without a file: pages that QEMU's page tables know, but for the shared page of zeros that
// reading puts there. While uffd-wp tracks it, what is not there cannot be told from what is swapped out, and all is data.
func (v *view) mapped(p *part, lo, hi int64, yield func(lo, hi int64) error) error {
	there := sys.ScanOptions{AnyOf: sys.PagePresent | sys.PageSwapped, Category: sys.PagePFNZero, Inverted: sys.PagePFNZero, Return: sys.PagePresent}
	var vec [512]sys.PageRegion
	for at, end := p.addr+uint64(lo), p.addr+uint64(hi); at < end; {
		n, walked, err := v.pages.Scan(at, end, there, vec[:])
		if errors.Is(err, syscall.ENOTTY) { // an old kernel: what is not there is zeros when it is read
			return yield(int64(at-p.addr), hi)
		}
		if err == nil && walked <= at {
			err = io.ErrNoProgress
		}
		if err != nil {
			return fmt.Errorf("look for the pages of RAM block %q: %w", p.Name, err)
		}
		for _, r := range vec[:n] {
			if err := yield(int64(r.Start-p.addr), int64(r.End-p.addr)); err != nil {
				return err
			}
		}
		at = walked
	}
	return nil
}

// read reads from one block; what is not there is zeros.
func (v *view) read(p *part, b []byte, off int64) error {
	if !v.private[p.index] {
		_, err := p.file.ReadAt(b, p.base+off)
		return err
	}
	next := off
	err := v.data(p, off, off+int64(len(b)), func(lo, hi int64) error {
		clear(b[next-off : lo-off])
		next = hi
		_, err := p.file.ReadAt(b[lo-off:hi-off], p.base+lo)
		return err
	})
	clear(b[next-off:])
	return err
}

// ramDevice shows a view, or one block of it, to the NBD server.
type ramDevice struct {
	device
	v *view
}

func (d ramDevice) ReadAt(b []byte, off int64) (int, error) {
	err := d.m.each(off, int64(len(b)), func(p *part, at, from, n int64) error { return d.v.read(p, b[from:from+n], at) })
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// ReadSparse reads, and tells what of it is zero.
func (d ramDevice) ReadSparse(ctx context.Context, b []byte, off int64) ([]ram.Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := d.ReadAt(b, off); err != nil {
		return nil, err
	}
	return zeroExtents(b, off), nil
}

// Extents tells what is a hole: no memory is taken there, and it reads as zeros.
func (d ramDevice) Extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	var out runs
	err := d.m.each(off, length, func(p *part, at, from, n int64) error {
		next := at
		err := d.v.data(p, at, at+n, func(lo, hi int64) error {
			err := errors.Join(out.add(lo-next, nbd.StatusHole|nbd.StatusZero), out.add(hi-lo, 0), ctx.Err())
			next = hi
			return err
		})
		if err != nil {
			return err
		}
		return out.add(at+n-next, nbd.StatusHole|nbd.StatusZero)
	})
	return out.list(err)
}

// maxRuns is how many runs are told at once; clients ask again for the rest.
const maxRuns = 4096

var errEnough = errors.New("as many runs as are told at once")

// runs gathers what is told of a range, from its beginning on.
type runs struct {
	all  []nbd.Status
	full bool
}

// add appends a run. errEnough says that there is no room for it; what follows is left out, too.
func (r *runs) add(length int64, flags uint32) error {
	switch {
	case r.full:
		return errEnough
	case length <= 0:
		return nil
	}
	if n := len(r.all); n > 0 && r.all[n-1].Flags == flags {
		r.all[n-1].Length += length
		return nil
	} else if n == maxRuns {
		r.full = true
		return errEnough
	}
	r.all = append(r.all, nbd.Status{Length: length, Flags: flags})
	return nil
}

func (r *runs) list(err error) ([]nbd.Status, error) {
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return r.all, nil
}
