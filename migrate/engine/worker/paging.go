package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// paging brings pages to a guest that runs here. Its loop goes on by itself after a lost link: nobody has to be there for
// the guest to get its pages.
type paging struct {
	p      *postcopy.Pager
	faults fault.Source
	stop   context.CancelFunc
	wg     sync.WaitGroup

	closing  sync.Once
	closeErr error

	done   chan struct{} // closed when nothing is missing any more, or nothing can be done
	err    error         // why not; to be read after done is closed
	broken chan error    // holds the newest loss of the link that nobody was told of

	faultsSeen int64     // for drainWhenQuiet
	faultsAt   time.Time // when they were first that many
	demandFrom time.Time // when demand alone began
}

// openFault makes a userfaultfd in QEMU for the RAM, or finds the one that an agent before us left there.
func (d *destEnd) openFault(ctx context.Context) error {
	if d.spec.Resume {
		return d.adoptFault()
	}
	u, fd, err := sys.InjectUserFault(ctx, d.pid)
	if err != nil {
		return migrate.Fail("make a userfaultfd in QEMU", migrate.SideDestination, err, "vmmigrate check --host tells what is missing; --strategy precopy does without")
	}
	d.fault, d.remoteFD = u, fd
	ranges := make([]fault.Range, len(d.mem.parts))
	for i, p := range d.mem.parts {
		ranges[i] = fault.Range{Start: p.addr, Length: uint64(p.Size)}
	}
	return fault.Arm(u, true, ranges...)
}

// adoptFault finds the userfaultfd that an earlier agent left in QEMU. Where there is none, nothing is missing: it is
// taken out only then.
func (d *destEnd) adoptFault() error {
	found, err := sys.AdoptUserFaults(d.pid)
	if err != nil {
		return fmt.Errorf("find the userfaultfd in QEMU: %w", err)
	}
	unclear := false
	for _, a := range found {
		unclear = unclear || a.Features == 0
		if d.fault == nil && a.Features.Has(sys.FeatureMissingShmem) {
			d.fault, d.remoteFD = a.Fault, a.RemoteFD
			continue
		}
		if err := a.Fault.Close(); err != nil { // a tracker's, or QEMU's own
			return err
		}
	}
	if d.fault == nil && unclear { // taken for nothing missing, it would cost the source, and the guest its pages
		return errors.New("QEMU has a userfaultfd, and the kernel does not tell what for")
	}
	d.released.Store(true)
	if d.fault == nil {
		d.done.Store(true)
	}
	return nil
}

// Switch implements agent.Dest.
func (d *destEnd) Switch(ctx context.Context, missing ram.Set, hot []agent.PageRef) error {
	if err := d.makeMissing(ctx, missing, hot); err != nil {
		return err
	}
	if err := d.w.spoiled(ctx, "switched"); err != nil {
		return err
	}
	if d.spec.Stream == "" {
		return nil
	}
	return d.gate.seal(d.spec.Still)
}

func (d *destEnd) makeMissing(ctx context.Context, missing ram.Set, hot []agent.PageRef) error {
	if err := d.w.spoiled(ctx, "switch"); err != nil {
		return err
	}
	if d.spec.Stream != "" && !d.spec.Still {
		if err := d.gate.ready(); err != nil {
			return err
		}
	}
	if err := missing.Fits(d.mem.blocks()); err != nil {
		return err
	}
	if d.fault == nil {
		if !missing.Empty() {
			return errors.New("pages cannot be missing here: the destination was not opened for that")
		}
		return d.in.sweep(ctx)
	}
	if old := d.takePaging(); old != nil { // more pages, before the guest runs
		if err := old.close(); err != nil { // first, or it would fill the new holes with zeros
			return err
		}
		missing = missing.Clone()
		missing.Or(old.p.Missing())
	}
	if err := d.in.punch(missing); err != nil {
		return fmt.Errorf("punch stale pages: %w", err)
	}
	if err := d.in.sweep(ctx); err != nil {
		return err
	}
	if err := d.mem.room(missing); err != nil {
		return err
	}
	return d.startPaging(ctx, missing, hot)
}

