package disks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// afterDisk is one disk. A unit of it is missing, present or zero, and never becomes missing again.
type afterDisk struct {
	agent.DestDisk
	d     *afterEnd
	index int
	units int
	cache *cache
	door  *door

	liveMu       sync.Mutex
	live         *nbd.Client
	demand, bulk atomic.Pointer[nbd.Client]
	demandUp     chan struct{}
	bulkUp       chan struct{}
	refused      chan error // why there is no connection of demand, once

	mu       sync.Mutex
	present  *ram.Bitmap
	zero     *ram.Bitmap
	surveyed int64 // up to here the zeros are known
	data     int64 // what is none, of that
	flights  map[int]*flight
	reads    meterOfReads
}

func newAfterDisk(d *afterEnd, index int, spec agent.DestDisk) (*afterDisk, error) {
	if spec.Target == "" || spec.Size <= 0 || spec.Socket == "" || spec.Cache == "" {
		return nil, errors.New("it needs a name, a size, a socket and a cache")
	}
	c, present, zero, err := openCache(spec, d.spec.Migration, d.spec.Resume)
	if err != nil {
		return nil, err
	}
	return &afterDisk{DestDisk: spec, d: d, index: index, units: c.units(), cache: c, demandUp: make(chan struct{}), bulkUp: make(chan struct{}),
		refused: make(chan error, 1), present: present, zero: zero, flights: map[int]*flight{}, reads: newMeterOfReads()}, nil
}

// listen opens the socket for QEMU.
func (a *afterDisk) listen(ctx context.Context) error {
	server, err := nbd.NewServer(nbd.Config{Log: a.d.e.o.Log, Exports: nbd.NewExports(nbd.Export{Name: a.Target, Backend: export{a}, ReadOnly: true})})
	if err != nil {
		return err
	}
	a.door, err = openDoor(ctx, a.Socket, server, a.d.e.o.Log)
	return err
}

func (a *afterDisk) guests() int { return a.door.guests() }

// connect opens the clients of the frozen disk.
func (a *afterDisk) connect() {
	if err := a.closeLive(); err != nil { // nobody opens it again
		a.d.e.o.Log.Info("leave a disk as it was before it was frozen", "disk", a.Target, "err", err)
	}
	conf := nbd.ClientConfig{Export: diskExport + a.Target, Conns: 1, Window: 64 << 20, Rejoin: a.d.e.o.Rejoin, Log: a.d.e.o.Log, Contexts: []string{nbd.BaseAllocation}}
	if c := a.client(datalink.Demand, conf); c != nil {
		a.measure(c)
		a.demand.Store(c)
		close(a.demandUp)
	}
	conf.Conns, conf.Window = a.d.share.bulk, mostAhead
	if c := a.client(datalink.Bulk, conf); c != nil {
		a.bulk.Store(c)
		close(a.bulkUp)
	}
}

// measure tells how long the link is. What cannot be read is told when it is asked for.
func (a *afterDisk) measure(c *nbd.Client) {
	p := make([]byte, min(512, a.size()))
	for range 2 {
		began := time.Now()
		if c.ReadAt(a.d.ctx, p, 0) == nil {
			now := time.Now()
			a.d.pace.read(now, now.Sub(began), int64(len(p)))
		}
	}
}

// client tries until the end is closed, which gives nil.
func (a *afterDisk) client(role datalink.Role, conf nbd.ClientConfig) *nbd.Client {
	for {
		c, err := openClient(a.d.ctx, a.d.link, role, a.Size, conf)
		if err == nil {
			return c
		}
		if a.d.ctx.Err() != nil {
			return nil
		}
		a.d.e.o.Log.Info("connect to a frozen disk", "disk", a.Target, "err", err)
		select {
		case a.refused <- err:
		default:
		}
		if !rest(a.d.ctx, 100*time.Millisecond) {
			return nil
		}
	}
}

// ready waits for a client, and gives the reason why there is none.
func (a *afterDisk) ready(ctx context.Context, up <-chan struct{}) error {
	var why error
	for {
		select {
		case <-up:
			return nil
		case why = <-a.refused:
			if errors.Is(why, nbd.ErrNoExport) {
				return why
			}
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no connection to the source's disk: %w", ctx.Err()), why)
		case <-a.d.ctx.Done():
			return net.ErrClosed
		}
	}
}

// size is what the guest sees, in bytes.
func (a *afterDisk) size() int64 { return a.DestDisk.Size }

// span is where the units from lo up to, but not with, hi are.
func (a *afterDisk) span(lo, hi int) (off, length int64) {
	off = int64(lo) * unit
	return off, min(int64(hi)*unit, a.size()) - off
}

// remaining is how many bytes are missing.
func (a *afterDisk) remaining() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.remainingLocked()
}

func (a *afterDisk) remainingLocked() int64 {
	n := int64(a.units-a.present.Count()-a.zero.Count()) * unit
	if last := a.units - 1; !a.present.Test(last) && !a.zero.Test(last) {
		_, short := a.span(last, a.units)
		n -= unit - short
	}
	return n
}

// place keeps units that came, in the order that lets a killed agent leave no mark of what is not there.
func (a *afterDisk) place(ctx context.Context, lo int, p []byte, holes []ram.Extent) error {
	hi := lo + (len(p)+unit-1)/unit
	err := a.cache.put(lo, p, holes)
	if err == nil {
		err = a.d.e.spoiled(ctx, "disk-mark")
	}
	if err == nil {
		err = a.cache.mark(lo, hi, markPresent)
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.present.SetRange(lo, hi)
	a.zero.ClearRange(lo, hi)
	a.mu.Unlock()
	a.d.planned(func(p *prepage.Policy) { p.Placed(a.index, lo, hi) })
	return nil
}

// hangUp ends QEMU's connections, without an answer to what is under way.
func (a *afterDisk) hangUp() {
	if a.door != nil {
		a.door.hangUp()
	}
}

// letGo ends the server and the clients.
func (a *afterDisk) letGo() error {
	var errs []error
	if a.door != nil {
		errs = append(errs, a.door.close())
	}
	errs = append(errs, a.closeLive())
	return errors.Join(errs...)
}

// drop is called when nobody reads or writes the disk any more.
func (a *afterDisk) drop(remove bool) error {
	var errs []error
	for _, at := range []*atomic.Pointer[nbd.Client]{&a.demand, &a.bulk} {
		if c := at.Load(); c != nil {
			errs = append(errs, c.Close())
		}
	}
	if remove {
		errs = append(errs, a.cache.remove())
		if a.door != nil {
			errs = append(errs, a.door.remove())
		}
	}
	return errors.Join(append(errs, a.cache.close())...)
}

// figures are what is told of it.
func (a *afterDisk) figures() agent.DiskProgress {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := agent.DiskProgress{Target: a.Target, Size: a.size(), Data: a.data, Remaining: a.remainingLocked(), Fetched: a.bytes()}
	p.Reads, p.ReadUS = a.reads.sum()
	return p
}

// bytes is what came over the link.
func (a *afterDisk) bytes() int64 {
	var n int64
	for _, at := range []*atomic.Pointer[nbd.Client]{&a.demand, &a.bulk} {
		if c := at.Load(); c != nil {
			n += c.BytesIn()
		}
	}
	return n
}
