package postcopy

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency sums up how long faults took, from the moment their message was read to the page in place.
type Latency struct {
	Count         int64
	P50, P99, Max time.Duration
}

// Stats are figures of a pager since it was made, over all its Runs.
type Stats struct {
	// RemoteFaults needed the source; JoinedFaults of them hit a page that was under way already. LocalFaults were on pages that
	// are zeros, or that the guest had discarded.
	RemoteFaults, JoinedFaults, LocalFaults int64
	// Remote and Local are their latencies.
	Remote, Local Latency
	// Demanded pages came because of a fault, Prepaged before one. Zero pages needed no contents, Present ones were there
	// already, Discarded ones are not wanted any more.
	Demanded, Prepaged, Zero, Present, Discarded int64
	// Bytes of contents were placed.
	Bytes int64
	// Remaining pages are missing, RemainingBytes is their size.
	Remaining, RemainingBytes int64
	// Spaces is the number of address spaces: one more for each process that forked off.
	Spaces int
}

// meter measures latencies, in nanoseconds up to a minute, to two digits.
type meter struct{ h *hdrhistogram.Histogram }

const longestFault = time.Minute

func newMeter() meter { return meter{hdrhistogram.New(100, int64(longestFault), 2)} }

func (m meter) record(d time.Duration) {
	_ = m.h.RecordValue(int64(min(max(d, 0), longestFault))) // within its bounds, so it cannot fail
}

func (m meter) latency() Latency {
	return Latency{m.h.TotalCount(), time.Duration(m.h.ValueAtQuantile(50)), time.Duration(m.h.ValueAtQuantile(99)),
		time.Duration(m.h.Max())}
}

// Stats gives the figures so far.
func (p *Pager) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.stats
	out.Remote, out.Local = p.remote.latency(), p.local.latency()
	out.Spaces = len(p.spaces)
	for _, s := range p.spaces {
		t := s.books.tally
		out.Demanded += t.demanded
		out.Prepaged += t.prepaged
		out.Zero += t.zero
		out.Present += t.present
		out.Discarded += t.discarded
		out.Remaining += int64(s.books.left)
		out.RemainingBytes += s.books.missing.Bytes(p.cfg.Blocks)
	}
	return out
}
