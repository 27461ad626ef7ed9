package oracle

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// twin is a guest as far as a witness can tell: a seal that moves on.
type twin struct{ Seal }

// live lets the guest run for a while: ticks, writes and an answer.
func (g *twin) live(noise uint64) Pong {
	g.Ticks++
	g.Mono += TickPeriod + time.Duration(noise%1000)
	g.TickChain = mix(g.TickChain, g.Ticks, uint64(g.Mono))
	g.Pages += 3
	g.Chain = mix(g.Chain, g.Pages, g.TickChain)
	return g.answer()
}

func (g *twin) answer() Pong {
	g.Answers++
	return Pong{Seal: g.Seal, Ready: true}
}

// stand is a judge with a clock.
type stand struct {
	judge
	now time.Time
}

func newStand() (*stand, *twin) {
	return &stand{now: time.Unix(1000, 0)}, &twin{Seal{Incarnation: 9}}
}

func (s *stand) ping() uint64 {
	s.now = s.now.Add(3 * time.Millisecond)
	return s.send(s.now)
}

func (s *stand) answered(id uint64, p Pong) { s.receive(id, p, s.now.Add(time.Millisecond)) }

// exchange is a ping and its answer, n times.
func (s *stand) exchange(g *twin, n int) {
	for i := range n {
		id := s.ping()
		s.answered(id, g.live(uint64(i)*7919))
	}
}

func wantSeen(t *testing.T, r WitnessReport, want ...Kind) {
	t.Helper()
	for _, k := range want {
		if !r.Findings.Has(k) {
			t.Errorf("no %s in %v", k, r.Findings.List)
		}
	}
	if len(want) == 0 && r.Findings.Total() > 0 {
		t.Errorf("findings %v, want none", r.Findings.List)
	}
	if r.OK != (len(want) == 0) {
		t.Errorf("OK = %v", r.OK)
	}
}

func TestAWitnessIsContentWithOneGuest(t *testing.T) {
	s, g := newStand()
	s.exchange(g, 40000) // more than the window
	r := s.report(s.now)
	wantSeen(t, r)
	if r.Answers != 40000 || r.Lost != 0 || r.High.Ticks != 40000 {
		t.Errorf("%d answers, %d lost, high %+v", r.Answers, r.Lost, r.High)
	}
}

// The network loses, repeats and reorders as it likes: none of it is the
// guest's fault.
func TestAWitnessForgivesTheNetwork(t *testing.T) {
	s, g := newStand()
	rng := rand.New(rand.NewPCG(1, 2))
	type packet struct {
		id uint64
		Pong
	}
	var wayIn []uint64
	var wayOut []packet
	take := func(n int) int { return rng.IntN(n) }
	for range 20000 {
		id := s.ping()
		for range 1 + take(10)/9 { // sometimes twice
			wayIn = append(wayIn, id)
		}
		if len(wayIn) > 5 {
			i := take(len(wayIn))
			if take(20) > 0 { // sometimes lost
				wayOut = append(wayOut, packet{wayIn[i], g.live(rng.Uint64())})
			}
			wayIn = slices.Delete(wayIn, i, i+1)
		}
		if len(wayOut) > 5 {
			i := take(len(wayOut))
			s.answered(wayOut[i].id, wayOut[i].Pong)
			if take(10) > 0 { // sometimes again
				wayOut = slices.Delete(wayOut, i, i+1)
			}
		}
	}
	r := s.report(s.now)
	wantSeen(t, r)
	if r.Duplicates == 0 || r.Lost == 0 {
		t.Errorf("the network did nothing: %+v", r.WitnessCounts)
	}
}

func TestAReplayIsSeen(t *testing.T) {
	s, g := newStand()
	s.exchange(g, 100)
	old := *g
	s.exchange(g, 100)
	id := s.ping()
	s.answered(id, old.live(1))
	wantSeen(t, s.report(s.now), ReplayedTick, WentBack)
}

