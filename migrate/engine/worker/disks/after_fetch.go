package disks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// aheadUnits is how many units are fetched ahead at once, fetchers how many such pieces are on their way.
const (
	aheadUnits = 16
	aheadSize  = aheadUnits * unit
	fetchers   = 12
)

// Fetch implements agent.DiskDest.
func (d *afterEnd) Fetch(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	d.fetching.Lock()
	defer d.fetching.Unlock()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(d.ctx, stop)()
	quiet := telling(func() { progress(d.progress()) })
	err := d.fetch(ctx)
	quiet()
	return d.progress(), migrate.Fail("fetch the guest's disks", migrate.SideDestination, linkError(err), fixOf(err))
}

// fixOf is what a fault of a file can be put right with.
func fixOf(err error) string {
	var fault *storage.Error
	if errors.As(err, &fault) {
		return fault.Fix
	}
	return ""
}

func (d *afterEnd) fetch(ctx context.Context) error {
	if d.thawed.Err() == nil {
		return errors.New("the guest has not left the source")
	}
	if d.ctx.Err() != nil {
		return d.ctx.Err()
	}
	if !d.missing() {
		return nil
	}
	for _, a := range d.disks {
		if err := a.survey(ctx); err != nil {
			return fmt.Errorf("disk %s: %w", a.Target, err)
		}
	}
	if err := d.makePlan(); err != nil {
		return err
	}
	defer d.keepPace()()
	for d.missing() {
		g, all := errgroup.WithContext(ctx) // which ends with the group
		for range fetchers {
			g.Go(func() error { return d.fetcher(all) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if d.missing() && !rest(ctx, time.Millisecond) { // what is left is read by the guest right now
			return ctx.Err()
		}
	}
	return nil
}

// survey asks the source which units are zero.
func (a *afterDisk) survey(ctx context.Context) error {
	wait, stop := context.WithTimeout(ctx, a.d.e.o.Rejoin)
	defer stop()
	if err := a.ready(wait, a.bulkUp); err != nil {
		if ctx.Err() == nil && wait.Err() != nil {
			err = fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
		}
		return err
	}
	c := a.bulk.Load()
	for at := a.known(); at < a.size(); at = a.known() {
		n := min(statusAtOnce, a.size()-at)
		list := []nbd.Status{{Length: n}}
		if slices.Contains(c.Info().Contexts, nbd.BaseAllocation) {
			var err error
			if list, err = c.BlockStatus(ctx, nbd.BaseAllocation, at, n); err != nil {
				return err
			}
		}
		if err := a.learn(at, n, list); err != nil {
			return err
		}
	}
	return nil
}

// learn takes in what the source says of a range.
func (a *afterDisk) learn(off, length int64, list []nbd.Status) error {
	runs, data := zeroUnits(off, a.size(), list)
	for _, r := range runs {
		if err := a.cache.mark(r.Lo, r.Hi, markZero); err != nil { // what was read meanwhile is zero, too
			return err
		}
		a.mu.Lock()
		for u := r.Lo; u < r.Hi; u++ {
			if !a.present.Test(u) {
				a.zero.Set(u)
			}
		}
		a.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.surveyed, a.data = off+length, a.data+data
	return nil
}

// zeroUnits are the whole units that are zero in what is said of a disk from off on, which is at a unit's start; data is how many
// bytes are not zero.
func zeroUnits(off, size int64, list []nbd.Status) (zero []prepage.Run, data int64) {
	from := int64(-1) // the start of zeros
	at := off
	end := func() {
		if from < 0 {
			return
		}
		lo, hi := (from+unit-1)/unit, at/unit
		if at == size {
			hi = (at + unit - 1) / unit
		}
		if lo < hi {
			zero = append(zero, prepage.Run{Lo: int(lo), Hi: int(hi)})
		}
		from = -1
	}
	for _, s := range list {
		if s.Flags&nbd.StatusZero != 0 {
			if from < 0 {
				from = at
			}
		} else {
			end()
			data += s.Length
		}
		at += s.Length
	}
	end()
	return zero, data
}

// makePlan makes the order in which everything is to come, once the zeros are known.
func (d *afterEnd) makePlan() error {
	d.planMu.Lock()
	defer d.planMu.Unlock()
	if d.plan != nil {
		return nil
	}
	blocks := d.blocks()
	missing := ram.NewSet(blocks)
	missing.Fill()
	for i, a := range d.disks {
		a.mu.Lock()
		missing[i].AndNot(a.present)
		missing[i].AndNot(a.zero)
		a.mu.Unlock()
	}
	var err error
	d.plan, err = prepage.New("bubble", blocks, missing, nil)
	return err
}

// keepPace sees that no more is asked for ahead than the pace says, until the returned function is called.
func (d *afterEnd) keepPace() (stop func()) {
	return every(sampleTime/2, func() {
		now := time.Now()
		var total int64
		for _, a := range d.disks {
			total += a.bytes()
		}
		d.pace.came(now, total)
		d.setPace(now)
	})
}

// setPace shares what may be asked for ahead among the disks.
func (d *afterEnd) setPace(now time.Time) {
	each := max(unit, d.pace.ahead(now)/int64(len(d.disks)))
	for _, a := range d.disks {
		if c := a.bulk.Load(); c != nil {
			c.SetWindow(each)
		}
	}
}

// piece is how many units are asked for at once: several pieces are to be on their way.
func (d *afterEnd) piece() int {
	return int(min(aheadUnits, max(1, d.pace.ahead(time.Now())/4/unit)))
}

// fetcher brings pieces until none is left to ask for.
func (d *afterEnd) fetcher(ctx context.Context) error {
	buf := make([]byte, aheadSize)
	for {
		var r prepage.Run
		var ok bool
		most := d.piece()
		d.planned(func(p *prepage.Policy) { r, ok = p.Next(most) })
		if !ok {
			return nil
		}
		if err := d.fetchPiece(ctx, r, buf); err != nil {
			d.planned(func(p *prepage.Policy) { p.Return(r) })
			return err
		}
	}
}

func (d *afterEnd) fetchPiece(ctx context.Context, r prepage.Run, buf []byte) error {
	a := d.disks[r.Block]
	off, length := a.span(r.Lo, r.Hi)
	err := d.limit.WaitN(ctx, int(length))
	if err == nil {
		err = d.e.spoiled(ctx, "disk-piece")
	}
	var holes []ram.Extent
	if err == nil {
		holes, err = a.bulk.Load().ReadData(ctx, buf[:length], off)
	}
	if err == nil {
		err = a.place(ctx, r.Lo, buf[:length], holes)
	}
	if err != nil {
		return fmt.Errorf("disk %s, %d bytes at %d: %w", a.Target, length, off, err)
	}
	return nil
}

func (d *afterEnd) progress() agent.Progress {
	var p agent.Progress
	for _, a := range d.disks {
		one := a.figures()
		p.Disks = append(p.Disks, one)
		p.Bytes += one.Fetched
		p.Remaining += one.Remaining
	}
	p.Bandwidth = d.meter.now(p.Bytes)
	return p
}
