package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// destEnd is the destination's end of one migration.
type destEnd struct {
	w    *Worker
	spec agent.DestSpec
	qemu *sys.Process
	pid  int // its number
	lock *lock
	mon  *monitor
	mem  *memory

	fault    *sys.UserFault // nil if RAM may not be missing
	remoteFD int            // its number in QEMU

	link         *datalink.Acceptor
	bulk, demand atomic.Pointer[nbd.Client]
	sums         atomic.Pointer[nbd.Client] // of fingerprints, with reuse alone
	connect      sync.Once
	connectErr   error

	reuse *reuser // nil if there is no older copy of the RAM, or it is not to be used
	held  agent.Held

	gate        *gate
	in          *intake
	limit       *rate.Limiter // before the switch
	pagingLimit *rate.Limiter // after it
	count       counters
	meter       meter
	pagerMu     sync.Mutex
	pager       *paging // by pagerMu; see paging and begin

	// ctx ends when the end is closed and bounds its goroutines.
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	released atomic.Bool // the guest may run here
	done     atomic.Bool // nothing is missing
	relayErr chan error

	closeMu sync.Mutex
	closed  bool
}

// OpenDest implements agent.Agent.
func (w *Worker) OpenDest(ctx context.Context, spec agent.DestSpec) (agent.Dest, error) {
	qemu, err := findQEMU(ctx, spec.Guest)
	if err != nil {
		return nil, migrate.Fail("find the waiting guest's QEMU", migrate.SideDestination, err, "")
	}
	k, err := w.take(ctx, migrate.SideDestination, qemu.PID(), spec.Resume)
	if err != nil {
		return nil, errors.Join(err, qemu.Close())
	}
	d := &destEnd{w: w, spec: spec, qemu: qemu, pid: qemu.PID(), lock: k, remoteFD: -1, gate: newGate(), relayErr: make(chan error, 1)}
	d.ctx, d.stop = context.WithCancel(context.Background())
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(migrate.Fail("take over the waiting guest's RAM", migrate.SideDestination, err, ""), d.letGo(context.WithoutCancel(ctx)))
	}
	w.keep(migrate.SideDestination, d.pid, d)
	return d, nil
}

func (d *destEnd) open(ctx context.Context) error {
	err := d.w.spoiled(ctx, "open-dest")
	if err != nil {
		return err
	}
	if err := sweepSockets(d.spec.Stream, d.pid); err != nil {
		d.w.o.Log.Warn("remove the sockets of earlier migrations", "err", err)
	}
	if d.mon, err = openMonitor(ctx, d.spec.Guest.Monitor); err != nil {
		return err
	}
	if err := d.mon.locate(ctx, d.spec.Regions); err != nil {
		return err
	}
	if d.spec.Resume {
		if err := locate(d.pid, d.spec.Regions); err != nil {
			return err
		}
	}
	if d.mem, err = openMemory(d.pid, d.spec.Regions, true); err != nil {
		return err
	}
	d.openReuse()
	if err := d.openIntake(ctx); err != nil {
		return err
	}
	if d.spec.Lazy || d.spec.Resume {
		if err := d.openFault(ctx); err != nil {
			return err
		}
	}
	if !d.qemu.Alive() { // what was opened may be another's
		return os.ErrProcessDone
	}
	return d.listen(ctx)
}

func (d *destEnd) openIntake(ctx context.Context) error {
	piece := int64(pieceSize)
	for _, p := range d.mem.parts {
		piece = max(piece, p.PageSize)
	}
	present, err := d.mem.holes(ctx)
	if err != nil {
		return err
	}
	for i, b := range present { // what is no hole is present
		all := ram.NewBitmap(b.Len())
		all.Fill()
		all.AndNot(b)
		present[i] = all
	}
	d.pagingLimit = newLimiter(d.spec.BandwidthPaging)
	d.limit = newLimiter(d.spec.Bandwidth)
	d.in = &intake{m: d.mem, from: lateReader{d}, bufs: newBuffers(int(piece)), count: &d.count, present: present, stale: ram.NewSet(d.mem.blocks())}
	if !d.spec.Resume {
		d.in.stale = present.Clone()
	}
	return nil
}

// listen waits for the source's agent.
func (d *destEnd) listen(ctx context.Context) error {
	conf, err := d.w.dataTLS(d.spec.Link.Peer)
	if err != nil {
		return err
	}
	l, err := listenIn(ctx, d.spec.Link.Addr, d.spec.Link.Ports)
	if err != nil {
		return err
	}
	d.link, err = datalink.NewAcceptor(l, datalink.Config{Migration: d.spec.Migration, Token: d.spec.Link.Token, TLS: conf, Log: d.w.o.Log, Patience: linkPatience})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if d.spec.Stream != "" && !d.spec.Resume {
		d.wg.Go(func() { d.relayErr <- d.relay() })
	}
	return nil
}

// listenIn listens on a port of the range if the address leaves it open.
func listenIn(ctx context.Context, addr string, ports [2]int) (net.Listener, error) {
	var lc net.ListenConfig
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if port != "0" || ports[0] <= 0 {
		return lc.Listen(ctx, "tcp", addr)
	}
	for p := ports[0]; p <= ports[1]; p++ {
		l, lerr := lc.Listen(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(p)))
		if lerr == nil {
			return l, nil
		}
		err = lerr
	}
	return nil, migrate.Fail(fmt.Sprintf("listen on a port from %d to %d", ports[0], ports[1]), migrate.SideDestination, err, "free one of these ports")
}

// Addr implements agent.Dest.
func (d *destEnd) Addr() string { return d.link.Addr().String() }

