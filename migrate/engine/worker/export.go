package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/precopy/track"
)

// exports is the RAM of a guest that stays where it is, for NBD clients. It owns one goroutine, which waits for a reason
// to end.
type exports struct {
	w    *Worker
	spec agent.ExportSpec
	qemu *sys.Process
	pid  int   // its number
	lock *lock // nil unless pages are tracked: then no migration may track them, too
	seen *view
	log  *dirtyLog // nil unless pages are tracked

	server *nbd.Server
	stop   context.CancelFunc
	wg     sync.WaitGroup

	endOnce sync.Once
	ended   chan struct{}
	why     error // to be read after ended is closed
	failed  error // what could not be cleaned up; the same
}

// Export implements agent.Agent.
func (w *Worker) Export(ctx context.Context, spec agent.ExportSpec) (agent.Exported, error) {
	const op = "export the guest's RAM"
	qemu, err := findQEMU(ctx, spec.Guest)
	if err != nil {
		return nil, migrate.Fail("find the guest's QEMU", "", err, "")
	}
	x := &exports{w: w, spec: spec, qemu: qemu, pid: qemu.PID(), ended: make(chan struct{})}
	if err := complete(x.pid); err != nil {
		return nil, errors.Join(migrate.Fail(op, "", err, "wait until all of it has arrived: vmmigrate watch"), qemu.Close())
	}
	if spec.Track {
		if x.lock, err = w.take(ctx, migrate.SideSource, x.pid, false); err != nil {
			return nil, errors.Join(migrate.Fail(op, "", err, ""), qemu.Close())
		}
	}
	if err := x.open(ctx); err != nil {
		x.end(nil)
		return nil, errors.Join(migrate.Fail(op, "", err, ""), x.failed)
	}
	watched, stop := context.WithCancel(context.Background()) // until end
	x.stop = stop
	x.wg.Go(func() { x.watch(watched) })
	w.keepExports(x)
	return x, nil
}

// complete refuses a guest of which pages are missing: its files show zeros there, and whoever reads its memory waits.
func complete(pid int) error {
	found, err := sys.AdoptUserFaults(pid)
	if err != nil {
		return err
	}
	missing := false
	for _, a := range found {
		missing = missing || a.Features.Has(sys.FeatureMissingShmem)
		err = errors.Join(err, a.Fault.Close())
	}
	if missing {
		return fmt.Errorf("the guest is being paged in: %w", migrate.ErrBusy)
	}
	return err
}

func (x *exports) open(ctx context.Context) error {
	var err error
	if x.seen, err = openView(x.pid, x.spec.Regions); err != nil {
		return err
	}
	if x.spec.Track {
		if x.log, err = openDirtyLog(ctx, x.pid, x.seen); err != nil {
			return err
		}
	}
	if !x.qemu.Alive() { // what was opened may be another's
		return x.gone()
	}
	x.server, err = nbd.NewServer(nbd.Config{Exports: x.catalog(), Log: x.w.o.Log})
	return err
}

// catalog offers the blocks, each and all together.
func (x *exports) catalog() *nbd.Exports {
	all := nbd.NewExports()
	add := func(name, text string, m *memory) {
		e := nbd.Export{Name: name, Description: text, ReadOnly: true}
		if d := (ramDevice{device{m: m}, x.seen}); x.log != nil {
			e.Backend = trackedDevice{d, x.log}
		} else {
			e.Backend = d
		}
		all.Add(e)
	}
	add(agent.WholeRAM, "all RAM of "+x.spec.Guest.Name, x.seen.memory)
	for i, p := range x.seen.parts {
		add(agent.ExportName(p.Name), fmt.Sprintf("RAM block %s of %s", p.Name, x.spec.Guest.Name), x.seen.only(i))
	}
	return all
}

// lookEvery is how often it is asked whether QEMU is still there.
const lookEvery = 200 * time.Millisecond

// watch ends the exports when QEMU does, since its RAM would otherwise stay because of us, and when a migration wants to
// track the guest.
func (x *exports) watch(ctx context.Context) {
	var wanted <-chan struct{}
	if x.lock != nil {
		wanted = x.lock.wanted
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wanted:
			go x.end(makesRoom()) // it waits for us
			return
		case <-tick.C:
			if !x.qemu.Alive() {
				go x.end(x.gone())
				return
			}
		}
	}
}

