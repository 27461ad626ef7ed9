package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/precopy"
)

// roundsAndDisks fetches RAM in rounds, and beside it what agents copy of the disks, so that neither waits for the other's writing,
// or making durable. RAM that was written while the disks took longer is fetched once more.
func (s *nbdSession) roundsAndDisks(ctx context.Context) (*precopy.Rounds, error) {
	if s.mirrored == nil {
		return s.rounds(ctx)
	}
	var rounds *precopy.Rounds
	var ended time.Time
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return s.mirrored.fetch(both) })
	g.Go(func() (err error) {
		rounds, err = s.rounds(both)
		ended = time.Now()
		return err
	})
	if err := g.Wait(); err != nil || time.Since(ended) < againAfter {
		return rounds, err
	}
	return rounds, s.goOn(ctx, rounds)
}

// againAfter is how long RAM may have been written, while disks were waited for, without being fetched once more.
const againAfter = time.Second

// disksInStep waits until the driver has brought the disks in step, which is when QEMU's stream comes: until then nothing is
// committed, and the migration can be cancelled. It tells whether that took a while.
func (s *nbdSession) disksInStep(ctx context.Context, perform *call) (waited bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begun := time.Now()
	up := s.run(func(context.Context) error { return s.source.StreamUp(ctx) })
	select {
	case <-up.done:
		err = up.err
	case <-perform.done:
		cancel()
		<-up.done
		if err = perform.err; err == nil {
			err = errors.New("the driver was done before QEMU's stream came")
		}
	}
	if err != nil && s.wasCancelled() {
		err = fmt.Errorf("%w: %w", migrate.ErrCancelled, err)
	}
	return time.Since(begun) > againAfter, migrate.Fail("copy the disks", migrate.SideSource, err, "")
}

// flushAhead has both hosts write out what they have cached of the disks, so that QEMU need not within the pause.
func (s *nbdSession) flushAhead(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.onCancel(cancel)
	s.flusher.ahead(ctx)
}

// performedWithin waits for the driver. When its QEMU sends its devices' state the disks are over, and the destination can do what
// it has to do with them meanwhile.
func (s *nbdSession) performedWithin(limit context.Context, perform *call) error {
	switched := s.switched
	if s.bareSource {
		switched = nil // its driver's answer is what Finish needs
	}
	for {
		select {
		case <-perform.done:
			if perform.err == nil && closed(switched) { // both came at once
				s.landEarly()
			}
			return perform.err
		case <-switched:
			switched = nil
			s.landEarly()
		case <-limit.Done():
			return s.late(limit)
		}
	}
}

// closed tells whether a channel is; nil is not.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// settleDisks begins to let go of the images that agents wrote.
func (s *nbdSession) settleDisks(ctx context.Context) *call {
	if s.mirrored == nil {
		c := &call{done: make(chan struct{})}
		close(c.done)
		return c
	}
	return s.run(func(context.Context) error { return s.mirrored.settle(ctx) })
}

// movesDisks tells whether the drivers copy disks within Perform.
func (s *nbdSession) movesDisks() bool {
	return s.p.CopyStorage != migrate.CopyNone || len(s.p.MigrateDisks) > 0
}
