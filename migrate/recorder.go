package migrate

import (
	"fmt"
	"slices"
	"time"
)

// recorder gathers, in the order of time, what the report is made of. The run's loop owns it.
type recorder struct {
	began  time.Time
	phases []phaseMark
	notes  []string

	sourceClock, destClock hostClock
	stop, started, landed  *GuestEvent // of the last pause that counts
	readyAt, committedAt   time.Time

	last      *Stats
	params    Params
	ram       int64
	disks     []Disk
	copies    map[string]*diskMark
	rounds    []ReportRound
	round     roundMark
	predicted map[Strategy]ReportPrediction
	// predictedIn is the round that the predictions are from; before that they may be from before the start.
	predictedIn int64
	forecast    bool
}

type phaseMark struct {
	phase Phase
	at    time.Time
}

// hostClock is how a host's clock differs from ours: theirs = ours + offset, give or take err.
type hostClock struct {
	offset, err time.Duration
	known       bool
}

func clockOf(f HostFacts) hostClock {
	if f.Clock.IsZero() || f.Asked.IsZero() || f.Uncertainty < 0 {
		return hostClock{}
	}
	return hostClock{offset: f.Clock.Sub(f.Asked), err: f.Uncertainty, known: true}
}

// roundMark is the pre-copy pass under way.
type roundMark struct {
	n           int64
	at          time.Time
	bytes, page int64
}

// diskMark is what was seen of a disk's copy.
type diskMark struct {
	first, inStep time.Time
	from          int64 // what had been sent at the first
	at            time.Time
	last          DiskStats
}

// maxNotes and maxRounds bound a report; a guest that never stops writing makes thousands of rounds.
const (
	maxNotes  = 200
	maxRounds = 1000
)

func newRecorder(began time.Time) *recorder { return &recorder{began: began} }

// expect tells what is to be moved.
func (r *recorder) expect(d DomainFacts, p Params) {
	r.params, r.ram = p, d.Memory
	if p.CopyStorage == CopyNone && len(p.MigrateDisks) == 0 {
		return
	}
	for _, disk := range d.Disks {
		if disk.ReadOnly || disk.CDROM || disk.Shareable {
			continue
		}
		if len(p.MigrateDisks) == 0 || slices.Contains(p.MigrateDisks, disk.Target) {
			r.disks = append(r.disks, disk)
		}
	}
}

// foretold takes what was forecast before the start, which stands.
func (r *recorder) foretold(p map[Strategy]ReportPrediction) {
	if len(p) > 0 {
		r.predicted, r.forecast = p, true
	}
}

func (r *recorder) phase(at time.Time, p Phase) {
	r.phases = append(r.phases, phaseMark{p, at})
}

func (r *recorder) note(text string) {
	if len(r.notes) < maxNotes && (len(r.notes) == 0 || r.notes[len(r.notes)-1] != text) {
		r.notes = append(r.notes, text)
	}
}

func (r *recorder) ready(at time.Time) {
	r.readyAt = at
	r.closeRound(at)
}

func (r *recorder) committed(at time.Time) { r.committedAt = at }

// guest takes an event. The pause that counts is the last stand-still on the source before the destination ran, or, where
// the destination never ran, the last one that the source came back from.
func (r *recorder) guest(side Side, e GuestEvent) {
	switch {
	case e.Kind == EventRound && side == SideSource:
		r.nextRound(int64(e.Round), e.Seen)
	case r.landed != nil:
	case side == SideSource && e.Kind == EventStop:
		r.stop, r.started = &e, nil
	case side == SideSource && e.Kind == EventResume && r.stop != nil:
		r.started = &e
	case side == SideDestination && e.Kind == EventResume:
		r.landed = &e
	}
}

func (r *recorder) stats(at time.Time, s Stats) {
	if r.last == nil {
		r.round = roundMark{n: max(1, value(s.Round)), at: at}
	} else if n := value(s.Round); n > r.round.n {
		r.nextRound(n, at)
	}
	merged := s
	if r.last != nil {
		merged = keepKnown(*r.last, s)
	}
	r.last = &merged
	r.predict(merged)
}

