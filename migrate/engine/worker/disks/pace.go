package disks

import (
	"sync"
	"time"
)

// pace says how much may be asked for ahead. While the guest reads what is not there, no more than keeps the link busy: whatever
// more is on its way stands before the guest's reads in the queue of the narrowest part of the link. It knows no clock but what
// it is told.
type pace struct {
	mu    sync.Mutex
	last  time.Time // of the guest's reads
	base  best      // the shortest time of a small read, in seconds: the smaller the better
	speed best      // the most that came in a second, in bytes
	from  time.Time // of the sample of speed that is being taken
	bytes int64
}

// guestQuiet is for how long the guest must not have read what is not there for the link to be filled.
const guestQuiet = time.Second

// slack is how much longer the guest's reads may take for the link to be kept busy.
const slack = 500 * time.Microsecond

// Bounds of what is on its way, in bytes, and the time between two samples of speed.
const (
	leastAhead = 2 * unit
	mostAhead  = 8 << 20
	sampleTime = 100 * time.Millisecond
)

// read tells of a read that somebody waited for: how long it took, and how many bytes came; 0 if that is not to be learnt from.
func (p *pace) read(now time.Time, took time.Duration, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if took == 0 {
		p.last = now
		return
	}
	if bytes > unit {
		return
	}
	seconds := took.Seconds()
	if speed := p.speed.value(now); speed > 0 { // without its own time on the link
		seconds = max(seconds/2, seconds-float64(bytes)/speed)
	}
	p.base.add(now, -seconds)
}

// came tells how much has come altogether.
func (p *pace) came(now time.Time, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch d := now.Sub(p.from); {
	case p.from.IsZero() || total < p.bytes:
	case d < sampleTime:
		return
	default:
		p.speed.add(now, float64(total-p.bytes)/d.Seconds())
	}
	p.from, p.bytes = now, total
}

// ahead is how many bytes may be on their way.
func (p *pace) ahead(now time.Time) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	base, speed := -p.base.value(now), p.speed.value(now)
	if now.Sub(p.last) >= guestQuiet || base <= 0 || speed <= 0 {
		return mostAhead
	}
	return min(mostAhead, max(leastAhead, int64((base+slack.Seconds())*speed)))
}

// best is the largest of the values of the last while; the one of before as long as there is no other.
type best struct {
	now, before float64
	turn        time.Time
}

const bestTime = 5 * time.Second

func (b *best) add(now time.Time, v float64) {
	switch {
	case b.turn.IsZero():
		b.now, b.before, b.turn = v, v, now
	case now.Sub(b.turn) > bestTime:
		b.before, b.now, b.turn = b.now, v, now
	default:
		b.now = max(b.now, v)
	}
}

func (b *best) value(time.Time) float64 { return max(b.now, b.before) }
