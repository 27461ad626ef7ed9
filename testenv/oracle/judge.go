package oracle

import (
	"slices"
	"time"
)

// judge is the witness without its socket: it is told which ping was sent and
// which answer came, and when, and holds every answer to what it knew when it
// sent the ping.
//
// Datagrams may be lost, repeated and overtaken on the way, so that the order
// in which answers come in proves nothing. This does: a ping that was sent
// after an answer came in reached the guest after that answer had left it.
type judge struct {
	next    uint64
	sent    [window]ping
	answers [window]seen // by answer number
	ticks   [window]seen // by tick
	writes  [window]seen // by write number
	past    []uint64     // incarnations that another one has followed

	high     Seal
	last     time.Time
	begun    time.Time
	rtt      histogram
	counts   WitnessCounts
	gaps     []Gap
	findings Findings
}

// window is how many pings, answers, ticks and writes are remembered: at least
// half a minute of each, but for writes.
const window = 1 << 14

// maxGaps bounds how many of the longest gaps are kept.
const maxGaps = 64

// maxPast bounds how many incarnations are remembered.
const maxPast = 64

// ping is one that was sent.
type ping struct {
	id       uint64
	at       time.Time
	floor    Seal // the highest seal known when it was sent
	answered bool
	used     bool
}

// seen is a number that a guest has told, and a hash of what came with it.
type seen struct {
	number, incarnation, hash uint64
	used                      bool
}

// send notes that a ping goes out and returns its id.
func (j *judge) send(now time.Time) (id uint64) {
	if j.begun.IsZero() {
		j.begun = now
	}
	id = j.next
	j.next++
	j.sent[id%window] = ping{id: id, at: now, floor: j.high, used: true}
	j.counts.Sent++
	return id
}

// receive notes an answer. One to a ping that was never sent, or that is no
// longer remembered, is only counted.
func (j *judge) receive(id uint64, p Pong, now time.Time) {
	s := &j.sent[id%window]
	if !s.used || s.id != id {
		j.counts.Strange++
		return
	}
	if !p.Ready {
		j.counts.Early++
		return
	}
	if s.answered {
		// The network repeated the ping or the answer. That two guests have
		// answered shows in what they say.
		j.counts.Duplicates++
	} else {
		s.answered = true
		j.counts.Answers++
		j.rtt.add(now.Sub(s.at))
		j.gap(now)
	}
	j.check(s.floor, p.Seal)
}

func hashSeal(s Seal) uint64 {
	return mix(mix(s.Ticks, s.TickChain, s.Pages), mix(s.Blocks, s.Chain, uint64(s.Mono)), s.Answers)
}

// gap notes how long there was no answer.
func (j *judge) gap(now time.Time) {
	if !j.last.IsZero() {
		j.gaps = keepLongest(j.gaps, Gap{Start: j.last, Length: now.Sub(j.last)})
	}
	j.last = now
}

// keepLongest adds a gap to the longest ones.
func keepLongest(gaps []Gap, g Gap) []Gap {
	if len(gaps) < maxGaps {
		return append(gaps, g)
	}
	shortest := 0
	for i := range gaps {
		if gaps[i].Length < gaps[shortest].Length {
			shortest = i
		}
	}
	if g.Length > gaps[shortest].Length {
		gaps[shortest] = g
	}
	return gaps
}

// check holds an answer against what was known when it was asked for, and
// against every other answer.
func (j *judge) check(floor, seal Seal) {
	if j.high.Incarnation != 0 && seal.Incarnation != j.high.Incarnation {
		j.otherIncarnation(seal)
		return
	}
	if floor.Incarnation == seal.Incarnation {
		before := j.findings.Total()
		regress(&j.findings, floor, seal, "answer")
		if seal.Answers == floor.Answers {
			j.findings.Add(Finding{Kind: TwoGuests, Index: seal.Answers, Detail: "an answer number given again to a later ping"})
		}
		if j.findings.Total() > before {
			j.counts.Regressions++
		}
	}
	j.once(j.answers[:], seal.Answers, hashSeal(seal), seal, "answer number")
	j.once(j.ticks[:], seal.Ticks, mix(seal.TickChain, uint64(seal.Mono), 0), seal, "tick")
	j.once(j.writes[:], seal.Pages+seal.Blocks, mix(seal.Chain, seal.Pages, seal.Blocks), seal, "write")
	j.raise(seal)
}

// once holds that a number comes with one history only.
func (j *judge) once(table []seen, number, hash uint64, seal Seal, what string) {
	e := &table[number%window]
	if e.used && e.number == number && e.incarnation == seal.Incarnation && e.hash != hash {
		j.findings.Add(Finding{Kind: TwoGuests, Index: number, Want: e.hash, Got: hash, Detail: "one " + what + " with two histories"})
	}
	*e = seen{number: number, incarnation: seal.Incarnation, hash: hash, used: true}
}

// raise keeps the highest of each number. The chains go with the highest
// numbers.
func (j *judge) raise(seal Seal) {
	h := &j.high
	h.Incarnation = seal.Incarnation
	h.Answers = max(h.Answers, seal.Answers)
	if seal.Ticks >= h.Ticks {
		h.Ticks, h.TickChain = seal.Ticks, seal.TickChain
	}
	if seal.Pages+seal.Blocks >= h.Pages+h.Blocks {
		h.Chain = seal.Chain
	}
	h.Pages, h.Blocks = max(h.Pages, seal.Pages), max(h.Blocks, seal.Blocks)
	h.Mono = max(h.Mono, seal.Mono)
}

// otherIncarnation notes an answer of a guest that is not the one before.
func (j *judge) otherIncarnation(seal Seal) {
	if slices.Contains(j.past, seal.Incarnation) {
		j.findings.Add(Finding{Kind: TwoGuests, Want: j.high.Incarnation, Got: seal.Incarnation,
			Detail: "an incarnation that another one has followed answers again"})
		return
	}
	j.findings.Add(Finding{Kind: Rebooted, Want: j.high.Incarnation, Got: seal.Incarnation})
	if len(j.past) < maxPast {
		j.past = append(j.past, j.high.Incarnation)
	}
	j.high = Seal{}
	j.raise(seal)
}

// report says what is known at now.
func (j *judge) report(now time.Time) WitnessReport {
	r := WitnessReport{Schema: WitnessSchema, Started: j.begun, At: now, WitnessCounts: j.counts, High: j.high,
		RTT: j.rtt.times(), Gaps: slices.Clone(j.gaps), Findings: j.findings.clone()}
	r.Lost = j.lost(now)
	if !j.last.IsZero() {
		r.Gaps = keepLongest(r.Gaps, Gap{Start: j.last, Length: now.Sub(j.last), Open: true})
	}
	slices.SortFunc(r.Gaps, func(a, b Gap) int { return int(b.Length - a.Length) })
	if len(r.Gaps) > 0 {
		r.LongestGap = r.Gaps[0]
	}
	r.OK = r.Answers > 0 && r.Findings.Total() == 0
	return r
}

// lost is how many pings have no answer and are older than lateAfter.
func (j *judge) lost(now time.Time) uint64 {
	var young uint64
	for i := range j.sent {
		if s := &j.sent[i]; s.used && !s.answered && now.Sub(s.at) < lateAfter {
			young++
		}
	}
	return j.counts.Sent - j.counts.Answers - young
}

// lateAfter is when a ping without an answer counts as lost.
const lateAfter = time.Second
