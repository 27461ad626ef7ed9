package worker

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
)

// asksDirectly tells whether the thread that reads faults asks for their pages itself: where no page keeps it for long.
func (d *destEnd) asksDirectly() bool {
	for _, p := range d.mem.parts {
		if p.PageSize > postcopy.DirectMost {
			return false
		}
	}
	return true
}

// demandFetcher is the connection of demand to the pager.
func (d *destEnd) demandFetcher() postcopy.Fetcher {
	from := blockFetcher{d, &d.demand}
	if !d.asksDirectly() {
		return from
	}
	way := &postcopy.NBDDirect{Client: d.demand.Load()}
	for _, p := range d.mem.parts {
		way.Starts = append(way.Starts, p.start)
	}
	return directFetcher{way, from}
}

// directFetcher is a blockFetcher that the thread which reads faults can ask by itself.
type directFetcher struct {
	*postcopy.NBDDirect
	from blockFetcher
}

// Fetch implements postcopy.Fetcher.
func (f directFetcher) Fetch(ctx context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	return f.from.Fetch(ctx, block, off, p)
}
