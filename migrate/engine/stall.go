package engine

import "time"

// Stall notices that a post-copy moves no more bytes, which a cut link does not tell by itself: TCP keeps trying for
// a quarter of an hour while the guest's vCPUs wait for pages. It is pure.
type Stall struct {
	// After is how long nothing may move.
	After time.Duration

	seen bool
	sent int64
	at   time.Duration
}

// Step takes the bytes sent so far and the time since the start, and tells whether the link counts as cut.
func (s *Stall) Step(now time.Duration, sent int64) bool {
	if !s.seen || sent != s.sent {
		s.seen, s.sent, s.at = true, sent, now
		return false
	}
	return now-s.at >= s.After
}
