package disks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// afterEnd is the destination's end of disks that come after the guest.
type afterEnd struct {
	e     *Ends
	spec  agent.DiskDestSpec
	lock  *takeLock
	link  *datalink.Acceptor
	disks []*afterDisk
	share share
	limit *rate.Limiter
	meter meter
	pace  pace

	// ctx ends when the end is closed and bounds its goroutines.
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	// thawed ends when the source's end is frozen.
	thawed context.Context
	thaw   context.CancelFunc
	joined sync.Once

	fetching sync.Mutex // one Fetch at a time
	planMu   sync.Mutex // after the disks' mu
	plan     *prepage.Policy

	closeMu sync.Mutex
	gone    bool
	closed  chan struct{}
}

// openDestAfter opens the destination's end of DisksAfter.
func (e *Ends) openDestAfter(ctx context.Context, spec agent.DiskDestSpec) (agent.DiskDest, error) {
	const op = "take in the guest's disks"
	d := &afterEnd{e: e, spec: spec, limit: newLimiter(spec.Bandwidth), closed: make(chan struct{})}
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.thawed, d.thaw = context.WithCancel(d.ctx)
	var err error
	if d.lock, err = e.take(ctx, migrate.SideDestination, spec.Migration, spec.Resume, d.detach); err != nil {
		d.stop()
		return nil, migrate.Fail(op, migrate.SideDestination, err, "")
	}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(migrate.Fail(op, migrate.SideDestination, err, ""), d.end(!spec.Resume))
	}
	e.keep(d)
	d.lock.ready()
	return d, nil
}

func (d *afterEnd) open(ctx context.Context) error {
	var err error
	if d.share, err = shareOf(d.spec.Link, len(d.spec.Disks)); err != nil {
		return err
	}
	for i, spec := range d.spec.Disks {
		one, err := newAfterDisk(d, i, spec)
		if err != nil {
			return fmt.Errorf("disk %s: %w", spec.Target, err)
		}
		d.disks = append(d.disks, one)
	}
	if d.link, err = d.e.acceptLink(ctx, d.spec.Migration, d.spec.Link); err != nil {
		return err
	}
	for _, one := range d.disks {
		if err := one.listen(ctx); err != nil {
			return fmt.Errorf("disk %s: %w", one.Target, err)
		}
	}
	if d.spec.Resume {
		d.join()
	}
	return nil
}

// Addr implements agent.DiskDest.
func (d *afterEnd) Addr() string { return d.link.Addr().String() }

// join turns from what the disks hold at the moment to what they hold for good.
func (d *afterEnd) join() {
	d.thaw()
	d.joined.Do(func() {
		for _, one := range d.disks {
			d.wg.Go(one.connect)
		}
	})
}

// Ready implements agent.DiskDest.
func (d *afterEnd) Ready(context.Context) error {
	for _, one := range d.disks {
		if one.door.guests() == 0 {
			return migrate.Fail("wait above the disks", migrate.SideDestination, fmt.Errorf("no QEMU has opened the export of disk %s", one.Target), "")
		}
	}
	return nil
}

// Thaw implements agent.DiskDest.
func (d *afterEnd) Thaw(ctx context.Context) error {
	const op = "turn to the frozen disks"
	if err := d.e.spoiled(ctx, "disk-thaw"); err != nil {
		return migrate.Fail(op, migrate.SideDestination, err, "")
	}
	d.join()
	for _, one := range d.disks {
		if err := one.ready(ctx, one.demandUp); err != nil {
			return migrate.Fail(op, migrate.SideDestination, fmt.Errorf("disk %s: %w", one.Target, linkError(err)), "")
		}
	}
	return nil
}

// Tune implements agent.DiskDest.
func (d *afterEnd) Tune(_ context.Context, bandwidth int64) error {
	setLimit(d.limit, bandwidth)
	return nil
}

