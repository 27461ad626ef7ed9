package postcopy

import (
	"testing"
	"time"
)

// While the guest faults, no more bulk is under way than keeps the link busy. Else as much as was allowed.
func TestPace(t *testing.T) {
	const ms = time.Millisecond
	c := pace{most: 2 << 20}
	fill := func(now time.Duration) (total, largest int64) {
		for n := c.room(now, 256<<10); n > 0; n = c.room(now, 256<<10) {
			c.sent(n)
			total, largest = total+n, max(largest, n)
		}
		return total, largest
	}
	empty := func(now time.Duration) { c.done(now, c.flying) }
	if n, _ := fill(0); n != 2<<20 {
		t.Errorf("%d bytes under way without a fault", n)
	}
	empty(10 * ms)
	c.fault(10 * ms)
	c.fetched(100 * time.Microsecond)
	if n, run := fill(11 * ms); n > politeBytes || n < 2*politeRun || run != politeRun {
		t.Errorf("%d bytes under way, in runs of %d, at a fault", n, run)
	}
	if n, _ := fill(31 * ms); c.flying <= 2<<20-256<<10 {
		t.Errorf("%d bytes more under way after it", n)
	}
	empty(60 * ms) // 4 MiB in 60 ms
	long := pace{most: 8 << 20, best: c.best}
	long.fetched(40 * ms)
	long.fetched(50 * ms)
	long.fault(100 * ms)
	c = long
	if n, _ := fill(101 * ms); float64(n) < c.best*0.04 || n > 5<<20 {
		t.Errorf("%d bytes under way on a long link of %.0f bytes a second", n, c.best)
	}
	c = pace{most: 64 << 10}
	if n := c.room(0, 2<<20); n != 2<<20 {
		t.Errorf("a page of 2 MiB is never asked for: %d", n)
	}
}
