package bench

import (
	"context"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

// sampleEvery is the least time between two samples of the guest's speed, and
// maxCourse how many points of it are kept.
const (
	sampleEvery = 50 * time.Millisecond
	maxCourse   = 200
	maxSamples  = 1 << 16
)

// sample is how many pages the guest had written at a time.
type sample struct {
	at    time.Time
	pages uint64
}

// watcher looks at the guest from the client's side during one run.
type watcher struct {
	witness *oracle.Witness

	mu      sync.Mutex
	samples []sample      // guarded by mu
	latest  time.Time     // guarded by mu
	heard   chan struct{} // holds a token when there is a new answer
	report  oracle.WitnessReport
}

// watch begins to look.
func watch(ctx context.Context, d oracle.Dialer, addr string) (*watcher, error) {
	w := &watcher{heard: make(chan struct{}, 1)}
	var err error
	w.witness, err = oracle.StartWitness(ctx, d, addr, oracle.WitnessOptions{Observe: w.observe})
	return w, err
}

func (w *watcher) observe(at time.Time, s oracle.Seal) {
	select {
	case w.heard <- struct{}{}:
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest = at
	if n := len(w.samples); n == 0 || n < maxSamples && at.Sub(w.samples[n-1].at) >= sampleEvery {
		w.samples = append(w.samples, sample{at, s.Pages})
	}
}

// answerPatience bounds how long a guest is waited for that does not answer after a
// migration.
const answerPatience = 30 * time.Second

// await returns when the guest has answered after a time, or has not for so long.
func (w *watcher) await(ctx context.Context, after time.Time) {
	limit := time.NewTimer(answerPatience)
	defer limit.Stop()
	for {
		w.mu.Lock()
		answered := w.latest.After(after)
		w.mu.Unlock()
		if answered {
			return
		}
		select {
		case <-w.heard:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the looking; fill may be called then.
func (w *watcher) stop() { w.report = w.witness.Stop() }

// fill writes into the run what was seen of the time from begin to end.
func (w *watcher) fill(run *Run, begin, end time.Time) {
	if gap := w.report.GapWithin(begin, end); gap.Length > 0 && !gap.Open {
		outside := ms(gap.Length)
		run.OutsideMS = &outside
	}
	run.Speed = speedOf(w.samples, begin, end)
	part := func(of *float64) *float64 {
		if of == nil || run.Speed.Before == nil || *run.Speed.Before <= 0 {
			return nil
		}
		p := *of / *run.Speed.Before
		return &p
	}
	run.During, run.After = part(run.Speed.During), part(run.Speed.After)
}

// speedOf works out the guest's speed before, during and after the time from begin
// to end, and its course.
func speedOf(samples []sample, begin, end time.Time) Speed {
	var before, during, after []sample
	for _, s := range samples {
		switch {
		case s.at.Before(begin):
			before = append(before, s)
		case s.at.After(end):
			after = append(after, s)
		default:
			during = append(during, s)
		}
	}
	// What was written from the last look before to the first one after belongs to
	// the time of the migration.
	if len(before) > 0 {
		during = append([]sample{before[len(before)-1]}, during...)
	}
	if len(after) > 0 {
		during = append(during, after[0])
	}
	return Speed{Before: rate(before), During: rate(during), After: rate(after), Course: course(samples, begin)}
}

// rate is the pages a second from the first sample to the last; nil if there is no
// time between them.
func rate(s []sample) *float64 {
	if len(s) < 2 {
		return nil
	}
	first, last := s[0], s[len(s)-1]
	span := last.at.Sub(first.at).Seconds()
	if span <= 0 || last.pages < first.pages {
		return nil
	}
	r := float64(last.pages-first.pages) / span
	return &r
}

// course is the speed over time, thinned out to maxCourse points.
func course(samples []sample, begin time.Time) []Point {
	step := max((len(samples)+maxCourse-1)/maxCourse, 1)
	var points []Point
	for i := step; i < len(samples); i += step {
		if r := rate([]sample{samples[i-step], samples[i]}); r != nil {
			points = append(points, Point{MS: ms(samples[i].at.Sub(begin)), Speed: *r})
		}
	}
	return points
}
