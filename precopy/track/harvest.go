package track

import (
	"context"
	"fmt"
	"sync"

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
	books    []book
	closed   bool
	closeErr error
}

func newTracker(name string, regions []Region, w watcher) *tracker {
	t := &tracker{name: name, regions: append([]Region(nil), regions...), blocks: blocksOf(regions), watcher: w}
	for _, r := range regions {
		t.books = append(t.books, book{known: holesKnown(r)})
	}
	return t
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
	for i := range t.books {
		if err := t.settle(ctx, i, out[i]); err != nil {
			return fmt.Errorf("look for holes of RAM block %q: %w", t.blocks[i].Name, err)
		}
	}
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
