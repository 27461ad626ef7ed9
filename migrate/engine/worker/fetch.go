package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// pieceSize is the most that is asked for at once, in bytes, unless a page is larger; underWay bounds what all requests
// together ask for, and so the memory that they take. The window in bytes, which is smaller, is the NBD client's.
const (
	pieceSize = 512 << 10
	underWay  = 32 << 20
)

// fetchers is how many pieces are on their way at once.
func (in *intake) fetchers() int { return max(1, underWay/in.bufs.size) }

// reader is what pages are fetched from: an NBD client of the device that memory is.
type reader interface {
	ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error)
}

// intake places pages into the files of a guest that does not run yet.
type intake struct {
	m       *memory
	from    reader
	bufs    *buffers
	count   *counters
	mu      sync.Mutex
	present ram.Set // pages that hold something in the file
	stale   ram.Set // pages that held something before the first fetch, and still do: the source knows nothing of it
}

// sweepAtOnce is how many bytes are looked at before others may go on.
const sweepAtOnce = 4 << 20

// sweep empties pages that hold what nobody fetched: what was in the file before the guest came, or was put there by the waiting
// QEMU. Where the source has a hole such a page would never be asked for, and the guest would find it instead of zeros.
func (in *intake) sweep(ctx context.Context) error {
	for i, b := range in.stale {
		p, step := &in.m.parts[i], max(1, int(sweepAtOnce/in.m.parts[i].PageSize))
		for lo := 0; lo < b.Len(); lo += step {
			if err := errors.Join(ctx.Err(), in.empty(p, i, lo, min(lo+step, b.Len()))); err != nil {
				return fmt.Errorf("empty RAM block %q: %w", p.Name, err)
			}
		}
	}
	return nil
}

// empty sweeps the pages lo up to, but not with, hi. Whoever fetches one of them waits to mark it, or has done so.
func (in *intake) empty(p *part, block, lo, hi int) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	stale := in.stale[block]
	for from := stale.Next(lo); from >= 0 && from < hi; from = stale.Next(from) {
		to := stale.NextClear(from)
		if to < 0 || to > hi {
			to = hi
		}
		if err := p.punch(int64(from)*p.PageSize, int64(to-from)*p.PageSize); err != nil {
			return err
		}
		stale.ClearRange(from, to)
		in.present[block].ClearRange(from, to)
	}
	return nil
}

// counters are what an agent's progress is made of.
type counters struct {
	pages, zeroPages, remaining atomic.Int64
}

// piece is a run of pages of one block.
type piece struct {
	block  int
	lo, hi int
}

// fetch brings the pages over. Pages that turn out to be zero are made holes.
func (in *intake) fetch(ctx context.Context, pages ram.Set) error {
	if err := pages.Fits(in.m.blocks()); err != nil {
		return err
	}
	in.count.remaining.Store(pages.Bytes(in.m.blocks()))
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan piece)
	g.Go(func() error {
		defer close(work)
		return in.cut(ctx, pages, work)
	})
	g.Go(func() error { return in.sweep(ctx) })
	for range in.fetchers() {
		g.Go(func() error { return in.worker(ctx, work) })
	}
	return g.Wait()
}

