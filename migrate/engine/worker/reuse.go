package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker/kept"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// reuser takes pages from an older copy of the guest's RAM where the source has the same, and tells by fingerprints:
//
//	asked for pages ──> fingerprints of the source's pages, over the link
//	                    the copy's pages, read ──> fingerprints ── the same? ──> these very bytes
//	                                                              └ no: the page itself, over the link
//
// A page is right because it is compared after it was read and not read again: whatever became of the copy, wrong contents do
// not have the right fingerprint. And it is as right as a page that was fetched at the moment when the source read it: what the
// guest writes later is dirty, since the tracker was armed before.
//
// Each page is asked about once. If it is wanted again the guest has written it since, and the copy is older than that.
type reuser struct {
	m      *memory
	copy   *kept.Copy
	pages  []*kept.Pages // by block; nil where there is no copy of it
	summer *summer
	empty  [][sumSize]byte // the fingerprint of an empty page, by block
	sums   func(ctx context.Context, p []byte, off int64) error
	warn   func(msg string, args ...any)
	reused atomic.Int64 // pages
	broken atomic.Bool  // fingerprints are not to be had
	torn   atomic.Bool  // the copy cannot be read, everywhere

	mu    sync.Mutex
	asked ram.Set
}

// route is a way to the source's RAM.
type route struct {
	// limit caps what comes over it; nil does not.
	limit *rate.Limiter
	read  func(ctx context.Context, p []byte, off int64) ([]ram.Extent, error)
}

// ReadSparse implements reader.
func (r route) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	if err := r.wait(ctx, len(p)); err != nil {
		return nil, err
	}
	return r.read(ctx, p, off)
}

func (r route) wait(ctx context.Context, n int) error {
	if r.limit == nil {
		return nil
	}
	return r.limit.WaitN(ctx, n)
}

// sidePieces is how many pieces of one read are fetched at once: pages that differ stand alone, mostly.
const sidePieces = 64

// read is ReadSparse of the source's RAM by a route, with what the copy has not fetched. The pages are whole, and of one block.
func (r *reuser) read(ctx context.Context, p []byte, off int64, by route) ([]ram.Extent, error) {
	q, ok := r.claim(p, off)
	if !ok {
		return by.ReadSparse(ctx, p, off)
	}
	holes, err := r.fill(ctx, q, by)
	if err != nil {
		r.unclaim(q)
	}
	return holes, err
}

// query is a run of pages that are asked for.
type query struct {
	block, lo int
	size      int64 // of a page
	off       int64 // of the run, in the device
	p         []byte
	need      *ram.Bitmap // pages that have to come over the link
}

func (q *query) page(i int) []byte { return q.p[int64(i)*q.size : int64(i+1)*q.size] }

// claim takes the pages to ask about. It is false if there are none.
func (r *reuser) claim(p []byte, off int64) (*query, bool) {
	if r.broken.Load() {
		return nil, false
	}
	i := slices.IndexFunc(r.m.parts, func(b part) bool { return off >= b.start && off+int64(len(p)) <= b.start+b.Size })
	if i < 0 || r.pages[i] == nil {
		return nil, false
	}
	b := &r.m.parts[i]
	at := off - b.start
	if at%b.PageSize != 0 || int64(len(p))%b.PageSize != 0 {
		return nil, false
	}
	q := &query{block: i, lo: int(at / b.PageSize), size: b.PageSize, off: off, p: p, need: ram.NewBitmap(len(p) / int(b.PageSize))}
	q.need.Fill()
	found := false
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range q.need.Len() {
		if r.pages[i].Held(q.lo+n) && !r.asked[i].Test(q.lo+n) {
			found = true
			break
		}
	}
	if found {
		r.asked[i].SetRange(q.lo, q.lo+q.need.Len())
	}
	return q, found
}

func (r *reuser) unclaim(q *query) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[q.block].ClearRange(q.lo, q.lo+q.need.Len())
}

