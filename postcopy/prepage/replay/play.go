package replay

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// Link is the way to the source, in the model.
type Link struct {
	// RTT is the round trip without load.
	RTT time.Duration
	// Bandwidth is in bytes a second.
	Bandwidth int64
	// Local is what a demand fault costs besides the way. 0 is 15 µs.
	Local time.Duration
	// Request is the size of a bulk request in bytes, and Window that of all which are under way at once. 0 is 256 KiB, and what
	// the link holds in one round trip and two requests more.
	Request, Window int64
	// Queue is how many bytes of bulk a demand fault cannot overtake. 0 is 64 KiB; negative is none.
	Queue int64
}

func (l Link) filled() (Link, error) {
	if l.RTT < 0 || l.Bandwidth <= 0 {
		return l, errors.New("a link has a round trip time and a bandwidth")
	}
	l.Local = cmp.Or(l.Local, 15*time.Microsecond)
	l.Request = cmp.Or(l.Request, 256<<10)
	l.Window = cmp.Or(l.Window, int64(l.RTT.Seconds()*float64(l.Bandwidth))+2*l.Request)
	l.Queue = max(0, cmp.Or(l.Queue, 64<<10))
	return l, nil
}

// takes is the time that bytes are on the wire.
func (l Link) takes(bytes int64) time.Duration {
	return time.Duration(float64(bytes) / float64(l.Bandwidth) * float64(time.Second))
}

// Result is what came of a trace with one policy.
type Result struct {
	Policy string
	// Touches are the first touches of missing pages; Faults those of them that the page was not there for; UnderWay
	// those faults whose page was under way.
	Touches, Faults, UnderWay int
	// Stall is how long the threads stood still, all together; Longest the longest time of one fault, P99 and P50 what
	// 99 and 50 of 100 faults did not take longer than.
	Stall, Longest, P99, P50 time.Duration
	// Guest is when the last thread was through, Total when no page was missing any more.
	Guest, Total time.Duration
	// Requests are bulk requests, of Pages pages.
	Requests, Pages int
}

// Play plays the trace with the policy of that name. The trace is not changed.
func Play(t *Trace, policy string, link Link) (Result, error) {
	link, err := link.filled()
	if err != nil {
		return Result{}, err
	}
	p, err := prepage.New(policy, t.Blocks, t.Missing, t.Hot)
	if err != nil {
		return Result{}, fmt.Errorf("play a fault trace: %w", err)
	}
	w := &world{trace: t, link: link, policy: p, absent: t.Missing.Clone()}
	w.r.Policy = p.Name()
	w.threads = threadsOf(t)
	w.run()
	return w.result(), nil
}

// world is the state of the model.
type world struct {
	trace   *Trace
	link    Link
	policy  *prepage.Policy
	absent  ram.Set
	threads []*thread
	bulk    []request // under way, in the order of their coming
	window  int64
	free    time.Duration // when the source has sent all it was asked for
	stalls  []time.Duration
	r       Result
}

// thread is one thread of the guest on its way through its touches.
type thread struct {
	touches []touch
	at      time.Duration // when it comes to the next touch
}

type touch struct {
	prepage.Ref
	think time.Duration
}

// request is a bulk request under way.
type request struct {
	prepage.Run
	due time.Duration
}

// threadsOf takes the trace apart.
func threadsOf(t *Trace) []*thread {
	var all []*thread
	known := map[int]*thread{}
	last := map[int]time.Duration{}
	for _, f := range t.Faults {
		th := known[f.Thread]
		if th == nil {
			th = &thread{}
			known[f.Thread] = th
			all = append(all, th)
		}
		think := f.At - last[f.Thread]
		if len(th.touches) > 0 {
			think = max(0, think-t.Cost)
		}
		last[f.Thread] = f.At
		th.touches = append(th.touches, touch{f.Ref, think})
	}
	for _, th := range all {
		th.at = th.touches[0].think
	}
	return all
}