// Each number by itself going back is an error, whatever the others do.
func TestEachNumberThatGoesBackIsSeen(t *testing.T) {
	tests := []struct {
		name string
		back func(*twin)
		want Kind
	}{
		{"ticks", func(g *twin) { g.Ticks -= 50 }, ReplayedTick},
		{"answers", func(g *twin) { g.Answers -= 50 }, WentBack},
		{"pages", func(g *twin) { g.Pages -= 50 }, WentBack},
		{"clock", func(g *twin) { g.Mono -= time.Second }, WentBack},
		{"blocks", func(g *twin) { g.Blocks-- }, WentBack},
		{"another history of the tick", func(g *twin) { g.TickChain++ }, TwoGuests},
		{"another history of the write", func(g *twin) { g.Chain++ }, TwoGuests},
		{"another boot", func(g *twin) { g.Incarnation++ }, Rebooted},
		{"the same answer number", func(g *twin) { g.Answers-- }, TwoGuests},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, g := newStand()
			g.Blocks = 10
			s.exchange(g, 100)
			tt.back(g)
			id := s.ping()
			s.answered(id, g.answer())
			wantSeen(t, s.report(s.now), tt.want)
		})
	}
}

// Two guests that were one answer every ping both, or in turn.
func TestTwoGuestsAtOnceAreSeen(t *testing.T) {
	for name, both := range map[string]bool{"both answer": true, "in turn": false} {
		t.Run(name, func(t *testing.T) {
			s, a := newStand()
			s.exchange(a, 100)
			b := *a
			for i := range 10 {
				id := s.ping()
				s.answered(id, a.live(uint64(i)))
				if !both {
					id = s.ping()
				}
				s.answered(id, b.live(uint64(i)+500))
			}
			wantSeen(t, s.report(s.now), TwoGuests)
		})
	}
}

// Both answers are to pings that were out at the same time, so that neither has
// to be before the other: only that they contradict each other shows.
func TestEachContradictionIsSeen(t *testing.T) {
	tests := map[string]func(first, second *Seal){
		"one answer number": func(a, b *Seal) { b.Answers = a.Answers },
		"one tick":          func(a, b *Seal) { b.Ticks = a.Ticks },
		"one write":         func(a, b *Seal) { b.Pages = a.Pages },
	}
	for name, same := range tests {
		t.Run(name, func(t *testing.T) {
			s, g := newStand()
			s.exchange(g, 100)
			one, two := s.ping(), s.ping()
			a := g.live(1)
			b := g.live(2)
			same(&a.Seal, &b.Seal)
			s.answered(one, a)
			s.answered(two, b)
			wantSeen(t, s.report(s.now), TwoGuests)
		})
	}
}

func TestADuplicateIsNotAFreshAnswer(t *testing.T) {
	s, g := newStand()
	s.exchange(g, 10)
	id := s.ping()
	p := g.live(1)
	s.answered(id, p)
	last := s.last
	s.now = s.now.Add(time.Minute)
	s.answered(id, p)
	if r := s.report(s.now); r.Duplicates != 1 || s.last != last || r.LongestGap.Length < time.Minute-time.Second {
		t.Errorf("%+v", r)
	}
}

func TestTwoBootsAtOnceAreSeen(t *testing.T) {
	s, a := newStand()
	b := &twin{Seal{Incarnation: 10}}
	s.exchange(a, 3)
	s.exchange(b, 3)
	wantSeen(t, s.report(s.now), Rebooted)
	s.exchange(a, 1)
	wantSeen(t, s.report(s.now), Rebooted, TwoGuests)
}

func TestALongPauseIsAGapAndNoError(t *testing.T) {
	s, g := newStand()
	s.exchange(g, 10)
	start := s.now.Add(time.Millisecond)
	s.now = s.now.Add(time.Hour)
	s.exchange(g, 10)
	r := s.report(s.now)
	wantSeen(t, r)
	want := Gap{Start: start, Length: time.Hour + 3*time.Millisecond}
	if r.LongestGap != want {
		t.Errorf("longest gap %+v, want %+v", r.LongestGap, want)
	}
	if g := r.GapWithin(start.Add(time.Minute), start.Add(2*time.Minute)); g != want {
		t.Errorf("gap within the pause: %+v", g)
	}
	if g := r.GapWithin(start.Add(-time.Hour), start.Add(-time.Minute)); g != (Gap{}) {
		t.Errorf("gap before the first ping: %+v", g)
	}
}

