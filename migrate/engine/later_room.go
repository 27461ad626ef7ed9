package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// A destination whose file system is full has room for nothing: neither for what is fetched, nor for what the guest writes.
// Then QEMU stops the guest at its first write that finds none, and does that write again once somebody lets it go on.
//
//	fetch, fold    fail with storage.ErrNoRoom, and are tried again once there is more room (withRoom)
//	the guest      is let go on every now and then (keepRunning)
//
// Both go on for as long as the page step does: the guest can go nowhere else, so there is nothing to be had from giving up.
// recover begins them anew.

// How often a full file system and a guest on it are looked at, and how long to wait at most before another try where the room
// does not tell, as with quotas.
const (
	roomEvery = time.Second
	roomLong  = 15 * time.Second
)

// leastRoom is what a file system has left at most if it may be why a fold ended, in bytes: libvirt does not tell why.
const leastRoom = 16 << 20

// withRoom does what needs room, and does it again when it had none.
func (l *later) withRoom(ctx context.Context, p *agent.Progress, do func() error) error {
	err := do()
	for ; err != nil; err = do() {
		free, full := l.full(ctx, err)
		if !full {
			return err
		}
		if err := l.awaitRoom(ctx, p, free); err != nil {
			return err
		}
	}
	return nil
}

// full tells whether an error is for lack of room, and how many bytes are free.
func (l *later) full(ctx context.Context, err error) (free int64, is bool) {
	free = l.free(ctx)
	link := errors.Is(err, migrate.ErrLinkLost) || errors.Is(err, migrate.ErrNoDomain)
	return free, ctx.Err() == nil && (errors.Is(err, storage.ErrNoRoom) || !link && free >= 0 && free < leastRoom)
}

// free is the least that a file system with one of the disks has left; -1 is not known.
func (l *later) free(ctx context.Context) int64 {
	least := int64(-1)
	ctx, stop := context.WithTimeout(ctx, answerLimit)
	defer stop()
	for _, d := range l.disks {
		if d.Final.Kind == "block" {
			continue
		}
		img, err := l.there.DescribeImage(ctx, storage.Query{Path: d.Final.Path, Format: d.Final.Format})
		if err == nil && (least < 0 || img.Free < least) {
			least = img.Free
		}
	}
	return least
}

// awaitRoom returns when there is more than there was, or after a while. It tells of the wait.
func (l *later) awaitRoom(ctx context.Context, p *agent.Progress, had int64) error {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for until := time.Now().Add(roomLong); time.Now().Before(until); {
		var need int64
		for _, d := range p.Disks {
			need += max(d.Remaining, 0)
		}
		l.tellWaits(*p, fmt.Sprintf("the target is full (No space left on device); free some space there, up to %d MiB, it goes on by itself", need>>20+1))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if now := l.free(ctx); now > had {
			return nil
		}
	}
	return nil
}

// tellWaits passes figures on, with why the disks wait.
func (l *later) tellWaits(p agent.Progress, why string) {
	sink := waiting{l.s.job.Sink, why}
	tellDisks(sink, migrate.WayAfter, p, p.Remaining, false)
}

// waiting adds to figures why disks wait.
type waiting struct {
	migrate.Sink
	why string
}

// Stats implements migrate.Sink.
func (w waiting) Stats(st migrate.Stats) {
	for i := range st.Disks {
		st.Disks[i].Waits = w.why
	}
	w.Sink.Stats(st)
}

// keepRunning lets the guest go on whenever it stands still for lack of room, until the returned function is called. That is
// called once the disks are whole or the step has failed, and looks once more.
func (l *later) keepRunning(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(roomEvery)
		defer tick.Stop()
		for told := false; ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			told = l.unstick(ctx, told)
		}
	})
	return func() {
		cancel()
		wg.Wait()
		l.unstick(context.WithoutCancel(ctx), true)
	}
}

// unstick lets it go on once. told is whether that was told of before.
func (l *later) unstick(ctx context.Context, told bool) bool {
	ctx, stop := context.WithTimeout(ctx, answerLimit)
	defer stop()
	was, err := l.to.Unstick(ctx, l.s.destName())
	switch {
	case err != nil:
		l.s.log.Debug("let the guest go on", "err", err)
	case was && !told:
		l.s.job.Sink.Note("the guest stood still at the destination, since there was no room for what it wrote; it is let go on every second until there is")
	}
	return told || was
}
