package postcopy

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// NBDDirect fetches all blocks from one export, in which they begin at Starts, by a client with nbd.ClientConfig.Direct.
type NBDDirect struct {
	Client *nbd.Client
	Starts []int64
}

var _ Direct = (*NBDDirect)(nil)

// Fetch implements Fetcher.
func (d *NBDDirect) Fetch(ctx context.Context, block int, off int64, p []byte) ([]ram.Extent, error) {
	holes, err := NBDFetcher{d.Client}.Fetch(ctx, 0, d.Starts[block]+off, p)
	d.shift(block, holes)
	return holes, err
}

// shift makes offsets of the export those of a block.
func (d *NBDDirect) shift(block int, holes []ram.Extent) {
	for i := range holes {
		holes[i].Offset -= d.Starts[block]
	}
}

// Watch implements Direct.
func (d *NBDDirect) Watch(wake func(), done func(*Ask)) {
	d.Client.Watch(wake, func(r *nbd.Read) {
		a := r.Owner.(*Ask)
		d.shift(a.Block, r.Holes)
		a.Holes, a.Err = r.Holes, r.Err
		done(a)
	})
}

// Descriptor implements Direct.
func (d *NBDDirect) Descriptor() int { return d.Client.Descriptor() }

// Send implements Direct.
func (d *NBDDirect) Send(a *Ask) bool {
	a.read.Owner, a.read.P, a.read.Offset = a, a.P, d.Starts[a.Block]+a.Offset
	return d.Client.Send(&a.read)
}

// Take implements Direct.
func (d *NBDDirect) Take() { d.Client.Take() }

// Drop implements Direct.
func (d *NBDDirect) Drop(a *Ask) { d.Client.Drop(&a.read) }
