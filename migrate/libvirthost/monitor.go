package libvirthost

import (
	"context"
	"sync"

	"github.com/digitalocean/go-libvirt"
	goqemu "github.com/digitalocean/go-qemu/qmp"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

var _ migrate.Monitored = (*Host)(nil)

// Monitor runs QMP commands in the QEMU of a domain by way of libvirt, which notes in the domain's log that somebody did
// (custom-monitor). A source answers at any time, in Perform too. Events are those of monitorEvents. The
// executor is the Host's and ends with it; asked for again, it is the same. At the destination of a migration libvirt lets
// no command through until the guest runs: WithMonitor gives that domain a monitor of its own.
func (h *Host) Monitor(ctx context.Context, name string) (qmp.Executor, error) {
	d, err := h.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return h.monitors.of(h, d), nil
}

// monitors are the executors that were handed out, by domain.
type monitors struct {
	mu sync.Mutex
	m  map[libvirt.UUID]*qmp.WrappedMonitor
}

func (s *monitors) of(h *Host, d libvirt.Domain) qmp.Executor {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.m[d.UUID]; x != nil {
		return x
	}
	if s.m == nil {
		s.m = map[libvirt.UUID]*qmp.WrappedMonitor{}
	}
	p := &passthrough{h: h, d: d}
	p.ctx, p.stop = context.WithCancel(context.Background())
	x := qmp.WrapMonitor(p)
	s.m[d.UUID] = x
	return x
}

// close ends them all; the connection has ended before, so that none waits for an answer.
func (s *monitors) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, x := range s.m {
		_ = x.Close() // Disconnect knows no failure
		delete(s.m, id)
	}
}

// passthrough is a monitor of QEMU's that libvirt holds, in go-qemu's terms.
type passthrough struct {
	h    *Host
	d    libvirt.Domain
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup // the streams of events
}

var _ goqemu.Monitor = (*passthrough)(nil)

// Connect has nothing to do: the Host is connected.
func (p *passthrough) Connect() error { return nil }

// Disconnect ends commands and streams of events.
func (p *passthrough) Disconnect() error {
	p.stop()
	p.wg.Wait()
	return nil
}

// Run sends one command and gives QEMU's answer as it is, a refusal included.
func (p *passthrough) Run(command []byte) ([]byte, error) {
	out, err := do(p.ctx, p.h.c, func(l *libvirt.Libvirt) (string, error) {
		return l.QEMUDomainMonitorCommand(p.d, string(command), 0)
	})
	return []byte(out), err
}

// Events delivers the domain's events until ctx or the connection ends.
func (p *passthrough) Events(ctx context.Context) (<-chan goqemu.Event, error) {
	if err := p.h.arm(p.ctx, false); err != nil {
		return nil, err
	}
	if p.h.hub.coarse.Load() {
		return nil, goqemu.ErrEventsNotSupported
	}
	in := p.h.hub.tap(p.d.UUID)
	out := make(chan goqemu.Event)
	p.wg.Go(func() {
		defer close(out)
		defer p.h.hub.untap(in)
		for {
			select {
			case e := <-in.ch:
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			case <-p.h.c.w.dead:
				return
			}
		}
	})
	return out, nil
}

// tapped is a stream of one domain's events as QEMU sent them.
type tapped struct {
	uuid libvirt.UUID
	ch   chan goqemu.Event
}

// tap subscribes to a domain's events as QEMU sent them.
func (b *hub) tap(id libvirt.UUID) *tapped {
	t := &tapped{uuid: id, ch: make(chan goqemu.Event, watchDepth)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taps == nil {
		b.taps = map[*tapped]struct{}{}
	}
	b.taps[t] = struct{}{}
	return t
}

func (b *hub) untap(t *tapped) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.taps, t)
}

// pour hands one event of QEMU's to those who listen to the domain; a slow one loses it.
func (b *hub) pour(ev event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.taps {
		if t.uuid != libvirt.UUID(ev.dom.uuid) {
			continue
		}
		select {
		case t.ch <- *ev.qemu:
		default:
			b.log.Warn("an event of QEMU's was lost because its reader was slow", "domain", ev.dom.name, "event", ev.qemu.Event)
		}
	}
}
