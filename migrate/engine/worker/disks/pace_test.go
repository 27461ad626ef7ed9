package disks

import (
	"testing"
	"time"
)

// While the guest reads, no more is on its way than the link holds; when it does not the link is filled.
func TestPace(t *testing.T) {
	const speed, trip = 125e6, 2 * time.Millisecond
	var p pace
	now := time.Unix(1, 0)
	if n := p.ahead(now); n != mostAhead {
		t.Errorf("nothing is known: %d", n)
	}
	var came int64
	for range 20 {
		now = now.Add(sampleTime)
		came += speed / 10
		p.came(now, came)
	}
	p.read(now, 0, 0)
	p.read(now, 50*time.Millisecond, unit) // behind what was asked for before
	p.read(now, trip+unit*time.Second/speed, unit)
	if n, holds := p.ahead(now), int64(speed*(trip+slack).Seconds()); n < holds*99/100 || n > holds*110/100 {
		t.Errorf("%d bytes ahead of a guest's reads, and the link holds %d", n, holds)
	}
	p.read(now, time.Microsecond, 16*unit) // is not learnt from
	if n := p.ahead(now.Add(guestQuiet - 1)); n > 1<<20 {
		t.Errorf("%d soon after", n)
	}
	if n := p.ahead(now.Add(guestQuiet)); n != mostAhead {
		t.Errorf("%d after a while", n)
	}
	now = now.Add(2 * bestTime)
	for range 2 { // the link is another one
		p.read(now, 0, 0)
		p.read(now, 30*time.Millisecond, 512)
		now = now.Add(2 * bestTime)
	}
	if n := p.ahead(now.Add(-2 * bestTime)); n < 3e6 {
		t.Errorf("%d on a long link", n)
	}
	var short pace
	short.came(now, 0)
	short.came(now.Add(time.Second), 1e6)
	short.read(now, 0, 0)
	short.read(now, time.Microsecond, 512)
	if n := short.ahead(now); n != leastAhead {
		t.Errorf("%d on a slow and short link", n)
	}
}