// startPaging begins to serve faults. Pages that nobody waits for come once Page is called.
func (d *destEnd) startPaging(ctx context.Context, missing ram.Set, hot []agent.PageRef) error {
	if err := d.clients(ctx); err != nil {
		return err
	}
	refs := make([]prepage.Ref, len(hot))
	for i, h := range hot {
		refs[i] = prepage.Ref(h)
	}
	plan, err := prepage.New(d.spec.Prepage, d.mem.blocks(), missing, refs)
	if err != nil {
		return err
	}
	addrs := make([]uint64, len(d.mem.parts))
	for i, p := range d.mem.parts {
		addrs[i] = p.addr
	}
	run := &paging{done: make(chan struct{}), broken: make(chan error, 1)}
	faults, err := fault.New(d.fault)
	if err != nil {
		return err
	}
	run.faults = faults
	var limit postcopy.Limiter
	if d.reuse == nil { // else its reader knows what crosses the link
		limit = d.pagingLimit
	}
	run.p, err = postcopy.New(postcopy.Config{
		Blocks: d.mem.blocks(), Addrs: addrs, Faults: run.faults, Events: true, Missing: missing, Prepager: plan, Hold: true,
		Demand: d.demandFetcher(), Bulk: blockFetcher{d, &d.bulk}, BulkFetches: 16, Limiter: limit,
		Shared: slices.Repeat([]bool{true}, len(d.mem.parts)), Log: d.w.o.Log,
	})
	if err != nil {
		return errors.Join(err, run.faults.Close())
	}
	return d.begin(run)
}

// begin lets a pager go. Who lets go of the guest closes the one that there is, and none begins after that.
func (d *destEnd) begin(run *paging) error {
	d.pagerMu.Lock()
	defer d.pagerMu.Unlock()
	if d.ctx.Err() != nil {
		return errors.Join(agent.ErrClosed, run.p.Close(), run.faults.Close())
	}
	var ctx context.Context
	ctx, run.stop = context.WithCancel(d.ctx)
	run.wg.Go(func() { run.loop(ctx) })
	d.pager = run
	return nil
}

// paging is the newest pager; nil before the switch.
func (d *destEnd) paging() *paging {
	d.pagerMu.Lock()
	defer d.pagerMu.Unlock()
	return d.pager
}

// takePaging is paging, and leaves none.
func (d *destEnd) takePaging() *paging {
	d.pagerMu.Lock()
	defer d.pagerMu.Unlock()
	r := d.pager
	d.pager = nil
	return r
}

// again is the pause after a lost link.
const again = 200 * time.Millisecond

// loop runs the pager until nothing is missing.
func (r *paging) loop(ctx context.Context) {
	defer close(r.done)
	for {
		err := r.p.Run(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, postcopy.ErrLink) {
			r.err = err
			return
		}
		select {
		case <-r.broken: // only the newest counts
		default:
		}
		r.broken <- err
		select {
		case <-time.After(again):
		case <-ctx.Done():
			r.err = ctx.Err()
			return
		}
	}
}

// close leaves what is missing missing. It is idempotent.
func (r *paging) close() error {
	r.closing.Do(func() {
		r.stop()
		r.wg.Wait()
		r.closeErr = errors.Join(r.p.Close(), r.faults.Close())
	})
	return r.closeErr
}

// Page implements agent.Dest.
func (d *destEnd) Page(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	if d.done.Load() || d.fault == nil {
		return d.progress(), nil
	}
	if !d.qemu.Alive() {
		return d.progress(), d.gone(os.ErrProcessDone)
	}
	if err := d.pages(ctx); err != nil {
		return d.progress(), d.paused(err)
	}
	if err := d.w.spoiled(ctx, "page"); err != nil {
		return d.progress(), err
	}
	r := d.paging()
	r.p.Push()
	stop := telling(func() {
		r.drainWhenQuiet(d.spec.Prepage)
		progress(d.progress())
	})
	defer stop()
	for {
		select {
		case <-r.done:
			if r.err == nil {
				d.done.Store(true)
			}
			if errors.Is(r.err, postcopy.ErrGone) {
				return d.progress(), d.gone(r.err)
			}
			return d.progress(), migrate.Fail("fetch the missing pages", migrate.SideDestination, r.err, "")
		case err := <-r.broken:
			return d.progress(), d.paused(err)
		case err := <-d.relayErr: // once
			if err != nil {
				d.w.o.Log.Debug("QEMU's stream ended", "err", err)
			}
		case <-ctx.Done():
			return d.progress(), ctx.Err()
		}
	}
}

