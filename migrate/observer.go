package migrate

import (
	"sync"
	"time"
)

// observer is the Sink: it takes what the engine sees, from any goroutine and without blocking, and keeps it for the loop.
type observer struct {
	mu     sync.Mutex
	rec    *recorder
	events []sideEvent
	stats  []timedStats
	notes  []string
	anyRAM bool
	wake   chan struct{}
}

type sideEvent struct {
	side Side
	ev   GuestEvent
}

type timedStats struct {
	at time.Time
	s  Stats
}

// maxHeld bounds what is kept between two looks of the loop; a loop that is that late loses figures, never stops and starts.
const maxHeld = 4096

func newObserver(rec *recorder) *observer {
	return &observer{rec: rec, wake: make(chan struct{}, 1)}
}

func (o *observer) Stats(s Stats) {
	o.mu.Lock()
	if len(o.stats) < maxHeld {
		o.stats = append(o.stats, timedStats{time.Now(), s})
	}
	o.mu.Unlock()
	o.ring()
}

func (o *observer) Guest(side Side, e GuestEvent) {
	if e.Seen.IsZero() {
		e.Seen = time.Now()
	}
	o.mu.Lock()
	if len(o.events) < maxHeld || e.Kind == EventStop || e.Kind == EventResume {
		o.events = append(o.events, sideEvent{side, e})
	}
	o.mu.Unlock()
	o.ring()
}

func (o *observer) Note(text string) {
	o.mu.Lock()
	o.notes = append(o.notes, text)
	o.mu.Unlock()
	o.ring()
}

func (o *observer) ring() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take moves everything on: figures to the estimator, all of it to the recorder. It returns the guest's events and the
// notes.
func (o *observer) take(est *Estimator) (events []sideEvent, notes []string) {
	o.mu.Lock()
	events, notes = o.events, o.notes
	stats := o.stats
	o.events, o.stats, o.notes = nil, nil, nil
	o.mu.Unlock()
	i := 0
	for _, e := range events {
		for ; i < len(stats) && !stats[i].at.After(e.ev.Seen); i++ {
			notes = append(notes, o.count(est, stats[i])...)
		}
		o.rec.guest(e.side, e.ev)
	}
	for ; i < len(stats); i++ {
		notes = append(notes, o.count(est, stats[i])...)
	}
	for _, n := range notes {
		o.rec.note(n)
	}
	return events, notes
}

// count gives figures to all who count; what it returns is for a person to know.
func (o *observer) count(est *Estimator, s timedStats) (notes []string) {
	o.anyRAM = o.anyRAM || value(s.s.RAMSent) > 0
	est.Stats(s.at, s.s)
	notes = o.rec.copying(s.at, s.s.Disks)
	o.rec.stats(s.at, s.s)
	return notes
}

// counted tells whether any RAM was seen to be sent.
func (o *observer) counted() bool { return o.anyRAM }
