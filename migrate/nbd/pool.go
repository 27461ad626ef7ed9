package nbd

import (
	"math/bits"
	"sync"
)

const (
	smallestClass = 12 // 4 KiB
	largestClass  = 25 // 32 MiB
)

// bufferPool keeps buffers for reuse, by powers of two.
type bufferPool struct {
	classes [largestClass - smallestClass + 1]sync.Pool
}

// get returns a buffer of n bytes, at most 32 MiB, with anything in it.
func (p *bufferPool) get(n int) *[]byte {
	class := max(0, bits.Len(uint(n-1))-smallestClass)
	if b, ok := p.classes[class].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<(class+smallestClass))
	return &b
}

// put gives a buffer back that get returned.
func (p *bufferPool) put(b *[]byte) {
	if b != nil {
		p.classes[bits.Len(uint(cap(*b)-1))-smallestClass].Put(b)
	}
}

// budget bounds how many requests are in flight and how many bytes they hold. One is always let in.
type budget struct {
	mu       sync.Mutex
	freed    sync.Cond
	count    int
	bytes    int64
	maxCount int
	maxBytes int64
}

func newBudget(count int, bytes int64) *budget {
	b := &budget{maxCount: count, maxBytes: bytes}
	b.freed.L = &b.mu
	return b
}

// take waits until there is room, and says how many requests are now in flight.
func (b *budget) take(n int64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.count > 0 && (b.count >= b.maxCount || b.bytes+n > b.maxBytes) {
		b.freed.Wait()
	}
	b.count++
	b.bytes += n
	return b.count
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	b.count--
	b.bytes -= n
	b.mu.Unlock()
	b.freed.Signal()
}