// pages makes sure that there is a pager: a new agent takes the guest up by what is a hole, and after an error that ended a pager
// another goes on with what that one lacked.
func (d *destEnd) pages(ctx context.Context) error {
	old := d.paging()
	if old == nil {
		missing, err := d.mem.holes(ctx)
		if err != nil {
			return err
		}
		return d.startPaging(ctx, missing, nil)
	}
	select {
	case <-old.done:
	default:
		return nil
	}
	if old.err == nil || d.ctx.Err() != nil {
		return nil
	}
	d.w.o.Log.Warn("the pager begins anew", "err", old.err)
	if err := old.close(); err != nil {
		return err
	}
	return d.startPaging(ctx, old.p.Missing(), nil) // what it lacked in the end: until then it reads what the guest discards
}

// gone says that there is no guest any more that could lack pages.
func (d *destEnd) gone(err error) error {
	return migrate.Fail("fetch the missing pages", migrate.SideDestination, fmt.Errorf("the guest's QEMU: %w: %w", migrate.ErrNoDomain, err), "")
}

func (d *destEnd) paused(err error) error {
	return migrate.Fail("fetch the missing pages", migrate.SideDestination, fmt.Errorf("%w: %w", migrate.ErrPaused, err), "it goes on by itself when the link is back; vmmigrate recover, if an agent is gone")
}

// missing tells whether pages may be missing.
func (d *destEnd) missing() bool { return d.fault != nil && !d.done.Load() }

// figures adds what the pager counts.
func (r *paging) figures(p *agent.Progress) {
	s := r.p.Stats()
	p.Pages += s.Demanded + s.Prepaged
	p.ZeroPages += s.Zero
	p.Remaining = s.RemainingBytes
	p.Faults, p.LocalFaults, p.Prepaged = s.RemoteFaults, s.LocalFaults, s.Prepaged
	if s.Remote.Count > 0 {
		us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
		p.FaultUS = &agent.Latency{P50: us(s.Remote.P50), P99: us(s.Remote.P99), Max: us(s.Remote.Max)}
	}
}

// takeOut removes our userfaultfd from QEMU once nothing is missing.
func (d *destEnd) takeOut(ctx context.Context, abandon bool) error {
	if d.fault == nil || d.remoteFD < 0 || abandon || !d.qemu.Alive() {
		return nil // QEMU is about to be removed, or another process may have its number
	}
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if err := sys.InjectClose(ctx, d.pid, d.remoteFD); err != nil {
		d.w.o.Log.Warn("a descriptor stays open in QEMU", "fd", d.remoteFD, "err", err)
	}
	return nil
}

// linger lets a guest that runs here get all of its RAM before this program ends, or another takes the guest over.
func (d *destEnd) linger(ctx context.Context) {
	if !d.released.Load() || !d.missing() {
		return
	}
	ctx, stop := d.lock.untilWanted(ctx)
	defer stop()
	d.stay(ctx)
	if ctx.Err() == nil {
		return
	}
	if err := d.detach(); err != nil {
		d.w.o.Log.Warn("let go of a guest that is taken over", "err", err)
	}
}

// stay goes on until the guest has all of its RAM. Nobody else serves it: whatever went wrong is tried again until ctx ends, and is in
// the log.
func (d *destEnd) stay(ctx context.Context) {
	log, said := d.w.o.Log.With("guest", d.spec.Guest.Name, "migration", d.spec.Migration), ""
	log.Info("the agent stays until the guest has all of its RAM", "missing", d.progress().Remaining)
	for ctx.Err() == nil && d.qemu.Alive() {
		_, err := d.Page(ctx, func(agent.Progress) {})
		if err == nil {
			log.Info("the guest has all of its RAM")
			return
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			log.Warn("the guest waits for pages", "err", err)
			said = text
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
	log.Warn("the agent leaves a guest that may lack pages", "ended", !d.qemu.Alive())
}
