package disks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// demandMost is how many units one read asks the source for at once.
const demandMost = 64

// export is a disk as QEMU sees it: a backend of the NBD server.
type export struct{ *afterDisk }

// Size implements backend.Backend.
func (x export) Size() (int64, error) { return x.size(), nil }

// ReadAt implements backend.Backend.
func (x export) ReadAt(p []byte, off int64) (int, error) {
	holes, err := x.ReadSparse(x.d.ctx, p, off)
	for _, h := range holes {
		clear(p[h.Offset-off : h.End()-off])
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAt implements backend.Backend.
func (x export) WriteAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

// Sync implements backend.Backend.
func (x export) Sync() error { return nil }

// ReadSparse implements nbd.SparseReader.
func (x export) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	if x.d.thawed.Err() == nil {
		if holes, done, err := x.readLive(ctx, p, off); done {
			return holes, err
		}
	}
	return x.readFrozen(ctx, p, off)
}

// state of units.
type state int

const (
	missing state = iota
	present
	zero
)

// stateAt is that of a unit; called with mu held.
func (a *afterDisk) stateAt(u int) state {
	switch {
	case a.present.Test(u):
		return present
	case a.zero.Test(u):
		return zero
	}
	return missing
}

// run is how many bytes from off on, before end, are in the same state.
func (a *afterDisk) run(off, end int64) (state, int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := int(off / unit)
	s := a.stateAt(u)
	at := int64(u+1) * unit
	for at < end && a.stateAt(int(at/unit)) == s {
		at += unit
	}
	return s, min(at, end) - off
}

// readFrozen reads what is here from here, and the rest from the source.
func (a *afterDisk) readFrozen(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	for at, end := off, off+int64(len(p)); at < end; {
		s, n := a.run(at, end)
		q := p[at-off:]
		var some []ram.Extent
		switch s {
		case zero:
			some = []ram.Extent{{Offset: at, Length: n}}
		case present:
			some, err = a.cache.read(ctx, q[:n], at)
		case missing:
			n, err = a.readMissing(ctx, q[:n], at)
		}
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", a.Target, err)
		}
		holes = append(holes, some...)
		at += n
	}
	return holes, nil
}

// flight is a request for units that somebody waits for.
type flight struct {
	lo, hi int
	done   chan struct{}
	p      []byte // to be read after done is closed, as is err
	err    error
}