// cut hands out the runs in pieces, in the order of blocks and pages.
func (in *intake) cut(ctx context.Context, pages ram.Set, work chan<- piece) error {
	for i, b := range pages {
		most := max(1, int(pieceSize/in.m.parts[i].PageSize))
		for lo, hi := range b.Runs() {
			for ; lo < hi; lo += most {
				select {
				case work <- piece{i, lo, min(lo+most, hi)}:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
	}
	return nil
}

func (in *intake) worker(ctx context.Context, work <-chan piece) error {
	for w := range work {
		if err := in.place(ctx, w); err != nil {
			return fmt.Errorf("pages [%d, %d) of RAM block %q: %w", w.lo, w.hi, in.m.parts[w.block].Name, err)
		}
	}
	return ctx.Err()
}

// place fetches one piece and writes what of it is not zero.
func (in *intake) place(ctx context.Context, w piece) error {
	p := &in.m.parts[w.block]
	off, n := int64(w.lo)*p.PageSize, int64(w.hi-w.lo)*p.PageSize
	held := in.bufs.get()
	defer in.bufs.put(held)
	buf := (*held)[:n]
	holes, err := in.from.ReadSparse(ctx, buf, p.start+off)
	if err != nil {
		return err
	}
	zero := ram.NewBitmap(w.hi - w.lo)
	for _, h := range holes {
		at := h.Offset - p.start - off
		if first, end := (at+p.PageSize-1)/p.PageSize, (at+h.Length)/p.PageSize; first < end { // whole pages
			zero.SetRange(int(first), int(end))
		}
	}
	return in.write(p, w, buf, zero)
}

// write puts the pages that are not zero into the file and makes the others holes again.
func (in *intake) write(p *part, w piece, buf []byte, zero *ram.Bitmap) error {
	for lo := 0; lo < zero.Len(); {
		isZero, hi := zero.Test(lo), zero.Len()
		next := zero.Next(lo)
		if isZero {
			next = zero.NextClear(lo)
		}
		if next >= 0 {
			hi = next
		}
		var err error
		if isZero {
			err = in.clear(p, w, lo, hi)
		} else {
			in.mark(w, lo, hi) // first: a write that fails may have written something
			err = p.write(buf[int64(lo)*p.PageSize:int64(hi)*p.PageSize], int64(w.lo+lo)*p.PageSize)
		}
		if err != nil {
			return err
		}
		lo = hi
	}
	zeros := int64(zero.Count())
	in.count.zeroPages.Add(zeros)
	in.count.pages.Add(int64(zero.Len()) - zeros)
	in.count.remaining.Add(-int64(len(buf)))
	return nil
}

// mark remembers pages that hold something.
func (in *intake) mark(w piece, lo, hi int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.present[w.block].SetRange(w.lo+lo, w.lo+hi)
	in.stale[w.block].ClearRange(w.lo+lo, w.lo+hi)
}

// clear makes pages zero that may have held something.
func (in *intake) clear(p *part, w piece, lo, hi int) error {
	in.mu.Lock()
	held := in.present[w.block].CountRange(w.lo+lo, w.lo+hi) > 0
	in.present[w.block].ClearRange(w.lo+lo, w.lo+hi)
	in.stale[w.block].ClearRange(w.lo+lo, w.lo+hi)
	in.mu.Unlock()
	if !held {
		return nil
	}
	return p.punch(int64(w.lo+lo)*p.PageSize, int64(hi-lo)*p.PageSize)
}

// punch makes the pages of the set holes, whatever they held.
func (in *intake) punch(pages ram.Set) error {
	if err := pages.Fits(in.m.blocks()); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, b := range pages {
		p := &in.m.parts[i]
		for lo, hi := range b.Runs() {
			if in.present[i].CountRange(lo, hi) == 0 {
				continue
			}
			if err := p.punch(int64(lo)*p.PageSize, int64(hi-lo)*p.PageSize); err != nil {
				return fmt.Errorf("pages [%d, %d) of RAM block %q: %w", lo, hi, p.Name, err)
			}
			in.present[i].ClearRange(lo, hi)
			in.stale[i].ClearRange(lo, hi)
		}
	}
	return nil
}

// newLimiter caps bytes a second; 0 is no cap.
func newLimiter(bytes int64) *rate.Limiter {
	l := rate.NewLimiter(rate.Inf, 4*pieceSize)
	setLimit(l, bytes)
	return l
}

// setLimit changes a cap. A burst of several pieces lets the link never run dry between two of them.
func setLimit(l *rate.Limiter, bytes int64) {
	switch {
	case bytes < 0:
	case bytes == 0:
		l.SetLimit(rate.Inf)
	default:
		l.SetLimit(rate.Limit(bytes))
	}
}

// tellEvery is the time between two reports of progress.
const tellEvery = 100 * time.Millisecond

// telling calls tell every so often until the returned function is called, which waits for the last.
func telling(tell func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				tell()
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// meter measures a rate in bytes a second over the last reports.
type meter struct {
	mu   sync.Mutex
	at   time.Time
	last int64
	rate float64
}

// now takes a total and gives the rate.
func (m *meter) now(total int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := time.Now()
	if m.at.IsZero() {
		m.at, m.last = t, total
		return 0
	}
	d := t.Sub(m.at).Seconds()
	if d < 0.05 {
		return int64(m.rate)
	}
	r := float64(total-m.last) / d
	if m.rate == 0 {
		m.rate = r
	}
	m.rate += (r - m.rate) * min(1, 2*d) // about the last second
	m.at, m.last = t, total
	return int64(m.rate)
}
