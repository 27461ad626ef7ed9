package advise

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/cycle"
	"github.com/vmmigrate/vmmigrate/analysis/forecast"
	"github.com/vmmigrate/vmmigrate/analysis/sample"
)

// square is a guest that writes much for 70 s and next to nothing for 50, from begin on.
var square = func() sample.Series {
	s := sample.Series{Name: "dirty", Start: begin, Step: time.Second}
	for i := range 1800 {
		v := 6.0 * mib
		if i%120 < 70 {
			v = 210 * mib
		}
		s.Values = append(s.Values, v)
	}
	return s
}()

var squareCurve = sync.OnceValues(func() (*forecast.Folded, error) {
	found, _ := known(120, 0)(square)
	return forecast.NewCurve(forecast.Sources{Dirty: square, Cycles: found})
})

// request is one at so many seconds into the cycle.
func request(t *testing.T, into float64, wait time.Duration) Request {
	t.Helper()
	found, _ := known(120, 0)(square)
	c, err := squareCurve()
	if err != nil {
		t.Fatal(err)
	}
	now := begin.Add(30*time.Minute + forecastTime(into))
	return Request{Now: now, Deadline: now.Add(wait), Guest: guest, Link: link, Curve: c, Cycles: found, Ways: precopy, MayPostcopy: true}
}

