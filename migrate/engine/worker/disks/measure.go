package disks

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// newLimiter caps bytes a second; 0 is no cap.
func newLimiter(bytes int64) *rate.Limiter {
	l := rate.NewLimiter(rate.Inf, 4*aheadSize)
	setLimit(l, bytes)
	return l
}

// setLimit changes a cap. A burst of several pieces lets the link never run dry between two of them.
func setLimit(l *rate.Limiter, bytes int64) {
	switch {
	case bytes < 0:
	case bytes == 0:
		l.SetLimit(rate.Inf)
	default:
		l.SetLimit(rate.Limit(bytes))
	}
}

// tellEvery is the time between two reports of progress.
const tellEvery = 100 * time.Millisecond

// telling calls tell every so often until the returned function is called, which waits for the last.
func telling(tell func()) (stop func()) { return every(tellEvery, tell) }

func every(d time.Duration, do func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				do()
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// meter measures a rate in bytes a second over the last reports.
type meter struct {
	mu   sync.Mutex
	at   time.Time
	last int64
	rate float64
}

// now takes a total and gives the rate.
func (m *meter) now(total int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := time.Now()
	if m.at.IsZero() {
		m.at, m.last = t, total
		return 0
	}
	d := t.Sub(m.at).Seconds()
	if d < 0.05 {
		return int64(m.rate)
	}
	r := float64(total-m.last) / d
	if m.rate == 0 {
		m.rate = r
	}
	m.rate += (r - m.rate) * min(1, 2*d) // about the last second
	m.at, m.last = t, total
	return int64(m.rate)
}

// meterOfReads measures how long reads took, up to a minute, to two digits.
type meterOfReads struct{ h *hdrhistogram.Histogram }

const longestRead = time.Minute

func newMeterOfReads() meterOfReads {
	return meterOfReads{hdrhistogram.New(int64(time.Microsecond), int64(longestRead), 2)}
}

func (m meterOfReads) record(d time.Duration) {
	_ = m.h.RecordValue(int64(min(max(d, 0), longestRead))) // within its bounds, so it cannot fail
}

// sum gives how many there were, and how long they took in microseconds.
func (m meterOfReads) sum() (int64, *agent.Latency) {
	n := m.h.TotalCount()
	if n == 0 {
		return 0, nil
	}
	us := func(v int64) float64 { return float64(v) / 1e3 }
	return n, &agent.Latency{P50: us(m.h.ValueAtQuantile(50)), P99: us(m.h.ValueAtQuantile(99)), Max: us(m.h.Max())}
}
