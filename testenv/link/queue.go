package link

import (
	"sync"
	"time"
)

// queue holds frames until they are due, in the order in which they came, up to a
// number of bytes. One goroutine pushes and one takes out.
type queue struct {
	filled chan struct{} // has a token after a push

	mu    sync.Mutex
	items []item // guarded by mu, oldest first
	bytes int    // guarded by mu
	limit int    // guarded by mu
}

type item struct {
	frame []byte
	due   time.Time
}

func newQueue() *queue { return &queue{filled: make(chan struct{}, 1), limit: minQueue} }

func (q *queue) setLimit(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = bytes
}

// push copies the frame into the queue, unless that is full.
func (q *queue) push(frame []byte, due time.Time) bool {
	q.mu.Lock()
	fits := q.bytes+len(frame) <= q.limit
	if fits {
		q.items = append(q.items, item{append([]byte(nil), frame...), due})
		q.bytes += len(frame)
	}
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
	return fits
}

// head is the oldest frame, which stays in the queue until pop.
func (q *queue) head() (frame []byte, due time.Time, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil, time.Time{}, false
	}
	return q.items[0].frame, q.items[0].due, true
}

// pop takes the oldest frame out.
func (q *queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bytes -= len(q.items[0].frame)
	q.items[0] = item{}
	q.items = q.items[1:]
}