func advise(t *testing.T, p Policy, r Request) Advice {
	t.Helper()
	a, err := p.Advise(r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCycleWaitsForTheQuietPart(t *testing.T) {
	r := request(t, 20, 10*time.Minute)
	a := advise(t, Cycle{}, r)
	if wait := a.Start.Sub(r.Now).Seconds(); !a.Wait || wait < 48 || wait > 60 {
		t.Errorf("waits %.1f s: %s", wait, a.Reason)
	}
	if a.Cost.Bytes.Expected > a.Now.Bytes.Expected/2 || !strings.HasPrefix(a.Reason, "wait 50 s: from 14:31:1") || !strings.Contains(a.Reason, "MiB/s instead of") {
		t.Errorf("%s", a.Reason)
	}
	t.Log(a.Reason)
}

func TestCycleStartsNowInTheQuietPart(t *testing.T) {
	for _, into := range []float64{72, 80, 95} {
		if a := advise(t, Cycle{}, request(t, into, 10*time.Minute)); a.Wait || !strings.HasPrefix(a.Reason, "start now: ") {
			t.Errorf("%.0f s into the cycle: %s", into, a.Reason)
		}
	}
}

// At each deadline what is advised ends before it by the high end of its forecast, or starts now; and a later deadline never
// makes a worse advice.
func TestDeadlinesAreHardAndMoreTimeIsNeverWorse(t *testing.T) {
	// The classifier's verdict is taken beforehand: it does not hang on the deadline.
	found, suits, err := cycle.DetectALMA(square, cycle.ALMAOptions{})
	if err != nil || len(found.Cycles) == 0 {
		t.Fatalf("%+v, %v", found, err)
	}
	bayes := NaiveBayes{Classify: func(sample.Series) (cycle.Result, []bool, error) { return found, suits, nil }}
	for into := 0.0; into < 120; into += 10 {
		last := 0.0
		for wait := time.Second; wait < 8*time.Minute; wait = wait*5/4 + time.Second {
			r := request(t, into, wait)
			r.Seen = square
			for _, p := range []Policy{Cycle{}, RandomDelay{Seed: 3}, LocalMinimum{}, bayes} {
				if a := advise(t, p, r); a.Wait && a.Start.Add(a.Cost.Duration.High).After(r.Deadline) {
					t.Fatalf("%s, %.0f s into the cycle, %s to wait: %s", p.Name(), into, wait, a.Reason)
				}
			}
			score := Weights{}.Score(advise(t, Cycle{}, r).Cost.Expected(), r.Link)
			if last > 0 && score > last*1.03 {
				t.Fatalf("%.0f s into the cycle, %s to wait: %.1f after %.1f with less time", into, wait, score, last)
			}
			last = score
		}
	}
}

// A cycle that hardly matters to the migration is no reason to wait.
func TestCycleDoesNotWaitForLittle(t *testing.T) {
	s := spec{period: 120, busy: 0.5, high: 9 * mib, low: 6 * mib, noise: 0.1}.series(30*time.Minute, 2)
	found, _ := known(120, 0)(s)
	c, err := forecast.NewCurve(forecast.Sources{Dirty: s, Cycles: found})
	if err != nil {
		t.Fatal(err)
	}
	little := false
	for into := 0.0; into < 120; into += 10 {
		now := s.End().Add(forecastTime(into))
		a := advise(t, Cycle{}, Request{Now: now, Deadline: now.Add(10 * time.Minute), Guest: guest, Link: link, Curve: c, Cycles: found, Ways: precopy})
		if a.Wait {
			t.Errorf("%s", a.Reason)
		}
		little = little || strings.Contains(a.Reason, "would save only")
	}
	if !little {
		t.Error("no reason says that little is saved")
	}
}

func TestNoCycleIsNow(t *testing.T) {
	r := request(t, 20, 10*time.Minute)
	r.Cycles = cycle.Result{Why: "nothing repeats."}
	a := advise(t, Cycle{}, r)
	if a.Wait || a.Reason != "start now: no cycle was found (nothing repeats), so no later moment is known to be better" {
		t.Errorf("%+v", a.Reason)
	}
}

func TestWaysThatAreNotPermittedAreNotTaken(t *testing.T) {
	r := request(t, 20, time.Minute)
	r.Ways, r.MayPostcopy = nil, false
	if a := advise(t, Immediate{}, r); a.Way.Strategy != forecast.StrategyPrecopy {
		t.Errorf("%s", a.Way)
	}
	r.MayPostcopy = true
	if a := advise(t, Immediate{}, r); a.Way.Strategy == forecast.StrategyPrecopy {
		t.Errorf("%s for a guest that writes more than the link carries", a.Way)
	}
	r.Ways, r.MayPostcopy = hybrid, false
	if _, err := (Cycle{}).Advise(r); !errors.Is(err, ErrNoWay) {
		t.Error(err)
	}
}

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	r := request(t, 20, time.Minute)
	for name, change := range map[string]func(*Request){
		"no time": func(r *Request) { r.Now = time.Time{} }, "no curve": func(r *Request) { r.Curve = nil },
		"no link": func(r *Request) { r.Link = forecast.Link{} }, "no guest": func(r *Request) { r.Guest = forecast.Guest{} },
	} {
		bad := r
		change(&bad)
		for _, p := range []Policy{Immediate{}, RandomDelay{}, LocalMinimum{}, NaiveBayes{}, Cycle{}, Oracle{Truth: bad.Curve}} {
			if _, err := p.Advise(bad); err == nil {
				t.Errorf("%s, %s: no error", name, p.Name())
			}
		}
	}
}

func TestNaiveBayesTakesTheNextMomentThatSuited(t *testing.T) {
	r := request(t, 20, 10*time.Minute)
	r.Seen = square
	p := NaiveBayes{Classify: func(s sample.Series) (cycle.Result, []bool, error) {
		suits := make([]bool, s.Len())
		for i, v := range s.Values {
			suits[i] = v < 50*mib
		}
		found, _ := known(120, 0)(s)
		return found, suits, nil
	}}
	if a := advise(t, p, r); a.Start.Sub(r.Now) != 50*time.Second {
		t.Errorf("waits %s", a.Start.Sub(r.Now))
	}
}

// seen is what the guest did from now on for so long, when its cycle comes later by shift and is multiplied.
func seen(r Request, span, shift time.Duration, by float64) sample.Series {
	s := sample.Series{Name: "dirty", Start: r.Now, Step: time.Second}
	for at := time.Duration(0); at < span; at += time.Second {
		i := int((r.Now.Add(at-shift).Sub(begin))/time.Second) % 120
		v := 6.0 * mib
		if i < 70 {
			v = 210 * mib
		}
		s.Values = append(s.Values, v*by)
	}
	return s
}

func TestRenew(t *testing.T) {
	r := request(t, 75, 10*time.Minute) // quiet for 45 s more
	r.Guest.NonZero = r.Guest.RAM       // a round takes 18 s
	r.Link.Bandwidth = 40 * mib         // 51 s: it has to wait for the next quiet part
	r.Ways = precopy
	r.Deadline = r.Now.Add(20 * time.Minute)
	old := Advice{Start: r.Now.Add(115 * time.Second), Way: precopy[0], Wait: true, Policy: "cycle"}
	then := r
	then.Now = r.Now.Add(60 * time.Second)
	for _, c := range []struct {
		name    string
		seen    sample.Series
		changed bool
		says    string
	}{
		{"as expected", seen(r, time.Minute, 0, 1), false, ""},
		{"a little more", seen(r, time.Minute, 0, 1.2), false, ""},
		{"two seconds late", seen(r, time.Minute, 2*time.Second, 1), false, ""},
		{"too few samples", seen(r, 5*time.Second, 30*time.Second, 1), false, ""},
		{"nothing", sample.Series{}, false, ""},
		{"another workload", seen(r, time.Minute, 0, 9), true, "no longer follows its cycle"},
	} {
		got, changed, err := Renew(old, then, c.seen)
		if err != nil || changed != c.changed || !strings.Contains(got.Reason, c.says) {
			t.Errorf("%s: changed %v, %v: %s", c.name, changed, err, got.Reason)
		}
	}
}

func TestRenewFollowsACycleThatComesLater(t *testing.T) {
	r := request(t, 5, 10*time.Minute)
	old := advise(t, Cycle{}, r)
	if !old.Wait {
		t.Fatal(old.Reason)
	}
	// By its cycle it would be quiet 65 s from now; it already is, 40 s early.
	then := r
	then.Now = r.Now.Add(45 * time.Second)
	got, changed, err := Renew(old, then, seen(r, 45*time.Second, -40*time.Second, 1))
	if err != nil || !changed || got.Start.Sub(then.Now) > 2*time.Second {
		t.Errorf("changed %v, %v: %s, was %s", changed, err, got.Reason, old.Reason)
	}
	t.Log(got.Reason)
	// Its time has come: nothing is changed any more.
	then.Now = old.Start
	if _, changed, _ := Renew(old, then, seen(r, 65*time.Second, -40*time.Second, 9)); changed {
		t.Error("changed at its start")
	}
}

func TestRenewHoldsTheDeadline(t *testing.T) {
	r := request(t, 5, 2*time.Minute)
	old := advise(t, Cycle{}, r)
	r.Now = r.Now.Add(60 * time.Second)
	r.Deadline = r.Now.Add(5 * time.Second) // moved
	got, changed, err := Renew(old, r, sample.Series{})
	if err != nil || !changed || got.Wait || !strings.Contains(got.Reason, "deadline") {
		t.Errorf("%v %v: %s", changed, err, got.Reason)
	}
}

func TestLong(t *testing.T) {
	for d, want := range map[time.Duration]string{250 * time.Second: "4 min 10 s", 3500 * time.Millisecond: "3.5 s", time.Hour: "1 h", 26 * time.Hour: "1 d 2 h", 61 * time.Minute: "1 h 1 min", 12 * time.Second: "12 s"} {
		if got := long(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

// Advice for a guest from an hour of samples: the curve, and the search in all six ways; with the cycle told, and found.
func BenchmarkAdvice(b *testing.B) {
	s := spec{period: 300, busy: 0.6, high: 200 * mib, low: 5 * mib, noise: 0.3}.series(time.Hour, 1)
	detect := func(s sample.Series) (cycle.Result, error) { return cycle.Detect(s, cycle.Options{}) }
	for name, find := range map[string]func(sample.Series) (cycle.Result, error){"told": known(300, 0.01), "detected": detect} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				found, err := find(s)
				if err != nil {
					b.Fatal(err)
				}
				c, err := forecast.NewCurve(forecast.Sources{Dirty: s, Cycles: found})
				if err != nil {
					b.Fatal(err)
				}
				r := Request{Now: s.End(), Deadline: s.End().Add(time.Hour), Guest: guest, Link: link, Curve: c, Cycles: found, MayPostcopy: true}
				if _, err := (Cycle{}).Advise(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A reason says what is gained, and nothing of what stays as it is.
func TestGainsAreWhatDiffers(t *testing.T) {
	base := forecast.Point{Duration: 10, Downtime: 0.02, Bytes: 1 << 30}
	with := func(change func(*forecast.Point)) forecast.Point {
		p := base
		change(&p)
		return p
	}
	for want, now := range map[string]forecast.Point{
		"sends 1 GiB instead of 1 GiB and takes 10 s instead of 10 s": base,
		"sends 1 GiB instead of 2 GiB":                                with(func(p *forecast.Point) { p.Bytes *= 2 }),
		"leaves the guest slow for 0 s instead of 8 s":                with(func(p *forecast.Point) { p.SlowFor = 8 }),
		"sends 1 GiB instead of 3 GiB, takes 10 s instead of 30 s and pauses for 20ms instead of 300ms": with(func(p *forecast.Point) {
			p.Bytes, p.Duration, p.Downtime = 3*p.Bytes, 30, 0.3
		}),
	} {
		if got := gains(now, base); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
