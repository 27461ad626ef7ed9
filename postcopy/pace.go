package postcopy

import "time"

const (
	// calmAfter is how long after a demand fault the bulk keeps back: another fault is likely.
	calmAfter = 20 * time.Millisecond
	// politeBytes are under way at least, so that the link is never idle.
	politeBytes = 192 << 10
	// politeRun is the smallest run that is worth a request.
	politeRun = 64 << 10
	// rateOver is the time that a rate is measured over.
	rateOver = 50 * time.Millisecond
)

// pace says how much bulk may be under way at once. What is under way stands in the queues of the link, and a demand fault waits
// behind it there, on whatever connection it is: at 1 Gbit/s, 2 MiB are 16 ms. So while the guest faults, only as much is asked for as keeps the
// link busy, the bandwidth × round trip that was seen, and some more. It is pure; the times are the pager's clock.
type pace struct {
	most   int64 // in bytes, while the guest does not fault
	flying int64
	polite bool          // there was a fault
	last   time.Duration // when
	rtt    time.Duration // the shortest fetch of a page
	best   float64       // the highest rate, in bytes a second
	since  time.Duration // of the rate that is being measured
	came   int64
}

// fault takes note that somebody waits for the source.
func (c *pace) fault(now time.Duration) { c.polite, c.last = true, now }

// fetched takes note of how long the fetch of a page took.
func (c *pace) fetched(took time.Duration) {
	if c.rtt == 0 || took < c.rtt {
		c.rtt = took
	}
}

// room is how many bytes, at most, may be asked for now; 0 is none.
func (c *pace) room(now time.Duration, run int64) int64 {
	limit := c.most
	if c.polite && now-c.last < calmAfter {
		limit = min(limit, politeBytes+int64(1.25*c.best*c.rtt.Seconds()))
		run = min(run, max(politeRun, limit/4))
	}
	if c.flying > 0 && c.flying+run > limit {
		return 0
	}
	return run
}

// sent takes note of bulk that was asked for.
func (c *pace) sent(bytes int64) { c.flying += bytes }

// done takes note of bulk that is not under way any more.
func (c *pace) done(now time.Duration, bytes int64) {
	c.flying -= bytes
	c.came += bytes
	if d := now - c.since; d >= rateOver {
		c.best = max(c.best, float64(c.came)/d.Seconds())
		c.since, c.came = now, 0
	}
}