// copying keeps what is known of each disk, and says what a person should know of what has changed.
func (r *recorder) copying(at time.Time, disks []DiskStats) (notes []string) {
	if r.copies == nil {
		r.copies = map[string]*diskMark{}
	}
	for _, d := range disks {
		m := r.copies[d.Name]
		if m == nil {
			m = &diskMark{first: at, from: value(sane(d.Sent))}
			r.copies[d.Name] = m
		}
		if d.InStep && m.inStep.IsZero() {
			m.inStep = at
		}
		switch {
		case d.Waits != "" && m.last.Waits == "":
			notes = append(notes, fmt.Sprintf("disk %s: %s", d.Name, d.Waits))
		case d.Waits == "" && m.last.Waits != "":
			notes = append(notes, fmt.Sprintf("disk %s: there is room again, the copy goes on", d.Name))
		}
		if d.Advice != "" && d.Advice != m.last.Advice {
			notes = append(notes, fmt.Sprintf("disk %s: %s", d.Name, d.Advice))
		}
		m.last, m.at = d, at
	}
	return notes
}

// predict predicts from the first figures that allow it; anew after the first round, by which time all zero pages have been
// counted; and once more when the dirty rate is known.
func (r *recorder) predict(s Stats) {
	if n := len(r.phases); r.forecast || len(r.predicted) > 1 || n > 0 && r.phases[n-1].phase != PhaseCopying {
		return
	}
	round := value(s.Round)
	if p := Predict(r.known(s), r.ram, r.params); len(p) > len(r.predicted) || len(p) > 0 && r.predictedIn < 2 && round >= 2 {
		r.predicted, r.predictedIn = p, round
	}
}

// planned is how much of the disks there is to move, as far as it was known before.
func (r *recorder) planned() int64 {
	var sum int64
	for _, d := range r.disks {
		sum += d.Moves()
	}
	return sum
}

// known completes figures by what is known otherwise: how much of the disks there is to move, before it is counted, and how
// fast the link is, while only disks are on it.
func (r *recorder) known(s Stats) Stats {
	if sane(s.DiskTotal) == nil && len(r.disks) > 0 {
		s.DiskTotal = pointer(r.planned())
	}
	if value(sane(s.Bandwidth)) > 0 || value(sane(s.RAMSent)) > 0 {
		return s
	}
	var rate float64
	for _, m := range r.copies {
		if dt := m.at.Sub(m.first); dt >= time.Second && !m.last.InStep {
			rate += float64(value(sane(m.last.Sent))-m.from) / dt.Seconds()
		}
	}
	if rate >= 1 {
		s.Bandwidth = pointer(clampInt(rate))
	}
	return s
}

// keepKnown keeps the sums of RAM, disks and faults where a job that just ended does not tell them any more.
func keepKnown(old, s Stats) Stats {
	keep := func(now **int64, before *int64) {
		if sane(*now) == nil || value(*now) == 0 && value(before) > 0 {
			*now = before
		}
	}
	keep(&s.RAMTotal, old.RAMTotal)
	keep(&s.RAMSent, old.RAMSent)
	keep(&s.NormalPages, old.NormalPages)
	keep(&s.ZeroPages, old.ZeroPages)
	keep(&s.Reused, old.Reused)
	keep(&s.PageSize, old.PageSize)
	keep(&s.DiskTotal, old.DiskTotal)
	keep(&s.DiskSent, old.DiskSent)
	keep(&s.Faults, old.Faults)
	keep(&s.Prepaged, old.Prepaged)
	keep(&s.Nonzero, old.Nonzero)
	if s.FaultUS == nil {
		s.FaultUS = old.FaultUS
	}
	keep(&s.Throttle, old.Throttle)
	keep(&s.DirtyRate, old.DirtyRate)
	return s
}

func (r *recorder) nextRound(n int64, at time.Time) {
	if n <= r.round.n || !r.readyAt.IsZero() {
		return
	}
	if r.round.n > 0 {
		r.closeRound(at)
	}
	bytes, pages := r.sent()
	r.round = roundMark{n: n, at: at, bytes: bytes, page: pages}
}

// closeRound books what was sent since the round began. The figures are those read last, so a round that is shorter than
// the time between two readings may lend its bytes to its neighbour; their sum is right.
func (r *recorder) closeRound(at time.Time) {
	if r.round.n == 0 || r.last == nil || len(r.rounds) >= maxRounds {
		return
	}
	bytes, pages := r.sent()
	r.rounds = append(r.rounds, ReportRound{Pages: max(0, pages-r.round.page), Bytes: max(0, bytes-r.round.bytes), MS: ms(at.Sub(r.round.at))})
	r.round = roundMark{n: r.round.n, at: at, bytes: bytes, page: pages}
}

func (r *recorder) sent() (bytes, pages int64) {
	if r.last == nil {
		return 0, 0
	}
	return value(sane(r.last.RAMSent)), value(sane(r.last.NormalPages))
}

func ms(d time.Duration) float64 {
	return float64(max(d, 0).Round(time.Microsecond)) / float64(time.Millisecond)
}