func TestAnOpenGapIsReported(t *testing.T) {
	s, g := newStand()
	s.exchange(g, 10)
	r := s.report(s.now.Add(time.Minute))
	if !r.LongestGap.Open || r.LongestGap.Length < 59*time.Second {
		t.Errorf("longest gap %+v", r.LongestGap)
	}
	if r := s.report(s.now.Add(time.Millisecond)); r.LongestGap.Open {
		t.Errorf("an open gap is kept: %+v", r.LongestGap)
	}
}

func TestOnlyTheLongestGapsAreKept(t *testing.T) {
	var gaps []Gap
	for i := range 1000 {
		gaps = keepLongest(gaps, Gap{Length: time.Duration(i * 7919 % 1000)})
	}
	if len(gaps) != maxGaps || slices.ContainsFunc(gaps, func(g Gap) bool { return g.Length < 1000-maxGaps }) {
		t.Errorf("kept %v", gaps)
	}
}

func TestAWitnessWithoutAnswersVouchesForNothing(t *testing.T) {
	s, _ := newStand()
	s.ping()
	s.answered(12345, Pong{Ready: true})
	s.answered(0, Pong{})
	r := s.report(s.now.Add(time.Minute))
	if r.OK || r.Lost != 1 || r.Strange != 1 || r.Early != 1 {
		t.Errorf("report %+v", r)
	}
	if fs := Judge(Report{OK: true}, r); !fs.Has(Unseen) {
		t.Errorf("judged well: %v", fs.List)
	}
}

func TestJudgeHoldsAReportAgainstTheWitness(t *testing.T) {
	s, g := newStand()
	s.exchange(g, 10)
	old := g.Seal
	s.exchange(g, 10)
	w := s.report(s.now)
	if fs := Judge(Report{Seal: g.live(0).Seal}, w); fs.Total() != 0 {
		t.Errorf("a good report: %v", fs.List)
	}
	own := Report{Seal: g.live(0).Seal}
	own.Findings.Add(Finding{Kind: ReplayedTick})
	if fs := Judge(own, w); fs.Total() != 1 || !fs.Has(ReplayedTick) {
		t.Errorf("what the guest itself found: %v", fs.List)
	}
	if fs := Judge(Report{Seal: old}, w); !fs.Has(ReplayedTick) || !fs.Has(WentBack) {
		t.Errorf("an old report: %v", fs.List)
	}
	old.Incarnation++
	if fs := Judge(Report{Seal: old}, w); !fs.Has(Rebooted) {
		t.Errorf("another boot's report: %v", fs.List)
	}
}

func TestTheHistogramIsRight(t *testing.T) {
	var h histogram
	if r := h.times(); r != (RoundTrip{}) {
		t.Errorf("empty: %+v", r)
	}
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	r := h.times()
	if r.P50 < 500*time.Microsecond || r.P50 > 570*time.Microsecond || r.P99 < 990*time.Microsecond || r.Max != time.Millisecond {
		t.Errorf("%+v", r)
	}
	for _, d := range []uint64{0, 1, 7, 8, 9, 1000, 1 << 40, 1<<63 - 1} {
		if b := bucket(d); uint64(bound(b)) < d || b > 0 && uint64(bound(b-1)) >= d {
			t.Errorf("%d is in bucket %d, which ends at %d", d, b, bound(b))
		}
	}
}

func TestAWitnessReportIsJSON(t *testing.T) {
	s, g := newStand()
	s.exchange(g, 10)
	want := s.report(s.now)
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got WitnessReport
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.High != want.High || got.Answers != want.Answers || got.LongestGap.Length != want.LongestGap.Length || !got.OK {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
