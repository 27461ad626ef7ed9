package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/journal"
)

// hands is a clock that a test sets.
type hands struct{ at atomic.Pointer[time.Time] }

func (h *hands) now() time.Time      { return *h.at.Load() }
func (h *hands) set(t time.Time)     { h.at.Store(&t) }
func (h *hands) add(d time.Duration) { h.set(h.now().Add(d)) }

type counsel func(now time.Time) (time.Time, string, error)

func (c counsel) advise(_ context.Context, now time.Time) (time.Time, string, error) { return c(now) }

// waitBench is a wait with what it says.
type waitBench struct {
	*waiter
	clock *hands
	said  chan journal.Wait
	over  chan error
}

func newWaitBench(t *testing.T, a func(*hands) adviser) *waitBench {
	t.Helper()
	db, err := journal.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	b := &waitBench{clock: &hands{}, said: make(chan journal.Wait, 100), over: make(chan error, 1)}
	b.clock.set(time.Unix(1_000_000, 0))
	b.waiter = &waiter{db: db, o: order{ID: "m-1", Domain: "web", Source: "s", Dest: "d"}, advice: a(b.clock), log: slog.New(slog.DiscardHandler),
		now: b.clock.now, every: time.Millisecond, tell: func(w journal.Wait) { b.said <- w }}
	return b
}

func (b *waitBench) begin(ctx context.Context) {
	go func() {
		release, err := b.wait(ctx)
		release()
		b.over <- err
	}()
}

func in(d time.Duration) func(*hands) adviser {
	return func(h *hands) adviser { return appointment(h.now().Add(d)) }
}

func TestWaitBeginsAtItsTime(t *testing.T) {
	b := newWaitBench(t, in(time.Hour))
	b.begin(t.Context())
	if w := <-b.said; !w.Start.Equal(b.clock.now().Add(time.Hour)) || w.Why == "" || !w.Alive {
		t.Errorf("it says %+v", w)
	}
	b.clock.add(59 * time.Minute)
	if all, err := b.db.Waits(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	b.clock.add(time.Minute)
	if err := <-b.over; err != nil {
		t.Error(err)
	}
	if all, err := b.db.Waits(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left behind: %+v, %v", all, err)
	}
}

func TestWaitHearsRequests(t *testing.T) {
	for r, want := range map[journal.Request]error{journal.RequestHurry: nil, journal.RequestCancel: migrate.ErrCancelled} {
		b := newWaitBench(t, in(time.Hour))
		b.begin(t.Context())
		<-b.said
		if err := b.db.Ask(t.Context(), "web", r); err != nil {
			t.Fatal(err)
		}
		if err := <-b.over; !errors.Is(err, want) {
			t.Errorf("%s: %v", r, err)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	b := newWaitBench(t, in(time.Hour))
	ctx, stop := context.WithCancel(t.Context())
	b.begin(ctx)
	<-b.said
	stop()
	if err := <-b.over; !errors.Is(err, migrate.ErrCancelled) {
		t.Error(err)
	}
	if all, err := b.db.Waits(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left behind: %+v, %v", all, err)
	}
}

// Advice that changes is told; where none can be had the last one holds, and with none at all it begins.
func TestWaitRenewsItsAdvice(t *testing.T) {
	asked := 0
	b := newWaitBench(t, func(h *hands) adviser {
		return counsel(func(now time.Time) (time.Time, string, error) {
			switch asked++; asked {
			case 1:
				return now.Add(time.Hour), "busy", nil
			case 2:
				return time.Time{}, "", errors.New("no samples")
			}
			return now, "quiet now", nil
		})
	})
	b.begin(t.Context())
	for _, want := range []struct {
		why string
		in  time.Duration
	}{{"busy", time.Hour}, {"nothing new is known: no samples", time.Hour}, {"quiet now", 0}} {
		if w := <-b.said; w.Why != want.why || !w.Start.Equal(b.clock.now().Add(want.in)) {
			t.Errorf("%+v, want %s in %s", w, want.why, want.in)
		}
	}
	if err := <-b.over; err != nil {
		t.Error(err)
	}
	b = newWaitBench(t, func(*hands) adviser {
		return counsel(func(time.Time) (time.Time, string, error) { return time.Time{}, "", errors.New("no samples") })
	})
	b.begin(t.Context())
	if err := <-b.over; err != nil {
		t.Error(err)
	}
}

// A wait whose process was killed is taken up by another.
func TestWaitIsTakenUp(t *testing.T) {
	b := newWaitBench(t, in(time.Hour))
	h, err := b.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	b.o.Waited = true
	b.clock.add(time.Hour)
	b.begin(t.Context())
	if err := <-b.over; err != nil {
		t.Error(err)
	}
}
