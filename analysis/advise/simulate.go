package advise

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// Case is a guest that was recorded, and the migrations that are wanted of it.
type Case struct {
	Name       string
	Dirty      sample.Series
	Windows    sample.Windows
	DiskWrites sample.Series
	Guest      forecast.Guest
	Link       forecast.Link
	Ways       []forecast.Way
	Limits     forecast.Limits
	// Wait is the deadline of each request, counted from it.
	Wait                     time.Duration
	MayThrottle, MayPostcopy bool
}

// Options of Simulate.
type Options struct {
	// Requests per case, at random times; 0 is 10.
	Requests int
	Seed     uint64
	// Warm is what a policy has seen at least; 0 is half of the series.
	Warm time.Duration
	// Detect finds the cycles of what was seen up to a request; nil is cycle.Detect as it is.
	Detect func(sample.Series) (cycle.Result, error)
	// Renew is how often a wait is looked at again; 0 is never. Only Cycle's are.
	Renew time.Duration
}

// Run is one request as one policy had it.
type Run struct {
	Case   string
	Policy string
	At     time.Time
	Advice Advice
	// Cost, Now and Best are what it would have taken by what really was: as advised, started at once, and at the best moment.
	Cost, Now, Best forecast.Point
	// Score, NowScore and BestScore are what these count.
	Score, NowScore, BestScore float64
	// Late tells that it waited and passed the deadline, which to start at once would have kept.
	Late bool
	// Renewed counts changes of the advice while it waited.
	Renewed int
}

// Outcome sums a policy's runs up. RandomDelay has several for each request.
type Outcome struct {
	Policy                  string
	Runs, Waits, InVain     int // InVain: waits that cost at least what to start at once would have
	Late, Renewed           int
	Bytes, Duration, Waited float64 // medians; bytes and seconds
	Downtime                float64
	Regret, RegretMean      float64 // share of the oracle's score: median and mean
	WorseThanNow            float64 // by how much all scores together are above those of starting at once; negative is better
	BytesLess, DurationLess float64 // medians against those of RandomDelay; 0 if it is not among the policies
}

// Simulate tries policies on recorded series without touching anything: each request is given what was seen up to then, and what
// comes of its advice is played through on what came. Oracle is added where it is among the policies with no Truth of its own.
func Simulate(policies []Policy, cases []Case, o Options) ([]Outcome, []Run, error) {
	if o.Requests == 0 {
		o.Requests = 10
	}
	if o.Detect == nil {
		o.Detect = func(s sample.Series) (cycle.Result, error) { return cycle.Detect(s, cycle.Options{}) }
	}
	var runs []Run
	for i, c := range cases {
		s, err := newSimulation(c, o, uint64(i))
		if err != nil {
			return nil, nil, fmt.Errorf("simulate %s: %w", c.Name, err)
		}
		for range o.Requests {
			more, err := s.request(policies)
			if err != nil {
				return nil, nil, fmt.Errorf("simulate %s: %w", c.Name, err)
			}
			runs = append(runs, more...)
		}
	}
	return Sum(policies, runs), runs, nil
}

// simulation is a case with its truth.
type simulation struct {
	Case
	o      Options
	truth  forecast.Curve
	random *rand.Rand
}

func newSimulation(c Case, o Options, n uint64) (*simulation, error) {
	truth, err := forecast.NewTrace(forecast.Sources{Dirty: c.Dirty, Windows: c.Windows, DiskWrites: c.DiskWrites})
	if err != nil {
		return nil, err
	}
	if c.Dirty.Step <= 0 || c.Wait <= 0 {
		return nil, fmt.Errorf("a step of %s, a wait of %s: %w", c.Dirty.Step, c.Wait, ErrRequest)
	}
	return &simulation{c, o, truth, rand.New(rand.NewPCG(o.Seed, n))}, nil
}

// before is what of a series was over at a time.
func before(s sample.Series, at time.Time) sample.Series {
	if s.Step <= 0 {
		return s
	}
	return s.Slice(0, min(max(s.Index(at), 0), s.Len()))
}

// ask is a request at a random time.
func (s *simulation) ask() (Request, error) {
	warm := s.o.Warm
	if warm == 0 {
		warm = s.Dirty.Span() / 2
	}
	room := s.Dirty.Span() - warm - s.Wait
	if room <= 0 {
		return Request{}, fmt.Errorf("%s of samples are too few to wait %s after %s: %w", s.Dirty.Span(), s.Wait, warm, ErrRequest)
	}
	at := s.Dirty.Start.Add(warm + time.Duration(s.random.Float64()*float64(room)))
	r := Request{
		Now: at, Deadline: at.Add(s.Wait), Guest: s.Guest, Link: s.Link, Ways: s.Ways, Limits: s.Limits, MayThrottle: s.MayThrottle,
		MayPostcopy: s.MayPostcopy, Seen: before(s.Dirty, at),
	}
	var err error
	if r.Cycles, err = s.o.Detect(r.Seen); err != nil {
		return r, err
	}
	src := forecast.Sources{Dirty: r.Seen, DiskWrites: before(s.DiskWrites, at), Cycles: r.Cycles}
	for _, w := range s.Windows {
		src.Windows = append(src.Windows, before(w, at))
	}
	r.Curve, err = forecast.NewCurve(src)
	return r, err
}