// fill fills the run from the copy and the rest by the route.
func (r *reuser) fill(ctx context.Context, q *query, by route) ([]ram.Extent, error) {
	sums := make([]byte, q.need.Len()*sumSize)
	err := by.wait(ctx, len(sums))
	if err == nil {
		err = r.sums(ctx, sums, r.m.sumsAt(q.block, q.lo))
	}
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, nbd.ErrLinkLost) {
			return nil, err
		}
		if !r.broken.Swap(true) {
			r.warn("fingerprints of the source's pages are not to be had, so all pages are fetched", "err", err)
		}
		return by.ReadSparse(ctx, q.p, q.off)
	}
	holes := r.compare(q, sums)
	more, err := fetchRuns(ctx, q, by)
	if err != nil {
		return nil, err
	}
	holes = append(holes, more...)
	slices.SortFunc(holes, func(a, b ram.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	return holes, nil
}

// compare fills in what the copy has, and gives the pages that are empty.
func (r *reuser) compare(q *query, sums []byte) (holes []ram.Extent) {
	look := ram.NewBitmap(q.need.Len())
	for i := range look.Len() {
		switch {
		case bytes.Equal(sums[i*sumSize:(i+1)*sumSize], r.empty[q.block][:]):
			clear(q.page(i))
			q.need.Clear(i)
			holes = append(holes, ram.Extent{Offset: q.off + int64(i)*q.size, Length: q.size})
		case r.pages[q.block].Held(q.lo + i):
			look.Set(i)
		}
	}
	var own [sumSize]byte
	for lo, hi := range look.Runs() {
		run := q.p[int64(lo)*q.size : int64(hi)*q.size]
		if _, err := r.pages[q.block].ReadAt(run, int64(q.lo+lo)*q.size); err != nil {
			if !r.torn.Swap(true) {
				r.warn("read the copy of the guest's RAM", "block", r.m.parts[q.block].Name, "page", q.lo+lo, "err", err)
			}
			continue // they are fetched
		}
		for i := lo; i < hi; i++ {
			if r.summer.sum(own[:], q.page(i)); bytes.Equal(own[:], sums[i*sumSize:(i+1)*sumSize]) {
				q.need.Clear(i)
				r.reused.Add(1)
			}
		}
	}
	return holes
}

// fetchRuns fetches what is needed still, several runs at once.
func fetchRuns(ctx context.Context, q *query, by route) (holes []ram.Extent, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sidePieces)
	for lo, hi := range q.need.Runs() {
		at, end := int64(lo)*q.size, int64(hi)*q.size
		g.Go(func() error {
			found, err := by.ReadSparse(ctx, q.p[at:end], q.off+at)
			mu.Lock()
			defer mu.Unlock()
			holes = append(holes, found...)
			return err
		})
	}
	err = g.Wait()
	return holes, err
}

// openReuse looks for a copy of the guest's RAM. That there is none that could be used is no error.
func (d *destEnd) openReuse() {
	if !d.spec.Reuse && d.spec.ReuseRAM == "" {
		return
	}
	c, err := d.older()
	if err != nil {
		d.held = agent.Held{Why: err.Error()}
		return
	}
	d.held = agent.Held{Bytes: c.Bytes(), Kept: c.Kept}
	r := &reuser{m: d.mem, copy: c, asked: ram.NewSet(d.mem.blocks()), warn: d.w.o.Log.Warn, sums: d.readSums}
	none := 0
	for _, b := range d.mem.blocks() {
		p := c.Block(b)
		if r.pages = append(r.pages, p); p == nil {
			none++
		}
	}
	if none > 0 {
		d.held.Why = errors.Join(append(c.Skipped, fmt.Errorf("%d of %d RAM blocks are not in the copy with this size", none, len(r.pages)))...).Error()
	}
	if r.summer, err = newSummer(d.spec.Link.Token); err != nil {
		d.held.Why = err.Error()
	}
	if none == len(r.pages) || err != nil {
		_ = c.Close() // it was looked at
		return
	}
	r.empty = r.summer.zeroSums(d.mem.blocks())
	d.held.Usable, d.reuse = true, r
}

// older opens the copy.
func (d *destEnd) older() (*kept.Copy, error) {
	if d.spec.ReuseRAM != "" {
		return kept.OpenImage(d.spec.ReuseRAM, d.mem.blocks())
	}
	return d.w.kept().Find(d.spec.Guest.UUID)
}

// readSums asks the source for fingerprints.
func (d *destEnd) readSums(ctx context.Context, p []byte, off int64) error {
	if err := d.w.spoiled(ctx, "sums"); err != nil {
		return err
	}
	return d.sums.Load().ReadAt(ctx, p, off)
}

// Held implements agent.Dest.
func (d *destEnd) Held() agent.Held { return d.held }
