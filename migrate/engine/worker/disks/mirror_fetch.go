package disks

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// origin is a disk at the source, as it is at the moment of reading.
type origin interface {
	// ReadData reads, and leaves p as it was where there are holes.
	ReadData(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error)
	nbd.Extenter
}

// fetch brings a disk in line with the source's.
//
// It is allowed to read both ends at leisure, because from before the first read on the mirror brings whatever changes at the
// source: a unit that was the same once, at whatever time its two halves were compared, differs later only by what the mirror is
// about to bring. Only writing needs care (claims).
type fetch struct {
	m     *mirrored
	live  origin
	sums  sparse // nil without reuse
	limit *rate.Limiter
	hands int // how many pieces are worked on at once
}

// run goes on where the last one ended.
func (f *fetch) run(ctx context.Context) error {
	if err := f.plan(ctx); err != nil {
		return err
	}
	f.m.mu.Lock()
	check, todo := f.m.check.Clone(), f.m.todo.Clone()
	f.m.mu.Unlock()
	if err := f.each(ctx, todo, f.bring); err != nil {
		return err
	}
	return f.each(ctx, check, f.compare)
}

// each calls do for pieces of the units, several at once.
func (f *fetch) each(ctx context.Context, units *ram.Bitmap, do func(ctx context.Context, buf []byte, lo, hi int) error) error {
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(f.hands)
	for lo, hi := range units.Runs() {
		for ; lo < hi && within.Err() == nil; lo += pieceUnits {
			from, to := lo, min(lo+pieceUnits, hi)
			g.Go(func() error {
				buf := pieces.Get().(*[pieceSize]byte)
				defer pieces.Put(buf)
				return do(within, buf[:], from, to)
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// planStep is how much of a disk one question is about.
const planStep = 1 << 30

// plan finds out what there is to do, once.
func (f *fetch) plan(ctx context.Context) error {
	m := f.m
	m.mu.Lock()
	planned := m.planned
	m.mayHold = m.mayHold || planned // a write that failed may have written something
	m.mu.Unlock()
	if planned {
		return nil
	}
	here, there := ram.NewBitmap(unitsOf(m.DestDisk.Size)), ram.NewBitmap(unitsOf(m.DestDisk.Size))
	if err := holding(ctx, f.live, m.DestDisk.Size, there); err != nil {
		return sourceError(m.Target, "find the data of", 0, err)
	}
	m.data.Store(f.bytes(there))
	if m.Reuse {
		if err := holding(ctx, m, m.DestDisk.Size, here); err != nil {
			return err
		}
	}
	check, todo := ram.NewBitmap(here.Len()), there
	if m.Reuse { // also what only the source has: much of it may be zeros within its clusters
		check, todo = there, here
		todo.AndNot(check)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.planned, m.check, m.todo = true, check, todo
	m.left.Store(f.bytes(check) + f.bytes(todo))
	return nil
}

// holding sets the units in which something may be that is not zero.
func holding(ctx context.Context, of nbd.Extenter, size int64, out *ram.Bitmap) error {
	for off := int64(0); off < size; {
		list, err := of.Extents(ctx, off, min(planStep, size-off))
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return fmt.Errorf("nothing is known of what is at %d", off)
		}
		for _, s := range list {
			end := min(off+s.Length, size)
			if s.Flags&nbd.StatusZero == 0 && off < end {
				out.SetRange(int(off/unitSize), unitsOf(end))
			}
			off = end
		}
	}
	return nil
}

// bytes is how many bytes units are.
func (f *fetch) bytes(units *ram.Bitmap) int64 {
	n := int64(units.Count()) * unitSize
	if short := f.m.DestDisk.Size % unitSize; short > 0 && units.Len() > 0 && units.Test(units.Len()-1) {
		n -= unitSize - short
	}
	return n
}

// piece is where units are in bytes.
func (f *fetch) piece(lo, hi int) (off, end int64) {
	return int64(lo) * unitSize, min(int64(hi)*unitSize, f.m.DestDisk.Size)
}

// compare asks for the checksums of units, and brings those that differ.
func (f *fetch) compare(ctx context.Context, buf []byte, lo, hi int) error {
	off, end := f.piece(lo, hi)
	var room [2][pieceUnits * sumSize]byte
	theirs := room[0][:(hi-lo)*sumSize]
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() {
		holes, err := f.sums.ReadSparse(ctx, theirs, int64(lo)*sumSize)
		for _, h := range holes {
			at := h.Offset - int64(lo)*sumSize
			clear(theirs[at : at+h.Length])
		}
		failed = err
	})
	ours, err := sumsAt(ctx, f.m, buf[:end-off], off, room[1][:0])
	wg.Wait()
	if err == nil {
		err = sourceError(f.m.Target, "compare", off, failed)
	}
	if err == nil {
		err = f.m.spoil(ctx, "disk-sums")
	}
	if err != nil {
		return err
	}
	same := func(unit int) bool {
		at := (unit - lo) * sumSize
		return [sumSize]byte(ours[at:]) == [sumSize]byte(theirs[at:])
	}
	for from := lo; from < hi; {
		to, alike := from+1, same(from)
		for to < hi && same(to) == alike {
			to++
		}
		if alike {
			first, last := f.piece(from, to)
			f.m.reused.Add(last - first)
			f.inLine(from, to)
		} else if err := f.bring(ctx, buf, from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// inLine notes that units are as at the source.
func (f *fetch) inLine(lo, hi int) {
	off, end := f.piece(lo, hi)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.check.ClearRange(lo, hi)
	f.m.todo.ClearRange(lo, hi)
	f.m.left.Add(off - end)
}

// bring fetches units and writes what nothing newer was mirrored of.
func (f *fetch) bring(ctx context.Context, buf []byte, lo, hi int) error {
	off, end := f.piece(lo, hi)
	buf = buf[:end-off]
	if err := f.limit.WaitN(ctx, len(buf)); err != nil {
		return err
	}
	if err := f.m.spoil(ctx, "disk-piece"); err != nil {
		return err
	}
	k := f.m.claims.take(off, end)
	defer k.drop()
	holes, err := f.live.ReadData(ctx, buf, off)
	if err != nil {
		return sourceError(f.m.Target, "read", off, err)
	}
	data := end - off
	for _, h := range holes {
		data -= h.Length
	}
	if err := k.put(ctx, func(from, to int64) error { return f.write(ctx, buf, off, holes, from, to) }); err != nil {
		return err
	}
	f.m.fetched.Add(data)
	f.inLine(lo, hi)
	return nil
}

// write writes the bytes from lo up to hi of what came, which stands at off.
func (f *fetch) write(ctx context.Context, buf []byte, off int64, holes []ram.Extent, lo, hi int64) error {
	for _, h := range holes {
		from, to := max(lo, h.Offset), min(hi, h.End())
		if from >= to {
			continue
		}
		if err := f.writeData(ctx, buf[lo-off:from-off], lo); err != nil {
			return err
		}
		if err := f.zero(ctx, from, to); err != nil {
			return err
		}
		lo = to
	}
	return f.writeData(ctx, buf[lo-off:hi-off], lo)
}

// writeData writes p at off, and makes holes of the units in it that are zero.
func (f *fetch) writeData(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		n, zero := 0, false
		for n < len(p) {
			part := p[n:min(len(p), n+unitSize-int((off+int64(n))%unitSize))]
			is := allZero(part)
			if n > 0 && is != zero {
				break
			}
			n, zero = n+len(part), is
		}
		var err error
		if zero {
			err = f.zero(ctx, off, off+int64(n))
		} else if err = f.m.read(func() error { return f.m.to.write(ctx, p[:n], off) }); err != nil {
			err = targetError(f.m.DestDisk, "write", off, err)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// zero makes bytes zero that may hold something.
func (f *fetch) zero(ctx context.Context, lo, hi int64) error {
	if !f.m.mayHold {
		return nil
	}
	err := f.m.read(func() error { return f.m.to.zero(ctx, lo, hi-lo) })
	return targetError(f.m.DestDisk, "write", lo, err)
}