// request lets all policies advise on one request.
func (s *simulation) request(policies []Policy) ([]Run, error) {
	r, err := s.ask()
	if err != nil {
		return nil, err
	}
	best, err := Oracle{s.truth}.Advise(r)
	if err != nil {
		return nil, err
	}
	var out []Run
	for _, policy := range drawn(policies) {
		run := Run{Case: s.Name, Policy: policy.Name(), At: r.Now}
		if o, ok := policy.(Oracle); ok && o.Truth == nil {
			run.Advice = best
		} else if run.Advice, err = policy.Advise(r); err != nil {
			return nil, fmt.Errorf("%s: %w", policy.Name(), err)
		}
		if _, ok := policy.(Cycle); ok && s.o.Renew > 0 {
			if err := s.renew(&run, r); err != nil {
				return nil, err
			}
		}
		s.measure(&run, r, best)
		out = append(out, run)
	}
	return out, nil
}

// draws is how often a random delay is drawn for one request: what others are compared with must not hang on a few draws.
const draws = 8

func drawn(policies []Policy) []Policy {
	var out []Policy
	for _, p := range policies {
		out = append(out, p)
		if r, ok := p.(RandomDelay); ok {
			for k := uint64(1); k < draws; k++ {
				out = append(out, RandomDelay{Seed: r.Seed + k<<32})
			}
		}
	}
	return out
}

// renew looks at the advice again while it is waited for.
func (s *simulation) renew(run *Run, r Request) error {
	asked := r.Now
	for r.Now = r.Now.Add(s.o.Renew); run.Advice.Wait && r.Now.Before(run.Advice.Start); r.Now = r.Now.Add(s.o.Renew) {
		seen := before(s.Dirty, r.Now)
		seen = seen.Slice(min(max(seen.Index(asked)+1, 0), seen.Len()), seen.Len())
		a, changed, err := Renew(run.Advice, r, seen)
		if err != nil {
			return err
		}
		if changed {
			run.Advice, run.Renewed = a, run.Renewed+1
		}
	}
	return nil
}

// measure plays what was advised through on what came.
func (s *simulation) measure(run *Run, r Request, best Advice) {
	score := func(start time.Time, w forecast.Way) (forecast.Point, float64) {
		lim := r.Limits
		lim.Throttle = r.MayThrottle
		p := forecast.Expect(start, w, r.Guest, r.Link, s.truth, lim)
		return p, r.Weights.Score(p, r.Link)
	}
	run.Cost, run.Score = score(run.Advice.Start, run.Advice.Way)
	run.Now, run.NowScore = score(r.Now, run.Advice.Now.Way)
	run.Best, run.BestScore = score(best.Start, best.Way)
	ends := run.Advice.Start.Add(forecastTime(run.Cost.Duration))
	run.Late = run.Advice.Start.After(r.Now) && ends.After(r.Deadline) && !r.Now.Add(forecastTime(run.Now.Duration)).After(r.Deadline)
}

// Sum gives each policy's outcome, in their order.
func Sum(policies []Policy, runs []Run) []Outcome {
	var out []Outcome
	for _, policy := range policies {
		out = append(out, sumOf(policy.Name(), runs))
	}
	at := slices.IndexFunc(out, func(o Outcome) bool { return o.Policy == (RandomDelay{}).Name() })
	for i := range out {
		if at >= 0 && out[at].Bytes > 0 {
			out[i].BytesLess = 1 - out[i].Bytes/out[at].Bytes
			out[i].DurationLess = 1 - out[i].Duration/out[at].Duration
		}
	}
	return out
}

func sumOf(name string, runs []Run) Outcome {
	o := Outcome{Policy: name}
	var bytes, durations, downtimes, waits, regrets []float64
	score, now, regret := 0.0, 0.0, 0.0
	for _, r := range runs {
		if r.Policy != name {
			continue
		}
		o.Runs++
		o.Renewed += r.Renewed
		waited := r.Advice.Start.Sub(r.At).Seconds()
		if waited > 0 {
			o.Waits++
			if r.Score >= r.NowScore {
				o.InVain++
			}
		}
		if r.Late {
			o.Late++
		}
		bytes, durations, downtimes = append(bytes, r.Cost.Bytes), append(durations, r.Cost.Duration), append(downtimes, r.Cost.Downtime)
		waits, regrets = append(waits, waited), append(regrets, r.Score/r.BestScore-1)
		score, now, regret = score+r.Score, now+r.NowScore, regret+r.Score/r.BestScore-1
	}
	if o.Runs == 0 {
		return o
	}
	o.Bytes, o.Duration, o.Downtime, o.Waited, o.Regret = median(bytes), median(durations), median(downtimes), median(waits), median(regrets)
	o.RegretMean, o.WorseThanNow = regret/float64(o.Runs), score/now-1
	return o
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
