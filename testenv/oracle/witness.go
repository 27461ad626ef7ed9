package oracle

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"sync"
	"time"
)

// WitnessOptions tune a witness; the zero value is good.
type WitnessOptions struct {
	// Interval is the time between two pings; 0 means 3 ms. At most a minute.
	Interval time.Duration
	// Observe, if not nil, is told each answer of a guest that is ready and when it
	// came, one at a time. It may not call the witness.
	Observe func(at time.Time, s Seal)
}

const (
	defaultInterval = 3 * time.Millisecond
	maxInterval     = time.Minute
)

// WitnessSchema is the value of WitnessReport.Schema.
const WitnessSchema = "vmmigrate.witness/v1"

// Gap is a time without an answer, between two answers.
type Gap struct {
	// Start is when the last answer before it came in.
	Start  time.Time     `json:"start"`
	Length time.Duration `json:"length_ns"`
	// Open means that the gap had not ended when the report was made.
	Open bool `json:"open,omitempty"`
}

// WitnessCounts count datagrams.
type WitnessCounts struct {
	// Sent pings, Answers to them (one for each ping at most), and pings that
	// are Lost: not answered within a second.
	Sent    uint64 `json:"sent"`
	Answers uint64 `json:"answers"`
	Lost    uint64 `json:"lost"`
	// Duplicates are answers beyond the first to one ping. The network may
	// repeat datagrams; two guests show in the findings.
	Duplicates uint64 `json:"duplicates"`
	// Regressions are answers that were behind what was known when their ping
	// was sent.
	Regressions uint64 `json:"regressions"`
	// Early answers are of a guest that is still starting. Strange ones are to
	// no ping of this witness, or to one that was forgotten.
	Early   uint64 `json:"early"`
	Strange uint64 `json:"strange"`
	// Errors of the socket, such as no route while the guest moves.
	Errors uint64 `json:"errors"`
}

// RoundTrip is how long answers took: half of them, 99 in 100, and the longest.
type RoundTrip struct {
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
	Max time.Duration `json:"max_ns"`
}

// WitnessReport is what a witness saw. It is JSON for whoever started the
// process that the witness lives in.
type WitnessReport struct {
	// Schema is "vmmigrate.witness/v1".
	Schema string `json:"schema"`
	// Guest is the address that was pinged.
	Guest string `json:"guest"`
	// OK is true when there was an answer and no finding. Gaps and losses are
	// no findings: a guest may be paused for as long as its owner likes.
	OK bool `json:"ok"`
	// Started is when the first ping went out, At when the report was made.
	Started time.Time `json:"started"`
	At      time.Time `json:"at"`
	WitnessCounts
	// LongestGap is the outside downtime: the longest time between two
	// answers. Gaps are the longest ones, the longest first.
	LongestGap Gap   `json:"longest_gap"`
	Gaps       []Gap `json:"gaps"`
	// Interval is the time between two pings: no gap is shorter than that.
	Interval time.Duration `json:"interval_ns"`
	RTT      RoundTrip     `json:"rtt"`
	// High is the highest that the guest has told of itself.
	High Seal `json:"high"`
	// LastError is the latest error of the socket; empty if there was none.
	LastError string   `json:"last_error,omitempty"`
	Findings  Findings `json:"findings"`
}

// GapWithin is the longest gap that overlaps the time from..to, whole; zero
// when none of the kept gaps does.
func (r WitnessReport) GapWithin(from, to time.Time) Gap {
	var longest Gap
	for _, g := range r.Gaps {
		if g.Start.Before(to) && g.Start.Add(g.Length).After(from) && g.Length > longest.Length {
			longest = g
		}
	}
	return longest
}

// Witness pings a guest every few milliseconds and remembers. Make it with
// StartWitness; it lives until Stop.
type Witness struct {
	addr     string
	conn     net.Conn
	interval time.Duration
	observe  func(time.Time, Seal)
	stop     context.CancelFunc
	done     sync.WaitGroup

	mu      sync.Mutex
	judge   judge  // guarded by mu
	errors  uint64 // guarded by mu
	lastErr string // guarded by mu
}