// makesRoom is why exports end for a migration.
func makesRoom() error {
	return &migrate.OpError{Op: "make room for a migration of the guest", Err: migrate.ErrBusy, Fix: "export it again where it is after the migration, or without tracking"}
}

func (x *exports) gone() error {
	return fmt.Errorf("the QEMU of guest %q has ended: %w", x.spec.Guest.Name, migrate.ErrNoDomain)
}

// end gives everything back, once. The tracker's place comes first: a migration may be waiting for it, and clients may take
// their time.
func (x *exports) end(why error) {
	x.endOnce.Do(func() {
		var errs []error
		if x.stop != nil {
			x.stop()
		}
		if x.log != nil {
			errs = append(errs, x.log.close())
		}
		if x.lock != nil {
			errs = append(errs, x.lock.release())
		}
		if x.server != nil {
			errs = append(errs, x.server.Close())
		}
		if x.seen != nil {
			errs = append(errs, x.seen.close())
		}
		x.wg.Wait()
		errs = append(errs, x.qemu.Close())
		x.why, x.failed = why, errors.Join(errs...)
		close(x.ended)
		x.w.forgetExports(x)
	})
	<-x.ended
}

// Serve implements agent.Exported.
func (x *exports) Serve(ctx context.Context, conn net.Conn) error {
	err := x.server.ServeConn(ctx, conn)
	switch {
	case errors.Is(err, nbd.ErrServerClosed):
		return fmt.Errorf("the exports: %w", agent.ErrClosed)
	case err != nil && ctx.Err() == nil:
		x.w.o.Log.Info("NBD client ended", "err", err)
	}
	return ctx.Err()
}

// Wait implements agent.Exported.
func (x *exports) Wait(ctx context.Context) error {
	select {
	case <-x.ended:
		return x.why
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Written implements agent.Exported.
func (x *exports) Written(ctx context.Context) (agent.Harvest, error) {
	const op = "read what the guest wrote"
	if x.log == nil {
		return agent.Harvest{}, migrate.Fail(op, "", fmt.Errorf("nothing is tracked: %w", migrate.ErrNotSupported), "")
	}
	select {
	case <-x.ended:
		return agent.Harvest{}, migrate.Fail(op, "", errors.Join(agent.ErrClosed, x.why), "")
	default:
	}
	begun := time.Now()
	set, err := x.log.take(ctx)
	return agent.Harvest{Dirty: set, Took: time.Since(begun), Tracker: x.log.tracker.Name()}, migrate.Fail(op, "", err, "")
}

// Close implements agent.Exported.
func (x *exports) Close(context.Context) error {
	x.end(nil)
	return x.failed
}

func (x *exports) detach() error {
	x.end(makesRoom())
	return x.failed
}

func (x *exports) linger(context.Context)            {} // nobody is served without a coordinator
func (x *exports) abandon(ctx context.Context) error { return x.Close(ctx) }
func (x *exports) guest() int                        { return x.pid }

// keepExports remembers exports until they end: those that hold a lock by its name, so that a migration by the same agent
// can take the guest over.
func (w *Worker) keepExports(x *exports) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-x.ended: // already
	default:
		w.ends[x.key()] = x
	}
}

func (w *Worker) forgetExports(x *exports) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ends[x.key()] == end(x) {
		delete(w.ends, x.key())
	}
}

func (x *exports) key() string {
	if x.lock != nil {
		return lockName(migrate.SideSource, x.pid)
	}
	return fmt.Sprintf("exports %p", x)
}

// trackers arms a tracker on the memory that is seen.
func trackers(ctx context.Context, pid int, v *view) (track.Tracker, error) {
	regions := make([]track.Region, len(v.parts))
	for i, p := range v.parts {
		regions[i] = track.Region{Block: p.Block, Addr: p.addr}
		if !v.private[i] {
			regions[i].File, regions[i].Base = p.file, p.base
		}
	}
	if err := takeOutTrackers(ctx, pid); err != nil {
		return nil, err
	}
	return track.Open(ctx, "", pid, regions)
}
