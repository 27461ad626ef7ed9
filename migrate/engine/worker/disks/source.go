package disks

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// sourceEnd is the source's end of the disks of one migration.
type sourceEnd struct {
	e    *Ends
	spec agent.DiskSourceSpec
	lock *takeLock

	disks   []*sourceDisk
	exports *nbd.Exports
	server  *nbd.Server
	link    *datalink.Keeper
	mirrors *mirrors // nil but for DisksMirror

	freezeMu sync.Mutex
	frozen   bool

	closing  sync.Once
	closeErr error
	closed   chan struct{}
}

// sourceDisk is one disk of it.
type sourceDisk struct {
	agent.SourceDisk
	live   *served // nil when it was frozen from the start
	first  image   // what was served before the disk was frozen
	frozen image   // nil before
	lock   *imageLock
	mirror standing
}

// openSource opens the source's end, under the name by which an agent takes it from another.
func (e *Ends) openSource(ctx context.Context, spec agent.DiskSourceSpec, lock string) (agent.DiskSource, error) {
	const op = "serve the guest's disks"
	s := &sourceEnd{e: e, spec: spec, exports: nbd.NewExports(), closed: make(chan struct{})}
	var err error
	if s.lock, err = e.take(ctx, migrate.SideSource, lock, true, s.detach); err != nil {
		return nil, migrate.Fail(op, migrate.SideSource, err, "")
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(migrate.Fail(op, migrate.SideSource, err, ""), s.Close(context.WithoutCancel(ctx)))
	}
	e.keep(s)
	s.lock.ready()
	return s, nil
}

func (s *sourceEnd) open(ctx context.Context) error {
	shared, err := shareOf(s.spec.Link, len(s.spec.Disks))
	if err != nil {
		return err
	}
	for _, d := range s.spec.Disks {
		if err := checkDisk(d); err != nil {
			return err
		}
		s.disks = append(s.disks, &sourceDisk{SourceDisk: d})
	}
	if s.spec.Resume {
		err = s.Freeze(ctx)
	} else {
		err = s.openLive(ctx)
	}
	if err != nil {
		return err
	}
	if s.spec.Mode == agent.DisksMirror {
		s.offerSums()
	}
	if s.server, err = nbd.NewServer(nbd.Config{Exports: s.exports, Log: s.e.o.Log}); err != nil {
		return err
	}
	if s.link, err = s.e.dialLink(s.spec.Migration, s.spec.Link, shared, s.serve); err != nil {
		return err
	}
	if err := s.link.Ready(ctx); err != nil || s.spec.Mode != agent.DisksMirror {
		return err
	}
	return s.openMirrors(ctx)
}

// openLive offers what the disks hold at this moment.
func (s *sourceEnd) openLive(ctx context.Context) error {
	for _, d := range s.disks {
		var err error
		if s.spec.Mode == agent.DisksMirror {
			d.first, err = openMirrored(ctx, d.SourceDisk)
		} else {
			d.first, err = openLive(ctx, d.SourceDisk)
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Target, err)
		}
		d.live = serveImage(d.Size, d.first)
		s.exports.Add(nbd.Export{Name: liveExport + d.Target, Backend: d.live, ReadOnly: true})
	}
	return nil
}

// serve has one data connection.
func (s *sourceEnd) serve(ctx context.Context, c *datalink.Conn) {
	if err := s.server.ServeConn(ctx, c); err != nil && ctx.Err() == nil {
		s.e.o.Log.Info("data connection of disks ended", "role", c.Role, "index", c.Index, "err", err)
	}
}