// readMissing reads some of a range whose units were missing, from its start on, and tells how much.
func (a *afterDisk) readMissing(ctx context.Context, p []byte, off int64) (int64, error) {
	began := time.Now()
	f := a.board(off, off+int64(len(p)))
	if f == nil {
		return 0, nil // look again
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if f.err != nil {
		return 0, f.err
	}
	n := copy(p, f.p[off-int64(f.lo)*unit:])
	a.mu.Lock()
	a.reads.record(time.Since(began))
	a.mu.Unlock()
	return int64(n), nil
}

// board joins the flight that brings the unit at off, or starts one for as many units as are needed and not on their way. It is
// nil if the unit has just come.
// Those that are fetched ahead at the moment are asked for once more: they may be behind a lot of others.
func (a *afterDisk) board(off, end int64) *flight {
	a.mu.Lock()
	defer a.mu.Unlock()
	lo := int(off / unit)
	if f := a.flights[lo]; f != nil {
		return f
	}
	f := &flight{lo: lo, hi: lo, done: make(chan struct{})}
	for f.hi < a.units && int64(f.hi)*unit < end && f.hi-f.lo < demandMost && a.flights[f.hi] == nil && a.stateAt(f.hi) == missing {
		a.flights[f.hi] = f
		f.hi++
	}
	if f.hi == f.lo {
		return nil
	}
	a.d.wg.Go(func() { a.fly(f) })
	return f
}

// fly brings what somebody waits for.
func (a *afterDisk) fly(f *flight) {
	a.d.planned(func(p *prepage.Policy) {
		for u := f.lo; u < f.hi; u++ {
			p.Fault(a.index, u)
		}
	})
	off, length := a.span(f.lo, f.hi)
	f.p = make([]byte, length)
	began := time.Now()
	a.d.pace.read(began, 0, 0)
	a.d.setPace(began)
	holes, err := a.ask(f.p, off)
	if now := time.Now(); err == nil {
		a.d.pace.read(now, now.Sub(began), length)
	}
	if f.err = err; err == nil {
		if err := a.place(a.d.ctx, f.lo, f.p, holes); err != nil { // it is answered all the same
			a.d.e.o.Log.Warn("keep what was read of a disk", "disk", a.Target, "err", err)
		}
	}
	a.d.planned(func(p *prepage.Policy) { p.Return(prepage.Run{Block: a.index, Lo: f.lo, Hi: f.hi}) })
	a.mu.Lock()
	for u := f.lo; u < f.hi; u++ {
		delete(a.flights, u)
	}
	a.mu.Unlock()
	close(f.done)
}

// What is asked for once more when the source cannot read it, and when.
const (
	readTries = 5
	readPause = 200 * time.Millisecond
)

// ask reads from the source, however long it takes for the link to come back.
func (a *afterDisk) ask(p []byte, off int64) ([]ram.Extent, error) {
	if err := a.d.e.spoiled(a.d.ctx, "disk-read"); err != nil {
		return nil, err
	}
	select {
	case <-a.demandUp:
	case <-a.d.ctx.Done():
		return nil, a.d.ctx.Err()
	}
	for tries := 1; ; tries++ {
		holes, err := a.demand.Load().ReadData(a.d.ctx, p, off)
		var remote *nbd.RemoteError
		if err == nil || a.d.ctx.Err() != nil || errors.As(err, &remote) && tries >= readTries {
			return holes, err
		}
		if remote == nil {
			tries = 0
		}
		a.d.e.o.Log.Info("read a disk of the source", "disk", a.Target, "offset", off, "err", err)
		if !rest(a.d.ctx, readPause) {
			return nil, a.d.ctx.Err()
		}
		clear(p)
	}
}

// liveTime is how long reads before the guest comes may fail at the source.
const liveTime = 30 * time.Second

// readLive reads what the disk holds at the source at this moment. It is not done when the disk was frozen meanwhile.
func (a *afterDisk) readLive(ctx context.Context, p []byte, off int64) (holes []ram.Extent, done bool, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(a.d.thawed, stop)()
	for until := time.Now().Add(liveTime); ; {
		c, err := a.liveClient(ctx)
		if err == nil {
			if holes, err = c.ReadSparse(ctx, p, off); err == nil {
				return holes, true, nil
			}
		}
		var remote *nbd.RemoteError
		failed := errors.As(err, &remote) && time.Now().After(until)
		if failed || !rest(ctx, 100*time.Millisecond) {
			return nil, a.d.thawed.Err() == nil || a.d.ctx.Err() != nil, err
		}
	}
}

func (a *afterDisk) liveClient(ctx context.Context) (*nbd.Client, error) {
	a.liveMu.Lock()
	defer a.liveMu.Unlock()
	if a.live != nil {
		return a.live, nil
	}
	if a.d.thawed.Err() != nil {
		return nil, a.d.thawed.Err()
	}
	var err error
	a.live, err = openClient(ctx, a.d.link, datalink.Bulk, a.size(), nbd.ClientConfig{Export: liveExport + a.Target, Log: a.d.e.o.Log})
	return a.live, err
}

// closeLive gives its connection back.
func (a *afterDisk) closeLive() error {
	a.liveMu.Lock()
	defer a.liveMu.Unlock()
	if a.live == nil {
		return nil
	}
	err := a.live.Close()
	a.live = nil
	return err
}

// Extents implements nbd.Extenter. Of what is not known yet it says little, and that it is data: a client may remember it.
func (x export) Extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	if x.d.thawed.Err() == nil {
		return []nbd.Status{{Length: min(length, unit)}}, nil
	}
	const most = 1024
	var out []nbd.Status
	for end := off + length; off < end && len(out) < most; {
		s, n := x.run(off, end)
		switch s {
		case zero:
			out = append(out, nbd.Status{Length: n, Flags: nbd.StatusHole | nbd.StatusZero})
		case present:
			list, err := x.cache.extents(ctx, off, n)
			if err != nil {
				return nil, err
			}
			n = 0
			for _, s := range list {
				n += s.Length
			}
			out = append(out, list...)
		case missing:
			if x.known() <= off {
				return append(out, nbd.Status{Length: min(n, unit-off%unit)}), nil
			}
			out = append(out, nbd.Status{Length: n})
		}
		off += n
	}
	return out, nil
}

// known is up to where the source has told what is zero.
func (a *afterDisk) known() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.surveyed
}
