package track

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// userfault tracks by asynchronous write-protection.
type userfault struct {
	pid     int
	regions []Region
	fault   *sys.UserFault
	remote  int // the same descriptor, in the process
	pages   *sys.Pagemap
	vec     []sys.PageRegion
	// present are the pages that were in the process's page tables at the last harvest, for regions of which holes are
	// not known; else nil. hugetlbfs keeps an empty page protected, and older kernels overlook a huge page that was
	// thrown away.
	present []*ram.Bitmap
}

// vecLen is how many ranges a scan returns at most: 768 KiB of them, enough for 1 GiB of which every fourth page was written.
const vecLen = 32 << 10

// closeLimit bounds how long the process is asked to give up its descriptor.
const closeLimit = 10 * time.Second

func openUserfault(ctx context.Context, pid int, regions []Region) (*userfault, error) {
	pages, err := sys.OpenPagemap(pid)
	if err != nil {
		return nil, err
	}
	w := &userfault{pid: pid, regions: regions, pages: pages, vec: make([]sys.PageRegion, vecLen)}
	// For user mode only: that is permitted everywhere, and no fault is ever waited for, whoever takes it.
	if w.fault, w.remote, err = sys.InjectUserFaultMode(ctx, pid, true); err != nil {
		return nil, errors.Join(fmt.Errorf("make a userfaultfd in process %d: %w", pid, err), pages.Close())
	}
	if err := w.arm(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// arm registers the regions. Nothing is protected yet: the first scan does that, and finds all pages written.
func (w *userfault) arm() error {
	want := sys.FeatureWPAsync | sys.FeatureWPUnpopulated | sys.FeatureWPHugetlbfsShmem
	if _, err := w.fault.API(want); err != nil {
		return fmt.Errorf("agree on asynchronous write-protection: %w", err)
	}
	for _, r := range w.regions {
		var present *ram.Bitmap
		if !holesKnown(r) {
			present = ram.NewBitmap(r.Block.Pages())
		}
		w.present = append(w.present, present)
		if err := w.fault.Register(r.Addr, uint64(r.Block.Size), sys.WriteProtect); err != nil {
			return fmt.Errorf("watch RAM block %q at %#x: %w", r.Block.Name, r.Addr, err)
		}
	}
	return nil
}

func (w *userfault) written(ctx context.Context, out ram.Set) error {
	for i, r := range w.regions {
		err := w.scan(ctx, r, r.Addr, r.end(), sys.WrittenPages(), out[i])
		if err == nil && w.present[i] != nil {
			err = w.lost(ctx, i, out[i])
		}
		if err != nil {
			return fmt.Errorf("RAM block %q: %w", r.Block.Name, err)
		}
	}
	return alive(w.pages, w.regions)
}

// lost adds pages that were mapped at the last harvest and are not any more.
func (w *userfault) lost(ctx context.Context, i int, out *ram.Bitmap) error {
	now, r := ram.NewBitmap(w.regions[i].Block.Pages()), w.regions[i]
	if err := w.scan(ctx, r, r.Addr, r.end(), mappedPages(), now); err != nil {
		return err
	}
	before := w.present[i]
	before.AndNot(now)
	out.Or(before)
	w.present[i] = now
	return nil
}

func mappedPages() sys.ScanOptions {
	return sys.ScanOptions{Category: sys.PagePresent, Return: sys.PagePresent}
}

// manyRuns is from where on one scan of all is cheaper than one for each run.
const manyRuns = 256

// mapped implements mapper.
func (w *userfault) mapped(ctx context.Context, i int, among, out *ram.Bitmap) error {
	r, runs := w.regions[i], 0
	for range among.Runs() {
		if runs++; runs > manyRuns {
			break
		}
	}
	if runs > manyRuns {
		err := w.scan(ctx, r, r.Addr, r.end(), mappedPages(), out)
		out.And(among)
		return err
	}
	for lo, hi := range among.Runs() {
		from, to := r.Addr+uint64(int64(lo)*r.Block.PageSize), r.Addr+uint64(int64(hi)*r.Block.PageSize)
		if err := w.scan(ctx, r, from, to, mappedPages(), out); err != nil {
			return err
		}
	}
	return nil
}

// scan adds the pages of a region between two addresses that the options describe. The kernel may stop early for want of room; it has to come
// further each time.
func (w *userfault) scan(ctx context.Context, r Region, at, end uint64, options sys.ScanOptions, out *ram.Bitmap) error {
	for at < end {
		n, walked, err := w.pages.Scan(at, end, options, w.vec)
		if errors.Is(err, syscall.ESRCH) {
			return ErrGone
		}
		if err != nil {
			return err
		}
		for _, p := range w.vec[:n] {
			if p.Start < at || p.End > end || p.Start >= p.End {
				return fmt.Errorf("the kernel names pages %#x to %#x of %#x to %#x", p.Start, p.End, at, end)
			}
			setBytes(out, r.Block, int64(p.Start-r.Addr), int64(p.End-r.Addr))
		}
		if walked <= at {
			return errors.Join(alive(w.pages, w.regions), fmt.Errorf("the scan stands still at %#x", at))
		}
		at = walked
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (w *userfault) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	var errs []error
	for _, r := range w.regions {
		// What is not registered, after a failed start, is no fault here: EINVAL.
		if err := w.fault.Unregister(r.Addr, uint64(r.Block.Size)); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, err)
		}
	}
	if errors.Is(alive(w.pages, w.regions), ErrGone) { // another process may have its number
		return errors.Join(w.fault.Close(), w.pages.Close())
	}
	if err := sys.InjectClose(ctx, w.pid, w.remote); err != nil {
		errs = append(errs, fmt.Errorf("close the userfaultfd in process %d: %w", w.pid, err))
	}
	if errors.Is(alive(w.pages, w.regions), ErrGone) {
		errs = nil // there is nothing left to take it out of
	}
	return errors.Join(append(errs, w.fault.Close(), w.pages.Close())...)
}

// alive tells that the address space is still there: looking at a page of one that is gone gives nothing.
func alive(p *sys.Pagemap, regions []Region) error {
	var one [1]bool
	switch err := p.SoftDirty(regions[0].Addr, one[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ESRCH):
		return ErrGone
	default:
		return err
	}
}