// StartWitness begins to ping the guest at addr. ctx bounds only the dialling:
// the witness goes on until Stop, through any pause of the guest and any error
// of the network.
func StartWitness(ctx context.Context, d Dialer, addr string, o WitnessOptions) (*Witness, error) {
	if o.Interval < 0 || o.Interval > maxInterval {
		return nil, fmt.Errorf("oracle: witness: interval %v: want at most %v", o.Interval, maxInterval)
	}
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	conn, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return nil, fmt.Errorf("oracle: witness %s: %w", addr, err)
	}
	run, stop := context.WithCancel(context.Background())
	w := &Witness{addr: addr, conn: conn, interval: o.Interval, observe: o.Observe, stop: stop}
	// Ids from a random start on: answers to a witness that had this port
	// before are strange ones.
	w.judge.next = newID() >> 1
	w.done.Go(func() { w.sender(run) })
	w.done.Go(func() { w.receiver(run) })
	return w, nil
}

// Stop ends the witness, waits for its goroutines and returns what it saw. A
// second Stop returns the same again.
func (w *Witness) Stop() WitnessReport {
	w.stop()
	w.conn.Close()
	w.done.Wait()
	return w.Report()
}

// Report says what the witness has seen until now.
func (w *Witness) Report() WitnessReport {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.judge.report(time.Now())
	r.Guest, r.Interval, r.Errors, r.LastError = w.addr, w.interval, w.errors, w.lastErr
	return r
}

// sender sends a ping at each interval.
func (w *Witness) sender(ctx context.Context) {
	t := time.NewTicker(w.interval)
	defer t.Stop()
	b := make([]byte, 0, headerSize)
	for {
		w.mu.Lock()
		id := w.judge.send(time.Now())
		w.mu.Unlock()
		b = message{kind: msgPing, id: id}.append(b[:0])
		if _, err := w.conn.Write(b); err != nil {
			w.failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// receiver reads answers. After an error it waits for an interval, so that a
// socket that only fails costs nothing.
func (w *Witness) receiver(ctx context.Context) {
	b := make([]byte, MaxMessage+1)
	for ctx.Err() == nil {
		n, err := w.conn.Read(b)
		if err != nil {
			w.failed(err)
			_ = pause(ctx, w.interval)
			continue
		}
		now := time.Now()
		m, err := decode(b[:n])
		w.mu.Lock()
		if err != nil || m.kind != msgPong {
			w.judge.counts.Strange++
		} else {
			w.judge.receive(m.id, m.pong, now)
		}
		w.mu.Unlock()
		if err == nil && m.kind == msgPong && m.pong.Ready && w.observe != nil {
			w.observe(now, m.pong.Seal)
		}
	}
}

// failed counts an error of the socket that is not its being closed by Stop.
func (w *Witness) failed(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors++
	w.lastErr = err.Error()
}

// histogram counts durations in buckets that are each an eighth wider than the
// one before or less.
type histogram struct {
	counts [64 * 8]uint64
	total  uint64
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.total++
	h.max = max(h.max, d)
}

// bucket is made of the position of the highest bit and the three bits below.
func bucket(n uint64) int {
	if n < 8 {
		return int(n)
	}
	top := bits.Len64(n) - 1
	return (top-2)*8 + int(n>>(top-3)&7)
}

// bound is the highest duration in a bucket.
func bound(b int) time.Duration {
	if b < 8 {
		return time.Duration(b)
	}
	top, low := b/8+2, uint64(b%8)
	return time.Duration((8+low+1)<<(top-3) - 1)
}

// quantile is a bound that this part of the durations does not pass.
func (h *histogram) quantile(part float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	need := uint64(part * float64(h.total))
	var sum uint64
	for b, n := range h.counts {
		if sum += n; sum > need || sum == h.total {
			return min(bound(b), h.max)
		}
	}
	return h.max
}

func (h *histogram) times() RoundTrip {
	return RoundTrip{P50: h.quantile(0.5), P99: h.quantile(0.99), Max: h.max}
}
