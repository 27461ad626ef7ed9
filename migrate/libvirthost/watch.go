package libvirthost

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// watchDepth is how many events a subscriber may be behind before it loses some.
const watchDepth = 256

// hub hands events to the subscribers of their domain. Events are taken from the wire before go-libvirt sees them, so
// that none is lost between a subscription and its registration and a slow or leaving subscriber cannot stop the
// reader, as both happens with go-libvirt's own subscriptions.
type hub struct {
	log *slog.Logger
	// armed is a lock that can be waited for with a context; done tells that the daemon sends events.
	armed  chan struct{}
	done   bool
	rounds bool // those of a migration's rounds, too
	// coarse tells that QEMU's own events are not to be had, and libvirt's take their place.
	coarse atomic.Bool

	mu   sync.Mutex
	subs map[*sub]struct{}
	taps map[*tapped]struct{}
}

type sub struct {
	name string
	uuid libvirt.UUID
	byID bool
	ch   chan migrate.GuestEvent
	lost int
}

func newHub(log *slog.Logger) *hub {
	return &hub{log: log, armed: make(chan struct{}, 1), subs: map[*sub]struct{}{}}
}

// take consumes events; it is called by the reader and never blocks.
func (b *hub) take(h header, payload []byte) bool {
	ev, ok, err := decodeEvent(h, payload, time.Now(), b.coarse.Load())
	if err != nil {
		b.log.Warn("libvirt sent a malformed event", "err", err)
	}
	if ev.Kind != "" {
		b.deliver(ev)
	}
	if ev.qemu != nil {
		b.pour(ev)
	}
	return ok
}

func (b *hub) deliver(ev event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		if s.name != ev.dom.name && !(s.byID && s.uuid == libvirt.UUID(ev.dom.uuid)) {
			continue
		}
		select {
		case s.ch <- ev.GuestEvent:
		default:
			s.lost++
		}
	}
}

func (b *hub) add(name string) *sub {
	id, byID := parseUUID(name)
	s := &sub{name: name, uuid: id, byID: byID, ch: make(chan migrate.GuestEvent, watchDepth)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[s] = struct{}{}
	return s
}

func (b *hub) remove(s *sub) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.subs, s)
	close(s.ch)
	if s.lost > 0 {
		b.log.Warn("events were lost because their reader was slow", "domain", s.name, "lost", s.lost)
	}
}

// Watch delivers the events of a domain that may not exist yet. Pauses, resumes, rounds and states of a migration are
// QEMU's own, with QEMU's time; that the guest is gone is libvirt's word. See migrate.Watcher.
func (h *Host) Watch(ctx context.Context, name string) (<-chan migrate.GuestEvent, error) {
	return h.watch(ctx, name, true)
}

// WatchRoundless is Watch without EventRound. While a migration waits for its destination's word and has no RAM to send,
// QEMU begins a round every few dozen microseconds: libvirtd falls behind such a stream of events, and then answers nobody.
func (h *Host) WatchRoundless(ctx context.Context, name string) (<-chan migrate.GuestEvent, error) {
	return h.watch(ctx, name, false)
}

func (h *Host) watch(ctx context.Context, name string, rounds bool) (<-chan migrate.GuestEvent, error) {
	s := h.hub.add(name)
	if err := h.arm(ctx, rounds); err != nil {
		h.hub.remove(s)
		return nil, lookFail("watch %q on %s", []any{name, h.t.raw}, err)
	}
	if !h.c.enter() {
		h.hub.remove(s)
		return nil, lookFail("watch %q on %s", []any{name, h.t.raw}, h.c.lost())
	}
	go func() {
		defer h.c.wg.Done()
		defer h.hub.remove(s)
		select {
		case <-ctx.Done():
		case <-h.c.w.dead:
		}
	}()
	return s.ch, nil
}

// monitorEvents are the QEMU events that are asked for, as a regular expression; roundEvent tells of rounds.
const (
	monitorEvents = "^(STOP|RESUME|MIGRATION|BLOCK_JOB_.*|JOB_STATUS_CHANGE|UNPLUG_PRIMARY|SHUTDOWN)$"
	roundEvent    = "^MIGRATION_PASS$"
)

// arm registers for events, the first time it is called, and for those of rounds the first time that they are wanted. They
// stay registered until the connection closes, for all domains, because one that is being migrated here does not exist yet.
func (h *Host) arm(ctx context.Context, rounds bool) error {
	select {
	case h.hub.armed <- struct{}{}:
		defer func() { <-h.hub.armed }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var err error
	if !h.hub.done {
		err = h.armGuest(ctx)
		h.hub.done = err == nil
	}
	if err != nil || !rounds || h.hub.rounds {
		return err
	}
	if h.hub.coarse.Load() {
		err = h.register(ctx, libvirt.DomainEventIDMigrationIteration)
	} else {
		err = h.registerMonitor(ctx, roundEvent)
	}
	h.hub.rounds = err == nil
	return err
}

// armGuest registers for what happens to guests.
func (h *Host) armGuest(ctx context.Context) error {
	err := h.registerMonitor(ctx, monitorEvents)
	if errors.Is(err, migrate.ErrNotSupported) {
		h.log.Warn("libvirt does not pass on QEMU's events; pauses will lack their time", "err", err)
		h.hub.coarse.Store(true)
		err = nil
	}
	if err != nil {
		return err
	}
	return h.register(ctx, libvirt.DomainEventIDLifecycle, libvirt.DomainEventIDIoErrorReason)
}

// registerMonitor asks for QEMU's events by a regular expression.
func (h *Host) registerMonitor(ctx context.Context, pattern string) error {
	const isRegex = 1
	_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (int32, error) {
		return l.QEMUConnectDomainMonitorEventRegister(nil, libvirt.OptString{pattern}, isRegex)
	})
	return err
}

// register asks for libvirt's events.
func (h *Host) register(ctx context.Context, ids ...libvirt.DomainEventID) error {
	for _, id := range ids {
		_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (int32, error) {
			return l.ConnectDomainEventCallbackRegisterAny(int32(id), nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
