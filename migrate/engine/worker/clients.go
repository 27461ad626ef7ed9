package worker

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// bulkWindow is how much is asked for ahead, in bytes, over all bulk connections; demandWindow for faults, which are few
// and small.
const (
	bulkWindow   = 8 << 20
	demandWindow = 64 << 20
)

// clients connects the NBD clients, once.
func (d *destEnd) clients(ctx context.Context) error {
	d.connect.Do(func() {
		conns := d.spec.Link.Conns
		if conns <= 0 {
			conns = defaultConns
		}
		d.connectErr = errors.Join(d.client(ctx, &d.bulk, wholeRAM, datalink.Bulk, conns, bulkWindow),
			d.client(ctx, &d.demand, wholeRAM, datalink.Demand, 1, demandWindow))
		if d.reuse != nil && d.connectErr == nil {
			d.connectErr = d.client(ctx, &d.sums, ramSums, datalink.Bulk, sumsConns, sumsWindow)
		}
	})
	return d.connectErr
}

func (d *destEnd) client(ctx context.Context, at *atomic.Pointer[nbd.Client], export string, role datalink.Role, conns int, window int64) error {
	c, err := nbd.Open(ctx, nbd.ClientConfig{
		Dial:   func(ctx context.Context) (net.Conn, error) { return d.link.Next(ctx, role) },
		Export: export, Conns: conns, Window: window, Log: d.w.o.Log, Direct: role == datalink.Demand && d.asksDirectly(),
	})
	if err == nil {
		at.Store(c)
	}
	return err
}

// opened are the clients that there are.
func (d *destEnd) opened() []*nbd.Client {
	var out []*nbd.Client
	for _, at := range []*atomic.Pointer[nbd.Client]{&d.bulk, &d.demand, &d.sums} {
		if c := at.Load(); c != nil {
			out = append(out, c)
		}
	}
	return out
}

// lateReader reads from the bulk connections once there are any, and from an older copy what is the same there.
type lateReader struct{ d *destEnd }

func (r lateReader) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	if err := r.d.clients(ctx); err != nil {
		return nil, err
	}
	if err := r.d.w.spoiled(ctx, "piece"); err != nil {
		return nil, err
	}
	by := route{r.d.limit, r.d.bulk.Load().ReadSparse}
	if r.d.reuse != nil {
		return r.d.reuse.read(ctx, p, off, by)
	}
	return by.ReadSparse(ctx, p, off)
}
