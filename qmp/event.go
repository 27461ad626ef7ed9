package qmp

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"
)

// Event is something that QEMU reported on its own.
type Event struct {
	// Name is QEMU's name for it, such as STOP.
	Name string
	// Data is the event's data as sent, nil if it has none. It is shared by all
	// subscribers: do not change it.
	Data json.RawMessage
	// Timestamp is QEMU's own clock when the event happened, with microseconds.
	// It is the zero time if QEMU gave none. Clocks of two hosts differ.
	Timestamp time.Time
	// Arrived is our clock when the event was read, with Go's monotonic reading,
	// so that two events of one process can be subtracted.
	Arrived time.Time
}

// defaultQueue is how many events a subscription holds unless told otherwise.
const defaultQueue = 1024

// SubscribeOptions says what a subscription receives and how much it holds.
type SubscribeOptions struct {
	// Names are the events to receive; none means all of them. A narrow
	// subscription cannot lose what it waits for to a flood of something else.
	Names []string
	// Queue is how many events to hold for a slow reader; 0 means 1024.
	Queue int
}

// Subscription receives events into a queue of its own. When the queue is full
// the oldest event in it is dropped and counted, so the newest state is always
// there and the connection never waits for a reader.
//
// Everything that QEMU sent before the reply to a command is in the queue when
// that command returns. The channel is closed, after what is queued, when the
// subscription or its connection ends.
type Subscription struct {
	hub     *hub
	ch      chan Event
	names   map[string]bool
	dropped atomic.Uint64

	err  error       // guarded by hub.mu; nil while open
	stop func() bool // guarded by hub.mu; detaches from a context, may be nil
}

// C is the channel of events.
func (s *Subscription) C() <-chan Event { return s.ch }

// Next waits for the next event. It returns the context's error, or Err once the
// subscription has ended and its queue is empty.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	select {
	case e, ok := <-s.ch:
		if !ok {
			return Event{}, s.Err()
		}
		return e, nil
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}

// Wait returns the first event that match accepts and discards those before it.
// Its errors are those of Next.
func (s *Subscription) Wait(ctx context.Context, match func(Event) bool) (Event, error) {
	for {
		e, err := s.Next(ctx)
		if err != nil || match(e) {
			return e, err
		}
	}
}

// Dropped is how many events this subscription lost to a full queue.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Err is nil while the subscription is open. Then it is ErrClosed after Close, or
// tells why the connection ended.
func (s *Subscription) Err() error {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.err
}

// Close ends the subscription and closes its channel. It may be called more than
// once and from any goroutine.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.remove(s, ErrClosed)
}

// offer puts e in the queue and drops the oldest if it must. Only one goroutine
// at a time offers, under hub.mu; readers only make room.
func (s *Subscription) offer(e Event) {
	if len(s.names) > 0 && !s.names[e.Name] {
		return
	}
	for {
		select {
		case s.ch <- e:
			return
		default:
		}
		select {
		case <-s.ch:
			s.dropped.Add(1)
		default:
		}
	}
}

// hub hands each event to every subscription.
type hub struct {
	mu   sync.Mutex
	subs map[*Subscription]struct{}
	err  error // why there are no more events; nil while there may be
}

// newHub has no subscriptions.
func newHub() *hub { return &hub{subs: make(map[*Subscription]struct{})} }

// publish offers e to all subscriptions. It never waits for a reader.
func (h *hub) publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.offer(e)
	}
}

// subscribe adds a subscription, or says why there can be none.
func (h *hub) subscribe(o SubscribeOptions) (*Subscription, error) {
	if o.Queue <= 0 {
		o.Queue = defaultQueue
	}
	s := &Subscription{hub: h, ch: make(chan Event, o.Queue), names: make(map[string]bool, len(o.Names))}
	for _, n := range o.Names {
		s.names[n] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	h.subs[s] = struct{}{}
	return s, nil
}

// until closes the subscription when ctx ends.
func (h *hub) until(ctx context.Context, s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.err == nil {
		s.stop = context.AfterFunc(ctx, s.Close)
	}
}

// close ends all subscriptions for the given reason.
func (h *hub) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	for s := range h.subs {
		h.remove(s, err)
	}
}

// remove ends one subscription. The caller holds h.mu.
func (h *hub) remove(s *Subscription, err error) {
	if s.err != nil {
		return
	}
	s.err = err
	delete(h.subs, s)
	if s.stop != nil {
		s.stop()
	}
	close(s.ch)
}
