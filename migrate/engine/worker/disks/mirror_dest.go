package disks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// mirrorDest is the destination's end of disks that are mirrored.
type mirrorDest struct {
	e      *Ends
	spec   agent.DiskDestSpec
	lock   *takeLock
	shared share
	link   *datalink.Acceptor
	limit  *rate.Limiter
	disks  []*mirrored
	server []*nbd.Server // for the mirror of each disk

	fetching sync.Mutex
	from     []*fetch // by fetching: how each disk is read, once it is

	// clients are what was opened for from; by mu.
	mu      sync.Mutex
	clients []*nbd.Client
	meter   meter

	ctx  context.Context // ends with detach
	stop context.CancelFunc
	wg   sync.WaitGroup

	closing  sync.Once
	closeErr error
}

// mirrorLock is what the ends of mirrored disks lock, of a migration that may have others.
func mirrorLock(migration string) string { return migration + "/" + string(agent.DisksMirror) }

// openMirrorDest opens the destination's end of DisksMirror.
func (e *Ends) openMirrorDest(ctx context.Context, spec agent.DiskDestSpec) (agent.DiskDest, error) {
	const op = "take what is mirrored of the guest's disks"
	d := &mirrorDest{e: e, spec: spec, from: make([]*fetch, len(spec.Disks)), limit: rate.NewLimiter(rate.Inf, 4*pieceSize)}
	d.ctx, d.stop = context.WithCancel(context.Background())
	setLimit(d.limit, spec.Bandwidth)
	var err error
	if d.lock, err = e.take(ctx, migrate.SideDestination, mirrorLock(spec.Migration), true, d.detach); err != nil {
		return nil, migrate.Fail(op, migrate.SideDestination, err, "")
	}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(migrate.Fail(op, migrate.SideDestination, err, ""), d.detach())
	}
	e.keep(d)
	d.lock.ready()
	return d, nil
}

func (d *mirrorDest) open(ctx context.Context) error {
	err := d.e.spoiled(ctx, "disk-open")
	if err != nil {
		return err
	}
	if d.shared, err = shareOf(d.spec.Link, len(d.spec.Disks)); err != nil {
		return err
	}
	for _, disk := range d.spec.Disks {
		to, err := openTarget(ctx, disk)
		if err != nil {
			return fmt.Errorf("disk %s: %w", disk.Target, err)
		}
		m := newMirrored(disk, to, d.e.spoiled)
		d.disks = append(d.disks, m)
		s, err := nbd.NewServer(nbd.Config{Log: d.e.o.Log, Exports: nbd.NewExports(nbd.Export{Name: disk.Target, Backend: m, Unshared: true})})
		if err != nil {
			return err
		}
		d.server = append(d.server, s)
	}
	if d.link, err = d.e.acceptLink(ctx, d.spec.Migration, d.spec.Link); err != nil {
		return err
	}
	d.wg.Go(d.accept)
	d.wg.Go(d.tidy)
	return nil
}

// tidyEvery is how often what was mirrored is made durable.
const tidyEvery = 500 * time.Millisecond

// tidy makes durable what is mirrored to disks that are in line, so that little is left to do when the guest stands still.
func (d *mirrorDest) tidy() {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-tick.C:
		}
		for _, m := range d.disks {
			if !m.unflushed.Load() || m.complete() != nil {
				continue
			}
			if err := m.Sync(); err != nil { // which it remembers
				d.e.o.Log.Warn("flush a disk", "err", err)
			}
		}
	}
}

// accept takes the connections over which the mirrors of all disks come.
func (d *mirrorDest) accept() {
	for {
		c, err := d.link.Next(d.ctx, datalink.Mirror)
		if err != nil {
			return
		}
		if c.Index >= len(d.disks) {
			d.e.o.Log.Warn("a mirror of a disk that is not there", "index", c.Index)
			_ = c.Close() // it is of no use
			continue
		}
		d.disks[c.Index].joined.Store(true)
		d.wg.Go(func() {
			if err := d.server[c.Index].ServeConn(d.ctx, c); err != nil && d.ctx.Err() == nil {
				d.e.o.Log.Warn("what QEMU mirrors comes no more", "disk", d.disks[c.Index].Target, "err", err)
			}
		})
	}
}

// Addr implements agent.DiskDest.
func (d *mirrorDest) Addr() string { return d.link.Addr().String() }

// Ready implements agent.DiskDest.
func (d *mirrorDest) Ready(context.Context) error {
	return fmt.Errorf("wait above mirrored disks: %w", migrate.ErrNotSupported)
}

// Thaw implements agent.DiskDest.
func (d *mirrorDest) Thaw(context.Context) error {
	return migrate.Fail("thaw the disks", migrate.SideDestination, fmt.Errorf("disks that are mirrored are never frozen: %w", migrate.ErrNotSupported), "")
}

// Tune implements agent.DiskDest.
func (d *mirrorDest) Tune(_ context.Context, bandwidth int64) error {
	setLimit(d.limit, bandwidth)
	return nil
}

// atOnce is how many pieces of all disks are worked on at once.
const atOnce = 16

// Fetch implements agent.DiskDest.
func (d *mirrorDest) Fetch(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	d.fetching.Lock()
	defer d.fetching.Unlock()
	defer telling(func() { progress(d.progress()) })()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	err := d.e.spoiled(ctx, "disk-fetch")
	if err == nil {
		g, ctx := errgroup.WithContext(ctx)
		for i := range d.disks {
			g.Go(func() error { return d.fetch(ctx, i) })
		}
		err = g.Wait()
	}
	if d.ctx.Err() != nil {
		err = fmt.Errorf("the disks: %w", agent.ErrClosed)
	}
	return d.progress(), migrate.Fail("fetch the disks", migrate.SideDestination, err, "")
}

