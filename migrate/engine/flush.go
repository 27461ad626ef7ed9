package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/libvirthost"
)

// flusher has both hosts write out what their caches hold of a guest's disks. QEMU does that for every image, one after the other,
// when it has stopped a guest, and again when a mirror ends: what is written by then costs nothing of the pause. All of it is
// help and nothing that a migration depends on. What agents have copied to (Params.Reuse) the destination's QEMU takes possession
// of only when it is to run the guest, and then it has the cache forget all of that first: that, too, is done ahead.
type flusher struct {
	s     *session
	ends  [2]flushEnd
	begun chan struct{} // closed when it is worth it
	once  sync.Once
}

// flushEnd is what an agent is asked to write out.
type flushEnd struct {
	agent.Images
	paths []string
	drop  bool
}

// newFlusher finds out which images there are; nil where there is nothing to do.
func newFlusher(ctx context.Context, s *session, here, there agent.Images) *flusher {
	f := &flusher{s: s, begun: make(chan struct{})}
	from, to, err := s.imagesOfDisks(ctx)
	if err != nil {
		s.log.Debug("find the images to write out ahead of the stop", "err", err)
		return nil
	}
	f.ends = [2]flushEnd{{here, from, false}, {there, to, s.job.Params.DisksByAgents()}}
	if here == nil || len(from) == 0 {
		return nil
	}
	return f
}

// imagesOfDisks are the images that the source's QEMU writes, and those at the destination that are copied to.
func (s *session) imagesOfDisks(ctx context.Context) (from, to []string, err error) {
	guest, err := s.src.Domain(ctx, s.job.Domain)
	if err != nil {
		return nil, nil, err
	}
	places := guest.Disks
	switch _, mapper := s.src.(migrate.DiskMapper); {
	case !mapper: // a QEMU that its owner started has its own
		places = nil
		if d, err := s.dst.Domain(ctx, s.destName()); err == nil {
			places = d.Disks
		}
	case s.job.Params.DestinationXML != "":
		f, err := libvirthost.FactsOf(s.job.Params.DestinationXML)
		if err != nil {
			return nil, nil, err
		}
		places = f.Disks
	}
	for _, d := range guest.Disks {
		if !cached(d) {
			continue
		}
		from = append(from, d.Path)
		i := slices.IndexFunc(places, func(o migrate.Disk) bool { return o.Target == d.Target })
		if i < 0 || !s.job.Params.Copies(d) || s.job.Params.CopyStorage == migrate.CopyAfter {
			continue
		}
		if o := s.job.Params.MapDisk(places[i]); cached(o) {
			to = append(to, o.Path)
		}
	}
	return from, to, nil
}

// cached tells of a disk that this host may have written to in its own cache.
func cached(d migrate.Disk) bool {
	return d.Path != "" && (d.Kind == "file" || d.Kind == "block") && !d.ReadOnly && !d.CDROM
}

// flushLimit is how long the storage may take to write out what was cached before the migration goes on without.
const flushLimit = 10 * time.Second

// flush writes out once at both ends.
func (f *flusher) flush(ctx context.Context) error {
	var g errgroup.Group
	for i, e := range f.ends {
		if e.Images == nil || len(e.paths) == 0 {
			continue
		}
		side := []migrate.Side{migrate.SideSource, migrate.SideDestination}[i]
		g.Go(func() error {
			if err := e.SyncImages(ctx, e.paths, e.drop); err != nil {
				return fmt.Errorf("write out the images at the %s ahead of the stop: %w", side, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// ahead writes out until there is little left to write, just before the guest is stopped.
func (f *flusher) ahead(ctx context.Context) {
	if f == nil {
		return
	}
	ctx, stop := context.WithTimeout(ctx, flushLimit)
	defer stop()
	for range 3 { // the guest writes meanwhile
		begun := time.Now()
		if err := f.flush(ctx); err != nil {
			f.s.log.Debug("flush", "err", err)
			return
		}
		if time.Since(begun) < quickFlush {
			return
		}
	}
}

// quickFlush is how long writing out takes when there is little to write.
const quickFlush = 20 * time.Millisecond

// begin says that the stop is near enough: the disks are in step, and RAM is sent.
func (f *flusher) begin() {
	if f != nil {
		f.once.Do(func() { close(f.begun) })
	}
}

// keepUp writes out every now and then from begin until over, where QEMU stops the guest by itself. It leaves storage that is slow
// in peace most of the time.
func (f *flusher) keepUp(ctx context.Context, over <-chan struct{}) {
	wait := (<-chan time.Time)(nil)
	begun := f.begun
	for {
		select {
		case <-begun:
			begun = nil
		case <-wait:
		case <-over:
			return
		case <-ctx.Done():
			return
		}
		at := time.Now()
		if err := f.flush(ctx); err != nil {
			f.s.log.Debug("flush", "err", err)
			return
		}
		wait = time.After(max(flushEvery, 4*time.Since(at)))
	}
}

// flushEvery is the least time between two flushes while RAM is sent.
const flushEvery = 100 * time.Millisecond
