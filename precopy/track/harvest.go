package track

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// watcher is what differs between trackers.
type watcher interface {
	// written adds the pages written since the last call, or more, and starts anew. After an error nothing is known.
	// It may not succeed for a process that is gone.
	written(ctx context.Context, out ram.Set) error
	// close is called once.
	close() error
}

// tracker keeps the books that all watchers need: which pages are holes, and that nothing is known after an error.
type tracker struct {
	name    string
	regions []Region
	blocks  []ram.Block

	mu       sync.Mutex
	watcher  watcher
	data     ram.Set // the pages that were no holes at the last harvest; nil before the first
	closed   bool
	closeErr error
}

func newTracker(name string, regions []Region, w watcher) *tracker {
	return &tracker{name: name, regions: append([]Region(nil), regions...), blocks: blocksOf(regions), watcher: w}
}

func blocksOf(regions []Region) []ram.Block {
	out := make([]ram.Block, len(regions))
	for i, r := range regions {
		out[i] = r.Block
	}
	return out
}

// Name implements Tracker.
func (t *tracker) Name() string { return t.name }

// Harvest implements Tracker.
func (t *tracker) Harvest(ctx context.Context) (ram.Set, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := ram.NewSet(t.blocks)
	if err := t.harvest(ctx, out); err != nil {
		out.Fill()
		return out, fmt.Errorf("harvest by %s: %w", t.name, err)
	}
	return out, nil
}

func (t *tracker) harvest(ctx context.Context, out ram.Set) error {
	if t.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.watcher.written(ctx, out); err != nil {
		return err
	}
	// The holes are looked up after the watcher was armed: what comes to be later will be told by it.
	data, err := present(t.regions, t.blocks)
	if err != nil {
		return err
	}
	if before := t.data; before == nil {
		out.Reset()
		out.Or(data)
	} else {
		before.AndNot(data)
		out.Or(before)
	}
	t.data = data
	return ctx.Err()
}

// Close implements Tracker.
func (t *tracker) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return t.closeErr
	}
	t.closed = true
	if err := t.watcher.close(); err != nil {
		t.closeErr = fmt.Errorf("stop tracking by %s: %w", t.name, err)
	}
	return t.closeErr
}

// holesKnown tells whether the file behind a region says what is a hole. hugetlbfs does not.
func holesKnown(r Region) (bool, error) {
	if r.File == nil {
		return false, nil
	}
	size, err := sys.PageSize(r.File)
	if err != nil {
		return false, fmt.Errorf("page size of RAM block %q: %w", r.Block.Name, err)
	}
	return size == int64(os.Getpagesize()), nil
}

// present gives the pages that are not holes, as far as that is known.
func present(regions []Region, blocks []ram.Block) (ram.Set, error) {
	out := ram.NewSet(blocks)
	for i, r := range regions {
		if r.File == nil {
			out[i].Fill()
			continue
		}
		for e, err := range sys.DataExtents(r.File, r.Base, r.Base+r.Block.Size) {
			if err != nil {
				return nil, fmt.Errorf("look for holes of RAM block %q: %w", r.Block.Name, err)
			}
			setBytes(out[i], r.Block, e.Off-r.Base, e.Off-r.Base+e.Len)
		}
	}
	return out, nil
}

// setBytes adds the pages that the bytes lo up to, but not with, hi of a block touch.
func setBytes(pages *ram.Bitmap, b ram.Block, lo, hi int64) {
	pages.SetRange(int(lo/b.PageSize), int((hi+b.PageSize-1)/b.PageSize))
}
