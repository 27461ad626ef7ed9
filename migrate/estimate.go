package migrate

import (
	"math"
	"slices"
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

	ramFlow, diskFlow flow
	dirty             smooth
	remaining, total  *int64
	round             *int64

	ramTotal, ramLeft, diskTotal, diskLeft *int64 // as they were told last: who tells of disks may say nothing of RAM
	disks                                  []diskEstimate
}

// diskEstimate is one disk's last figures, and its speed.
type diskEstimate struct {
	DiskStats
	flow
}

// NewEstimator starts at 0 percent. The guest's RAM in bytes (0 = not known) counts as work from the start, so that
// disks which go first do not look like all of it.
func NewEstimator(postcopy bool, ram int64) *Estimator {
	return &Estimator{postcopy: postcopy, ram: max(ram, 0)}
}

// Expect tells how much of disks is to be moved; it counts as work until a job counts it itself.
func (e *Estimator) Expect(disks int64) {
	if disks > 0 {
		e.diskTotal, e.diskLeft = &disks, &disks
	}
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
	e.rates(at, dt, s)
	e.copies(at, s.Disks)
	e.ramTotal, e.ramLeft = latest(s.RAMTotal, s.RAMRemaining, e.ramTotal, e.ramLeft)
	e.diskTotal, e.diskLeft = latest(s.DiskTotal, s.DiskRemaining, e.diskTotal, e.diskLeft)
	ramTotal, ramLeft := e.ramTotal, e.ramLeft
	if value(ramTotal) == 0 && e.ram > 0 {
		ramTotal, ramLeft = &e.ram, &e.ram
	}
	total, remaining := addKnown(ramTotal, e.diskTotal), addKnown(ramLeft, e.diskLeft)
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

// latest is a pair of figures as told now, or if neither is, as told before.
func latest(total, left, totalBefore, leftBefore *int64) (t, l *int64) {
	if total, left = sane(total), sane(left); total == nil && left == nil {
		return totalBefore, leftBefore
	}
	return clone(total), clone(left)
}

func clone(v *int64) *int64 {
	if v == nil {
		return nil
	}
	return pointer(*v)
}

// copies takes the figures of the disks. One that is not told of any more stays as it was.
func (e *Estimator) copies(at time.Time, disks []DiskStats) {
	for _, d := range disks {
		i := slices.IndexFunc(e.disks, func(o diskEstimate) bool { return o.Name == d.Name })
		if i < 0 {
			e.disks, i = append(e.disks, diskEstimate{}), len(e.disks)
		}
		e.disks[i].DiskStats = d
		e.disks[i].take(at, sane(d.Sent), nil)
	}
}

func (e *Estimator) diskProgress() []ProgressDisk {
	var out []ProgressDisk
	for _, d := range e.disks {
		out = append(out, ProgressDisk{Name: d.Name, TotalBytes: sane(d.Total), RemainingBytes: sane(d.Remaining), SentBytes: sane(d.Sent),
			BandwidthBytesPerS: d.speed.bytes(), InStep: d.InStep, Waits: d.Waits})
	}
	return out
}

func (e *Estimator) rates(at time.Time, dt time.Duration, s Stats) {
	e.ramFlow.take(at, sane(s.RAMSent), sane(s.Bandwidth))
	e.diskFlow.take(at, sane(s.DiskSent), nil)
	if d := sane(s.DirtyRate); d != nil {
		e.dirty.add(dt, float64(*d))
	}
}

// bandwidth is what RAM and disks take of the link together.
func (e *Estimator) bandwidth() (v float64, known bool) {
	return e.ramFlow.speed.value + e.diskFlow.speed.value, e.ramFlow.speed.known || e.diskFlow.speed.known
}

// flow is what is sent of one kind, and how fast.
type flow struct {
	at    time.Time
	sent  *int64
	speed smooth
}

// take takes what was sent so far, and the speed where the hypervisor tells that itself.
func (f *flow) take(at time.Time, sent, told *int64) {
	if sent == nil && told == nil {
		return
	}
	dt := at.Sub(f.at)
	if f.at.IsZero() || dt < 0 {
		dt = 0
	}
	switch {
	case told != nil:
		f.speed.add(dt, float64(*told))
	case f.sent != nil && dt > 0 && *sent >= *f.sent:
		f.speed.add(dt, float64(*sent-*f.sent)/dt.Seconds())
	}
	if f.at = at; sent != nil {
		f.sent = pointer(*sent)
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
	p.DirtyBytesPerS = e.dirty.bytes()
	if v, known := e.bandwidth(); known {
		p.BandwidthBytesPerS = pointer(clampInt(v))
	}
	p.ETAMS, p.Disks = e.eta(), e.diskProgress()
}

func (e *Estimator) eta() *Range {
	if e.phase == PhaseEnded {
		return &Range{High: new(int64)}
	}
	if e.remaining == nil || e.phase < PhaseCopying || e.phase > PhasePaging {
		return nil
	}
	left := float64(*e.remaining)
	bw, known := e.bandwidth()
	if !known || bw < 1 {
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