// Settle implements agent.DiskDest.
func (d *afterEnd) Settle(context.Context) error {
	return fmt.Errorf("settle disks that come after the guest: %w", migrate.ErrNotSupported)
}

// blocks are the disks as the plan knows them.
func (d *afterEnd) blocks() []ram.Block {
	var out []ram.Block
	for _, one := range d.disks {
		out = append(out, ram.Block{Name: one.Target, Size: int64(one.units) * unit, PageSize: unit})
	}
	return out
}

// missing is whether anything is still to come.
func (d *afterEnd) missing() bool {
	for _, one := range d.disks {
		if one.remaining() > 0 {
			return true
		}
	}
	return false
}

// planned calls f with the plan, if there is one.
func (d *afterEnd) planned(f func(p *prepage.Policy)) {
	d.planMu.Lock()
	defer d.planMu.Unlock()
	if d.plan != nil {
		f(d.plan)
	}
}

// Close implements agent.DiskDest.
func (d *afterEnd) Close(ctx context.Context, how agent.DiskClosing) error {
	thawed := d.thawed.Err() != nil
	if thawed && d.missing() && !how.Abandon && !how.Done && !d.isClosed() {
		return migrate.Fail("leave the guest's disks", migrate.SideDestination, errors.New("parts of them are still missing"), "let them be fetched first")
	}
	if err := d.e.spoiled(ctx, "disk-close"); err != nil {
		return err
	}
	return d.end(how.Abandon || how.Done || !thawed)
}

func (d *afterEnd) isClosed() bool { return ended(d.closed) }

// detach leaves the caches for another agent.
func (d *afterEnd) detach() error { return d.end(false) }

// end lets go of everything, once. QEMU must not be answered with an error meanwhile: its connections go first.
func (d *afterEnd) end(remove bool) error {
	d.closeMu.Lock()
	defer d.closeMu.Unlock()
	if d.gone {
		return nil
	}
	d.gone = true
	var errs []error
	for _, one := range d.disks {
		one.hangUp()
	}
	d.stop()
	for _, one := range d.disks {
		errs = append(errs, one.letGo())
	}
	if d.link != nil {
		errs = append(errs, d.link.Close())
	}
	d.wg.Wait()
	d.fetching.Lock() // it ends with ctx
	defer d.fetching.Unlock()
	for _, one := range d.disks {
		errs = append(errs, one.drop(remove))
	}
	d.e.forget(d)
	close(d.closed)
	return errors.Join(append(errs, d.lock.release())...)
}

// abandon keeps what a guest that may run here needs.
func (d *afterEnd) abandon(ctx context.Context) error {
	if d.thawed.Err() == nil {
		return d.Close(ctx, agent.DiskClosing{Abandon: true})
	}
	return d.detach()
}

// linger goes on while a guest here uses the disks, and fetches what is missing.
func (d *afterEnd) linger(ctx context.Context) {
	if d.thawed.Err() == nil {
		return // the guest did not come
	}
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { d.fetchOn(ctx) })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for unused := time.Duration(0); unused < d.e.o.Linger; unused += time.Second {
		select {
		case <-ctx.Done():
			return
		case <-d.closed:
			return
		case <-tick.C:
		}
		if d.guests() > 0 {
			unused = 0
		}
	}
}

// fetchOn fetches until everything is there.
func (d *afterEnd) fetchOn(ctx context.Context) {
	for !d.isClosed() {
		_, err := d.Fetch(ctx, func(agent.Progress) {})
		if err == nil {
			return
		}
		d.e.o.Log.Info("fetch disks without a coordinator", "err", err)
		if !rest(ctx, time.Second) {
			return
		}
	}
}

// guests is how many connections QEMU has.
func (d *afterEnd) guests() int {
	n := 0
	for _, one := range d.disks {
		n += one.guests()
	}
	return n
}

// rest waits, and tells whether the context has not ended.
func rest(ctx context.Context, t time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(t):
		return true
	}
}