// Freeze implements agent.DiskSource.
func (s *sourceEnd) Freeze(ctx context.Context) error {
	s.freezeMu.Lock()
	defer s.freezeMu.Unlock()
	if s.frozen {
		return nil
	}
	err := s.e.spoiled(ctx, "disk-freeze")
	if err == nil {
		err = s.freeze(ctx)
	}
	if err != nil {
		return migrate.Fail("freeze the guest's disks", migrate.SideSource, errors.Join(err, s.thaw()), "")
	}
	s.frozen = true
	for _, d := range s.disks {
		s.exports.Add(nbd.Export{Name: diskExport + d.Target, Backend: serveImage(d.Size, d.frozen), ReadOnly: true})
		if d.live == nil {
			d.live = serveImage(d.Size, d.frozen)
			s.exports.Add(nbd.Export{Name: liveExport + d.Target, Backend: d.live, ReadOnly: true})
		}
		d.live.now.Store(&d.frozen)
		if d.first != nil { // whoever reads it right now asks again
			if err := d.first.Close(); err != nil {
				s.e.o.Log.Info("leave a disk as it was before it was frozen", "disk", d.Target, "err", err)
			}
			d.first = nil
		}
	}
	return nil
}

// freeze locks all images before it opens the first.
func (s *sourceEnd) freeze(ctx context.Context) error {
	var err error
	for _, d := range s.disks {
		if d.lock, err = lockImage(ctx, d.Path, s.e.o.Freeze); err != nil {
			return fmt.Errorf("disk %s: %w", d.Target, err)
		}
	}
	for _, d := range s.disks {
		if d.frozen, err = openFrozen(ctx, d.SourceDisk); err != nil {
			return fmt.Errorf("disk %s: %w", d.Target, err)
		}
	}
	return nil
}

// thaw lets go of what a freeze that failed has got.
func (s *sourceEnd) thaw() error {
	var errs []error
	for _, d := range s.disks {
		if d.frozen != nil {
			errs = append(errs, d.frozen.Close())
		}
		if d.lock != nil {
			errs = append(errs, d.lock.release())
		}
		d.frozen, d.lock = nil, nil
	}
	return errors.Join(errs...)
}

// Close implements agent.DiskSource.
func (s *sourceEnd) Close(ctx context.Context) error {
	if err := s.e.spoiled(ctx, "disk-close"); err != nil {
		return err
	}
	return s.detach()
}

// detach ends all connections and lets go of the images.
func (s *sourceEnd) detach() error {
	s.closing.Do(func() {
		var errs []error
		if s.link != nil {
			s.link.Close()
		}
		errs = append(errs, s.mirrors.close())
		if s.server != nil {
			errs = append(errs, s.server.Close())
		}
		s.freezeMu.Lock()
		errs = append(errs, s.thaw())
		s.freezeMu.Unlock()
		for _, d := range s.disks {
			if d.first != nil {
				errs = append(errs, d.first.Close())
			}
			errs = append(errs, d.forgetLive())
		}
		s.e.forget(s)
		s.closeErr = errors.Join(append(errs, s.lock.release())...)
		close(s.closed)
	})
	return s.closeErr
}

// forgetLive removes the socket that QEMU was given to show the disk on: a QEMU that is ended leaves it.
func (d *sourceDisk) forgetLive() error {
	if !strings.HasPrefix(filepath.Base(d.Live), "vmmigrate-") {
		return nil
	}
	return removeSocket(d.Live)
}

func (s *sourceEnd) abandon(ctx context.Context) error { return s.Close(ctx) }

// goneAfter is how many seconds in a row nobody must listen where the destination's agent did, for it to be gone. Another
// that takes its place listens elsewhere, and has another source's agent sent for.
const goneAfter = 3

// linger serves on once the guest has left, as long as the destination's agent comes for what the disks hold.
func (s *sourceEnd) linger(ctx context.Context) {
	s.freezeMu.Lock()
	frozen := s.frozen
	s.freezeMu.Unlock()
	if !frozen {
		return // the guest has not left
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	turned := 0 // how often the destination's host has said that nobody is there
	for silent := time.Duration(0); silent < s.e.o.Linger && turned < goneAfter; silent += time.Second {
		select {
		case <-ctx.Done():
			return
		case <-s.closed:
			return
		case <-tick.C:
		}
		up, why := s.link.State()
		if up > 0 {
			silent = 0
		}
		if turned++; up > 0 || !errors.Is(why, syscall.ECONNREFUSED) {
			turned = 0
		}
	}
}