// relay passes QEMU's own stream on to it, as far as the gate lets it.
func (d *destEnd) relay() error {
	peer, err := d.link.Next(d.ctx, datalink.Stream)
	if err != nil {
		return err
	}
	var dial net.Dialer
	qemu, err := dial.DialContext(d.ctx, "unix", d.spec.Stream)
	if err != nil {
		return errors.Join(err, peer.Close())
	}
	if err := trusted(qemu, d.pid); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", d.spec.Stream, err), qemu.Close(), peer.Close())
	}
	stop := context.AfterFunc(d.ctx, func() {
		d.gate.end(net.ErrClosed)
		_ = errors.Join(peer.Close(), qemu.Close())
	})
	defer stop()
	d.gate.through = func() error { return d.w.spoiled(d.ctx, "relayed") }
	return relay(peer.Conn, qemu, d.gate)
}

// Fetch implements agent.Dest.
func (d *destEnd) Fetch(ctx context.Context, pages ram.Set, progress func(agent.Progress)) (agent.Progress, error) {
	if d.released.Load() {
		return d.progress(), errors.New("fetch: the guest may be running already")
	}
	stop := telling(func() { progress(d.progress()) })
	defer stop()
	err := d.w.spoiled(ctx, "fetch")
	if err == nil {
		err = d.in.fetch(ctx, pages)
	}
	return d.progress(), migrate.Fail("fetch RAM", migrate.SideDestination, d.linkError(err), "")
}

// linkError marks the loss of the link between the agents.
func (d *destEnd) linkError(err error) error {
	if err != nil && errors.Is(err, nbd.ErrLinkLost) {
		return fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
	}
	return err
}

func (d *destEnd) progress() agent.Progress {
	p := agent.Progress{Pages: d.count.pages.Load(), ZeroPages: d.count.zeroPages.Load(), Remaining: max(0, d.count.remaining.Load())}
	for _, c := range d.opened() {
		p.Bytes += c.BytesIn()
	}
	if d.reuse != nil {
		p.Reused = new(d.reuse.reused.Load())
	}
	p.Bandwidth = d.meter.now(p.Bytes)
	if r := d.paging(); r != nil {
		r.figures(&p)
	}
	return p
}

// Tune implements agent.Dest.
func (d *destEnd) Tune(_ context.Context, bandwidth, paging int64) error {
	setLimit(d.limit, bandwidth)
	setLimit(d.pagingLimit, paging)
	return nil
}

// Pass implements agent.Dest.
func (d *destEnd) Pass(ctx context.Context, stale ram.Set) error {
	if err := d.w.spoiled(ctx, "pass"); err != nil {
		return err
	}
	// None of this is to be part of the pause that follows.
	if err := d.clients(ctx); err != nil {
		return migrate.Fail("connect to the source's RAM", migrate.SideDestination, d.linkError(err), "")
	}
	if err := errors.Join(d.in.punch(stale), d.in.sweep(ctx)); err != nil {
		return fmt.Errorf("punch stale pages: %w", err)
	}
	d.gate.pass()
	return nil
}

// Release implements agent.Dest.
func (d *destEnd) Release(ctx context.Context) error {
	if err := d.w.spoiled(ctx, "release"); err != nil {
		return err
	}
	d.released.Store(true)
	d.gate.open()
	return d.w.spoiled(ctx, "released")
}

// Close implements agent.Dest.
func (d *destEnd) Close(ctx context.Context, abandon bool) error {
	d.closeMu.Lock()
	defer d.closeMu.Unlock()
	if d.closed {
		return nil
	}
	if d.released.Load() && d.missing() && !abandon {
		return migrate.Fail("leave the guest's RAM", migrate.SideDestination, errors.New("pages are still missing"), "let it be paged in first")
	}
	if err := d.w.spoiled(ctx, "close-dest"); err != nil {
		return err
	}
	d.closed = true
	return errors.Join(d.takeOut(ctx, abandon), d.letGo(ctx), d.removeSockets(abandon))
}

// letGo ends all connections and frees what is ours; QEMU is left as it is.
func (d *destEnd) letGo(ctx context.Context) error {
	var errs []error
	d.stop()
	if r := d.paging(); r != nil {
		errs = append(errs, r.close())
	}
	for _, c := range d.opened() {
		errs = append(errs, c.Close())
	}
	if d.reuse != nil {
		errs = append(errs, d.reuse.copy.Close())
	}
	if d.link != nil {
		errs = append(errs, d.link.Close())
	}
	d.wg.Wait()
	errs = append(errs, d.mon.close(ctx))
	if d.fault != nil {
		errs = append(errs, d.fault.Close())
	}
	if d.mem != nil {
		errs = append(errs, d.mem.close())
	}
	d.w.forget(migrate.SideDestination, d.pid, d)
	return errors.Join(append(errs, d.qemu.Close(), d.lock.release())...)
}

func (d *destEnd) detach() error {
	d.closeMu.Lock()
	defer d.closeMu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	return d.letGo(ctx)
}

func (d *destEnd) guest() int { return d.pid }

func (d *destEnd) abandon(ctx context.Context) error {
	return d.Close(ctx, !d.released.Load() || !d.qemu.Alive())
}

// removeSockets removes those of a QEMU that is about to be removed: it may have no time to do so itself.
func (d *destEnd) removeSockets(abandon bool) error {
	if !abandon || d.spec.Resume || d.released.Load() {
		return nil
	}
	var errs []error
	for _, path := range []string{d.spec.Stream, d.spec.Guest.Monitor} {
		if strings.HasPrefix(filepath.Base(path), "vmmigrate-") {
			errs = append(errs, removeSocket(path))
		}
	}
	return errors.Join(errs...)
}
