package main

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// lossyWriter writes from a goroutine of its own and drops what finds its queue full, so that nobody is ever held up by
// who reads, or does not.
type lossyWriter struct {
	w     io.Writer
	queue chan []byte
	done  chan struct{}
	once  sync.Once
}

const (
	lossyQueue = 256
	// lossyPatience is how long the rest may take to be written at the end.
	lossyPatience = time.Second
)

// newLossyWriter writes to w. The caller closes it; Write must not be called afterwards.
func newLossyWriter(w io.Writer) *lossyWriter {
	l := &lossyWriter{w: w, queue: make(chan []byte, lossyQueue), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for p := range l.queue {
			_, _ = l.w.Write(p) // nobody to tell
		}
	}()
	return l
}

// Write queues a copy of p, or drops it; it never blocks and never fails.
func (l *lossyWriter) Write(p []byte) (int, error) {
	select {
	case l.queue <- bytes.Clone(p):
	default:
	}
	return len(p), nil
}

// Close writes what is queued, for as long as lossyPatience at most: then the goroutine is left with a reader that does
// not read, and ends with the process.
func (l *lossyWriter) Close() {
	l.once.Do(func() { close(l.queue) })
	select {
	case <-l.done:
	case <-time.After(lossyPatience):
	}
}
