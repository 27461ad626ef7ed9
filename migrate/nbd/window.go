package nbd

import (
	"context"
	"sync"
)

// window bounds the bytes that requests in flight ask for, in the order of their coming. One is always let in.
type window struct {
	mu    sync.Mutex
	limit int64
	used  int64
	queue []*waiter
}

type waiter struct {
	n     int64
	ready chan struct{}
}

// take waits for room of n bytes.
func (w *window) take(ctx context.Context, n int64) error {
	w.mu.Lock()
	if len(w.queue) == 0 && w.fits(n) {
		w.used += n
		w.mu.Unlock()
		return nil
	}
	me := &waiter{n, make(chan struct{})}
	w.queue = append(w.queue, me)
	w.mu.Unlock()
	select {
	case <-me.ready:
		return nil
	case <-ctx.Done():
		w.leave(me)
		return context.Cause(ctx)
	}
}

// try takes room of n bytes if there is any.
func (w *window) try(n int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) > 0 || !w.fits(n) {
		return false
	}
	w.used += n
	return true
}

func (w *window) fits(n int64) bool { return w.used == 0 || w.used+n <= w.limit }

// leave takes a waiter out of the queue, or gives back what it was just given.
func (w *window) leave(me *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, o := range w.queue {
		if o == me {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			w.admit() // who stood behind may fit
			return
		}
	}
	w.used -= me.n
	w.admit()
}

func (w *window) give(n int64) {
	w.mu.Lock()
	w.used -= n
	w.admit()
	w.mu.Unlock()
}

func (w *window) set(limit int64) {
	w.mu.Lock()
	w.limit = limit
	w.admit()
	w.mu.Unlock()
}

func (w *window) admit() {
	for len(w.queue) > 0 && w.fits(w.queue[0].n) {
		w.used += w.queue[0].n
		close(w.queue[0].ready)
		w.queue = w.queue[1:]
	}
}
