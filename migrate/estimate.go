package migrate

import (
	"math"
	"time"
)

// Estimator turns the figures of a job into percent and time left. It is pure: the caller gives the time. Whatever the
// figures are (negative, beyond the total, jumping back), percent stays within 0 and 100 and never falls.
//
// Percent is made of the phases: up to 2 before the copy, 2 to 95 as RAM and disks arrive (during the copy and during the
// paging alike), 97 once only the source is left to release, 100 on completion. A pre-copy round that starts over does
// not bring it back, it waits.
//
// Bandwidth and dirty rate are exponential averages with a time constant of 3 s, so that one slow second does not double
// the time left. Time left is a range: low is remaining ÷ bandwidth, as if the guest wrote nothing more; high takes in
// what the guest writes meanwhile (a geometric series, remaining ÷ (bandwidth − dirty rate)), and half as much again for
// a bandwidth that sinks. With post-copy what is written meanwhile is sent once more at most. A pre-copy that writes
// faster than it sends has no upper bound but the time limit.
type Estimator struct {
	postcopy bool
	ram      int64 // RAM of the guest, which counts until the job counts it itself
	percent  float64
	phase    Phase
	last     time.Time
	lastSent int64
	haveSent bool

	bandwidth, dirty smooth
	remaining, total *int64
	round            *int64
}

// NewEstimator starts at 0 percent. The guest's RAM in bytes (0 = not known) counts as work from the start, so that
// disks which go first do not look like all of it.
func NewEstimator(postcopy bool, ram int64) *Estimator {
	return &Estimator{postcopy: postcopy, ram: max(ram, 0)}
}

// GoOn starts from what an earlier coordinator had shown, so that percent does not fall when another takes over.
func (e *Estimator) GoOn(percent float64) {
	if percent > 0 { // and no NaN
		e.raise(percent)
	}
}

// Phase tells that a phase has begun.
func (e *Estimator) Phase(p Phase) {
	e.phase = p
	switch p {
	case PhasePreparing:
		e.raise(1)
	case PhaseCopying:
		e.raise(2)
	case PhaseFinishing:
		e.raise(97)
	}
}

// Complete tells that the migration completed; nothing else makes 100.
func (e *Estimator) Complete() {
	e.phase = PhaseEnded
	e.percent = 100
	zero := int64(0)
	e.remaining = &zero
}

// Stats takes figures read at the time at. Nonsense is dropped, field by field.
func (e *Estimator) Stats(at time.Time, s Stats) {
	dt := at.Sub(e.last)
	if e.last.IsZero() || dt < 0 {
		dt = 0
	}
	e.last = at
	e.rates(dt, s)
	ramTotal, ramLeft := sane(s.RAMTotal), sane(s.RAMRemaining)
	if value(ramTotal) == 0 && e.ram > 0 {
		ramTotal, ramLeft = &e.ram, &e.ram
	}
	total := addKnown(ramTotal, sane(s.DiskTotal))
	remaining := addKnown(ramLeft, sane(s.DiskRemaining))
	if total != nil && *total > 0 {
		e.total = total
	}
	if remaining != nil {
		if e.total != nil {
			*remaining = min(*remaining, *e.total)
		}
		e.remaining = remaining
	}
	if r := sane(s.Round); r != nil && *r > 0 {
		e.round = r
	}
	e.work()
}

func (e *Estimator) rates(dt time.Duration, s Stats) {
	sent := addKnown(sane(s.RAMSent), sane(s.DiskSent))
	switch {
	case sane(s.Bandwidth) != nil:
		e.bandwidth.add(dt, float64(*s.Bandwidth))
	case sent != nil && e.haveSent && dt > 0 && *sent >= e.lastSent:
		e.bandwidth.add(dt, float64(*sent-e.lastSent)/dt.Seconds())
	}
	if sent != nil {
		e.lastSent, e.haveSent = *sent, true
	}
	if d := sane(s.DirtyRate); d != nil {
		e.dirty.add(dt, float64(*d))
	}
}

// work raises percent by what has arrived. A job that has not begun to count reports everything as zero.
func (e *Estimator) work() {
	if e.total == nil || e.remaining == nil || (e.phase != PhaseCopying && e.phase != PhaseSwitching && e.phase != PhasePaging) {
		return
	}
	e.raise(2 + 93*(1-float64(*e.remaining)/float64(*e.total)))
}

func (e *Estimator) raise(p float64) {
	if p > e.percent {
		e.percent = min(p, 99)
	}
}

// Fill writes what is known into p.
func (e *Estimator) Fill(p *Progress) {
	p.Percent = math.Floor(e.percent*10) / 10
	p.RemainingBytes, p.Round = e.remaining, e.round
	p.BandwidthBytesPerS, p.DirtyBytesPerS = e.bandwidth.bytes(), e.dirty.bytes()
	p.ETAMS = e.eta()
}

func (e *Estimator) eta() *Range {
	if e.phase == PhaseEnded {
		return &Range{High: new(int64)}
	}
	if e.remaining == nil || e.phase < PhaseCopying || e.phase > PhasePaging {
		return nil
	}
	left, bw := float64(*e.remaining), e.bandwidth.value
	if !e.bandwidth.known || bw < 1 {
		return nil
	}
	low := left / bw
	r := &Range{Low: milliseconds(low)}
	switch writes := e.dirty.value; {
	case e.phase == PhasePaging:
		r.High = pointer(milliseconds(low * 1.5))
	case e.postcopy:
		again := min(writes*low, float64(value(e.total)))
		r.High = pointer(milliseconds((left + again) / bw * 1.5))
	case writes < bw*0.99:
		r.High = pointer(milliseconds(left / (bw - writes) * 1.5))
	}
	return r
}

// smooth is an exponential average over time.
type smooth struct {
	value float64
	known bool
}

const smoothing = 3 * time.Second

func (s *smooth) add(dt time.Duration, v float64) {
	if !s.known || dt <= 0 {
		if !s.known {
			s.value, s.known = v, true
		}
		return
	}
	s.value += (v - s.value) * (1 - math.Exp(-float64(dt)/float64(smoothing)))
}

func (s *smooth) bytes() *int64 {
	if !s.known {
		return nil
	}
	return pointer(clampInt(s.value))
}

// sane drops a figure that cannot be.
func sane(v *int64) *int64 {
	if v == nil || *v < 0 {
		return nil
	}
	return v
}

// addKnown adds what is known of two figures without overflow. Nil if neither is known.
func addKnown(a, b *int64) *int64 {
	switch {
	case a == nil && b == nil:
		return nil
	case a == nil:
		return pointer(*b)
	case b == nil:
		return pointer(*a)
	case *a > math.MaxInt64-*b:
		return pointer(int64(math.MaxInt64))
	}
	return pointer(*a + *b)
}

func pointer[T any](v T) *T { return &v }

func value(v *int64) int64 {
	if v == nil {
		return 0
	}
	return *v
}

// milliseconds caps at ten years, beyond which nobody waits.
func milliseconds(s float64) int64 { return clampInt(math.Min(s*1000, 10*365*24*3600*1000)) }

func clampInt(f float64) int64 {
	switch {
	case math.IsNaN(f) || f < 0:
		return 0
	case f >= math.MaxInt64:
		return math.MaxInt64
	}
	return int64(f)
}
