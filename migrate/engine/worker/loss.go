package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
)

// blockFetcher is an NBD client to the pager.
type blockFetcher struct {
	d    *destEnd
	from *atomic.Pointer[nbd.Client]
}

// Fetch implements postcopy.Fetcher.
func (f blockFetcher) Fetch(ctx context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	if f.from == &f.d.bulk {
		if err := f.d.w.spoiled(ctx, "prepage"); err != nil {
			return nil, err
		}
	}
	start := f.d.mem.parts[block].start
	holes, err := f.read(ctx, p, start+off)
	if err != nil {
		return nil, linkLoss(ctx, err)
	}
	for i := range holes {
		holes[i].Offset -= start
	}
	return holes, nil
}

// read reads from the device. Bulk takes from an older copy what is the same there, and is held back here if there is one: only
// what crosses the link counts. Who waits for a page gets it from the source at once.
func (f blockFetcher) read(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	if f.from != &f.d.bulk || f.d.reuse == nil {
		return f.from.Load().ReadData(ctx, p, off)
	}
	return f.d.reuse.read(ctx, p, off, route{f.d.pagingLimit, f.from.Load().ReadData})
}

// linkLoss takes every failure to fetch for a lost link but the server's own answer that it cannot read. A source's agent that
// ends answers ESHUTDOWN, and another one takes its place.
func linkLoss(ctx context.Context, err error) error {
	var answer nbd.Errno
	if ctx.Err() != nil || errors.As(err, &answer) && answer != nbd.ESHUTDOWN && !errors.Is(err, nbd.ErrLinkLost) {
		return err
	}
	return fmt.Errorf("%w: %w", postcopy.ErrLink, err)
}