// run goes from event to event until the guest is through and all pages are there.
func (w *world) run() {
	now := time.Duration(0)
	for {
		w.ask(now)
		th := w.first()
		switch {
		case th != nil && (len(w.bulk) == 0 || th.at < w.bulk[0].due):
			now = max(now, th.at)
			w.touch(th)
		case len(w.bulk) > 0:
			now = max(now, w.bulk[0].due)
			w.land()
		default:
			now = max(now, w.r.Guest)
			w.policy.Drain()
			if w.policy.Left() == 0 {
				return
			}
		}
	}
}

// first is the thread whose next touch is the next of all, or nil.
func (w *world) first() *thread {
	var best *thread
	for _, th := range w.threads {
		if len(th.touches) > 0 && (best == nil || th.at < best.at) {
			best = th
		}
	}
	return best
}

// ask keeps the window full.
func (w *world) ask(now time.Duration) {
	for w.window < w.link.Window {
		limit := 1 << 30
		for _, b := range w.trace.Blocks {
			limit = min(limit, int(max(1, w.link.Request/b.PageSize)))
		}
		run, ok := w.policy.Next(limit)
		if !ok {
			return
		}
		bytes := int64(run.Pages()) * w.trace.Blocks[run.Block].PageSize
		w.free = max(w.free, now+w.link.RTT/2) + w.link.takes(bytes)
		due := w.free + w.link.RTT/2
		w.window += bytes
		w.bulk = append(w.bulk, request{run, due})
		w.r.Requests++
		w.r.Pages += run.Pages()
	}
}

// land lets the first bulk request come in.
func (w *world) land() {
	req := w.bulk[0]
	w.bulk = w.bulk[1:]
	w.window -= int64(req.Pages()) * w.trace.Blocks[req.Block].PageSize
	w.absent[req.Block].ClearRange(req.Lo, req.Hi)
	w.policy.Placed(req.Block, req.Lo, req.Hi)
	w.r.Total = max(w.r.Total, req.due)
}

// touch lets a thread come to its next page.
func (w *world) touch(th *thread) {
	t := th.touches[0]
	th.touches = th.touches[1:]
	if w.trace.Missing[t.Block].Test(t.Page) {
		w.r.Touches++
	}
	if w.absent[t.Block].Test(t.Page) {
		come := w.demand(t.Ref, th.at)
		w.stalls = append(w.stalls, come-th.at)
		th.at = come
		w.r.Total = max(w.r.Total, come)
	}
	w.r.Guest = max(w.r.Guest, th.at)
	if len(th.touches) > 0 {
		th.at += th.touches[0].think
	}
}

// demand asks for one page and returns when it is there. The page counts as there at once: nobody else is waiting for it.
func (w *world) demand(p prepage.Ref, now time.Duration) time.Duration {
	w.policy.Fault(p.Block, p.Page)
	at := now + w.link.RTT/2
	wire := w.link.takes(w.trace.Blocks[p.Block].PageSize)
	at += min(max(0, w.free-at), w.link.takes(w.link.Queue)) + wire
	w.free = max(w.free, now+w.link.RTT/2) + wire
	come := at + w.link.RTT/2 + w.link.Local
	for _, req := range w.bulk {
		if req.Block == p.Block && req.Lo <= p.Page && p.Page < req.Hi {
			w.r.UnderWay++
			come = min(come, max(now, req.due))
		}
	}
	w.absent[p.Block].Clear(p.Page)
	w.policy.Placed(p.Block, p.Page, p.Page+1)
	return come
}

func (w *world) result() Result {
	w.r.Faults = len(w.stalls)
	slices.Sort(w.stalls)
	for _, s := range w.stalls {
		w.r.Stall += s
	}
	if n := len(w.stalls); n > 0 {
		w.r.Longest, w.r.P99, w.r.P50 = w.stalls[n-1], w.stalls[(n-1)*99/100], w.stalls[(n-1)/2]
	}
	return w.r
}