// fetch fetches one disk, and has it durable.
func (d *mirrorDest) fetch(ctx context.Context, i int) error {
	if err := d.connect(ctx, i); err != nil {
		return err
	}
	if err := d.from[i].run(ctx); err != nil {
		return err
	}
	return d.disks[i].Sync()
}

// joinTime is how long the source's end may take to come.
const joinTime = 10 * time.Second

// connect opens what a disk is read from, once.
func (d *mirrorDest) connect(ctx context.Context, i int) error {
	if d.from[i] != nil {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, joinTime)
	defer stop()
	m := d.disks[i]
	f := &fetch{m: m, limit: d.limit, hands: max(2, atOnce/len(d.disks))}
	live, err := d.client(ctx, datalink.Bulk, liveExport+m.Target, m.DestDisk.Size, d.shared.bulk)
	if err != nil {
		return err
	}
	f.live = clientOrigin{live}
	if f.sums, err = d.client(ctx, datalink.Demand, sumsExport+m.Target, sumsSize(m.DestDisk.Size)+sumSize, 1); err != nil {
		return err
	}
	d.from[i] = f
	return nil
}

func (d *mirrorDest) client(ctx context.Context, role datalink.Role, export string, size int64, conns int) (*nbd.Client, error) {
	c, err := openClient(ctx, d.link, role, size, nbd.ClientConfig{Export: export, Conns: conns, Log: d.e.o.Log, Patience: readPatience, Contexts: []string{nbd.BaseAllocation}})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: the source's agent does not come: %w", migrate.ErrLinkLost, err)
	case err != nil:
		return nil, linkError(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients = append(d.clients, c)
	return c, nil
}

// readPatience is how long the source's end may take for one piece: its disk may be slow. A link that is cut is noticed before, by
// what is not acknowledged.
const readPatience = 30 * time.Second

// clientOrigin is a disk at the source's end.
type clientOrigin struct{ *nbd.Client }

// Extents implements nbd.Extenter.
func (o clientOrigin) Extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	return o.BlockStatus(ctx, nbd.BaseAllocation, off, length)
}

func (d *mirrorDest) progress() agent.Progress {
	var p agent.Progress
	for _, m := range d.disks {
		one := m.progress()
		p.Disks = append(p.Disks, one)
		p.Remaining += one.Remaining
		p.Bytes += one.Mirrored
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.clients {
		p.Bytes += c.BytesIn()
	}
	p.Bandwidth = d.meter.now(p.Bytes)
	return p
}

// Settle implements agent.DiskDest.
func (d *mirrorDest) Settle(ctx context.Context) error {
	err := d.e.spoiled(ctx, "disk-settle")
	if err == nil {
		d.fetching.Lock()
		from := slices.Clone(d.from)
		d.fetching.Unlock()
		var g errgroup.Group
		for i, m := range d.disks {
			g.Go(func() error {
				if err := m.standing(ctx, from[i]); err != nil {
					return err
				}
				return m.settle(ctx)
			})
		}
		err = g.Wait()
	}
	if err == nil {
		err = d.e.spoiled(ctx, "disk-settled")
	}
	return migrate.Fail("hand the disks over", migrate.SideDestination, err, "")
}

// standing fails unless QEMU's mirror still stands, if there was one. One that has ended leaves the guest to write at the source
// alone, and QEMU cannot be asked by everybody while a guest is migrated.
func (m *mirrored) standing(ctx context.Context, f *fetch) error {
	m.mu.Lock()
	settled := m.to == nil
	m.mu.Unlock()
	if settled || f == nil || !m.joined.Load() { // what was not fetched is refused anyway
		return nil
	}
	var p [sumSize]byte
	if _, err := f.sums.ReadSparse(ctx, p[:], sumsSize(m.DestDisk.Size)); err != nil {
		return sourceError(m.Target, "ask after the mirror of", 0, err)
	}
	if p[0] != 1 {
		return fmt.Errorf("the source's QEMU has ended the mirror of disk %s, or had lost it: some of what its guest wrote may not be here", m.Target)
	}
	return nil
}

// Close implements agent.DiskDest.
func (d *mirrorDest) Close(ctx context.Context, _ agent.DiskClosing) error {
	if err := d.e.spoiled(ctx, "disk-close"); err != nil {
		return err
	}
	return d.detach()
}

// detach ends all connections and lets go of the images as they are.
func (d *mirrorDest) detach() error {
	d.closing.Do(func() {
		d.stop()
		var errs []error
		if d.link != nil {
			errs = append(errs, d.link.Close())
		}
		for _, s := range d.server {
			errs = append(errs, s.Close())
		}
		d.wg.Wait()
		d.mu.Lock()
		clients := d.clients
		d.mu.Unlock()
		for _, c := range clients {
			errs = append(errs, c.Close())
		}
		d.fetching.Lock() // one that was under way has ended
		for _, m := range d.disks {
			errs = append(errs, m.release(context.Background()))
		}
		d.fetching.Unlock()
		d.e.forget(d)
		d.closeErr = errors.Join(append(errs, d.lock.release())...)
	})
	return d.closeErr
}

func (d *mirrorDest) abandon(ctx context.Context) error { return d.Close(ctx, agent.DiskClosing{}) }

// linger has nothing to wait for: before the switch the guest runs at the source, and after it the images are QEMU's.
func (d *mirrorDest) linger(context.Context) {}
