package forecast

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var (
	small = Guest{RAM: 2048 * mib, NonZero: 1024 * mib}
	giga  = Link{Bandwidth: 112 * mib, RTT: 200 * time.Microsecond}
)

func steady(rate, hot float64) workload { return workload{{lasts: 100, rate: rate, hot: hot}} }

func TestPostcopySendsEachPageOnce(t *testing.T) {
	c := Estimate(begin, Way{EngineNBD, StrategyPostcopy}, small, giga, steady(500*mib, 2000*mib), Limits{})
	if c.Bytes.Expected != float64(small.NonZero) || c.Converges != 1 {
		t.Errorf("%+v", c)
	}
	if slow := c.SlowFor.Expected.Seconds(); math.Abs(slow-1024.0/112) > 0.1 {
		t.Errorf("slow for %.2f s", slow)
	}
	if c.Downtime.Expected > 30*time.Millisecond {
		t.Errorf("a pause of %s", c.Downtime.Expected)
	}
}

func TestPrecopyOfAQuietGuestIsOneRoundAndALittle(t *testing.T) {
	c := Estimate(begin, Way{EngineNative, StrategyPrecopy}, small, giga, steady(mib, 10*mib), Limits{})
	if r := c.Bytes.Expected / float64(small.NonZero); r < 1 || r > 1.02 {
		t.Errorf("%.3f times RAM", r)
	}
	if c.Converges != 1 || c.Downtime.Expected > 150*time.Millisecond || c.Duration.Expected > 12*time.Second {
		t.Errorf("%+v", c)
	}
}

// QEMU stops a guest when what is left fits the accepted pause, of which a quarter is accepted at first: that is used up, however
// little the guest writes. The rest goes as fast as the link carries while the guest stands still.
func TestQEMUUsesUpThePause(t *testing.T) {
	idle := steady(mib/100, mib)
	c := Estimate(begin, Way{EngineNative, StrategyPrecopy}, small, giga, idle, Limits{})
	if got := c.Downtime.Expected; got < 50*time.Millisecond || got > 90*time.Millisecond {
		t.Errorf("a pause of %s", got)
	}
	fast := giga
	fast.Still = 10 * giga.Bandwidth
	if got := Estimate(begin, Way{EngineNative, StrategyPrecopy}, small, fast, idle, Limits{}).Downtime.Expected; got > 30*time.Millisecond {
		t.Errorf("a pause of %s where the link is faster then", got)
	}
	if got := Estimate(begin, Way{EngineNBD, StrategyPrecopy}, small, giga, idle, Limits{}).Downtime.Expected; got > 30*time.Millisecond {
		t.Errorf("a pause of %s by agents", got)
	}
}

// Where nobody knows how much RAM is in use, the range says so.
func TestUnknownRAMIsARange(t *testing.T) {
	g := Guest{RAM: small.RAM, NonZero: small.RAM, Least: small.RAM / 5}
	c := Estimate(begin, Way{EngineNBD, StrategyPostcopy}, g, giga, steady(mib, 10*mib), Limits{})
	if c.Bytes.Low > 0.25*float64(g.RAM) || c.Bytes.Expected < float64(g.RAM) {
		t.Errorf("%+v", c.Bytes)
	}
}

func TestPrecopyOfAGuestThatWritesFasterThanTheLinkDoesNotConverge(t *testing.T) {
	w := steady(600*mib, 1500*mib)
	for _, engine := range []string{EngineNative, EngineNBD} {
		c := Estimate(begin, Way{engine, StrategyPrecopy}, small, giga, w, Limits{})
		if c.Converges > 0 || !strings.Contains(c.Why, "accepted") {
			t.Errorf("%s: %+v", engine, c)
		}
	}
	slowed := Estimate(begin, Way{EngineNative, StrategyPrecopy}, small, giga, w, Limits{Throttle: true})
	if slowed.Converges != 1 || slowed.SlowFor.Expected <= 0 {
		t.Errorf("throttled: %+v", slowed)
	}
}

func TestHybridEndsItsRoundsWhereTheyStopShrinking(t *testing.T) {
	c := Estimate(begin, Way{EngineNBD, StrategyHybrid}, small, giga, steady(600*mib, 1500*mib), Limits{})
	if c.Rounds != 1 || c.Converges != 1 || c.SlowFor.Expected < 5*time.Second {
		t.Errorf("%+v", c)
	}
}

func TestDisksTravelBeside(t *testing.T) {
	g := small
	g.Disks = 500 * mib
	with := Estimate(begin, Way{EngineNative, StrategyPrecopy}, g, giga, cyclic, Limits{})
	without := Estimate(begin, Way{EngineNative, StrategyPrecopy}, small, giga, cyclic, Limits{})
	if with.Bytes.Expected < without.Bytes.Expected+500*mib-300*mib || with.Downtime.Expected < 40*time.Millisecond {
		t.Errorf("%+v with, %+v without", with, without)
	}
}

func TestWhatCannotBeForecastSaysSo(t *testing.T) {
	for _, c := range []struct {
		w Way
		g Guest
		l Link
	}{
		{Way{"x", StrategyPrecopy}, small, giga},
		{Way{EngineNBD, ""}, small, giga},
		{Way{EngineNBD, StrategyHybrid}, Guest{}, giga},
		{Way{EngineNBD, StrategyHybrid}, Guest{RAM: 1, Disks: -1}, giga},
		{Way{EngineNBD, StrategyHybrid}, small, Link{}},
		{Way{EngineNBD, StrategyHybrid}, small, Link{Bandwidth: math.NaN()}},
	} {
		if err := Check(c.w, c.g, c.l); err == nil {
			t.Errorf("%+v passes", c)
		}
		if got := Estimate(begin, c.w, c.g, c.l, cyclic, Limits{}); got.Why == "" || got.Converges != 0 || got.Duration.High < time.Hour {
			t.Errorf("%+v", got)
		}
	}
}

// slack is what a pause that is accepted later or earlier makes of rounds: a guest that writes more may be accepted sooner.
func slack(c Cost, l Link) float64 { return 10 * c.Downtime.High.Seconds() }

// A guest that writes more never costs less, and a faster link never takes longer. Hybrid ends its rounds where they stop
// shrinking, so that of it only what is left for after the switch can be held to that; QEMU's may go on where more is written,
// since a longer pause is accepted then.
func TestMoreWritesCostMoreAndMoreBandwidthTakesLess(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		rate, hot := 200*mib*r.Float64(), mib+1000*mib*r.Float64()
		more := steady(rate*1.3+mib, hot*1.2)
		for _, w := range Ways() {
			l := Link{Bandwidth: (20 + 500*r.Float64()) * mib, RTT: time.Millisecond}
			a, b := Estimate(begin, w, small, l, steady(rate, hot), Limits{}), Estimate(begin, w, small, l, more, Limits{})
			if b.Bytes.Expected < a.Bytes.Expected-slack(b, l)*l.Bandwidth && w.Strategy != StrategyHybrid || w == (Way{EngineNBD, StrategyHybrid}) && b.SlowFor.Expected+20*time.Millisecond < a.SlowFor.Expected {
				t.Fatalf("%s at %.0f MiB/s of %.0f MiB over %.0f MiB/s: %.0f MiB, slow %s; more writes: %.0f MiB, slow %s", w, rate/mib, hot/mib, l.Bandwidth/mib,
					a.Bytes.Expected/mib, a.SlowFor.Expected, b.Bytes.Expected/mib, b.SlowFor.Expected)
			}
			l.Bandwidth *= 1.3
			f := Estimate(begin, w, small, l, steady(rate, hot), Limits{})
			if w.Strategy != StrategyHybrid && f.Duration.Expected.Seconds() > a.Duration.Expected.Seconds()+slack(f, l) {
				t.Fatalf("%s at %.0f MiB/s of %.0f MiB: %s over %.0f MiB/s, %s over 1.3 times that", w, rate/mib, hot/mib, a.Duration.Expected, l.Bandwidth/1.3/mib, f.Duration.Expected)
			}
		}
	}
}

func TestExpectIsEstimateWithoutRanges(t *testing.T) {
	src := cyclic.sources(20*time.Minute, 0.1, 2)
	src.Cycles = cycles(120)
	c, err := NewCurve(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range Ways() {
		for at := range 12 {
			start := begin.Add(time.Duration(at) * 11 * time.Second)
			e, p := Estimate(start, w, small, giga, c, Limits{}), Expect(start, w, small, giga, c, Limits{})
			if math.Abs(e.Duration.Expected.Seconds()-p.Duration) > 1e-6 || e.Bytes.Expected != p.Bytes {
				t.Errorf("%s: %+v, %+v", w, e, p)
			}
		}
	}
}

// What is forecast from samples of a noisy guest is held against the same guest's truth.
func TestForecastsFromSamplesFallIntoTheirRanges(t *testing.T) {
	inside, all := 0, 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := workload{{lasts: 30 + 60*r.Float64(), rate: 150 * mib * r.Float64(), hot: 100*mib + 600*mib*r.Float64()}, {lasts: 30 + 60*r.Float64(), rate: 10 * mib, hot: 40 * mib}}
		src := w.sources(25*time.Minute, 0.1, seed)
		src.Cycles = cycles(w.period())
		c, err := NewCurve(src)
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range Ways() {
			start := begin.Add(26*time.Minute + seconds(100*r.Float64()))
			got, want := Estimate(start, way, small, giga, c, Limits{}), Estimate(start, way, small, giga, w, Limits{})
			all++
			if d := want.Duration.Expected; d >= got.Duration.Low && d <= got.Duration.High && want.Bytes.Expected >= got.Bytes.Low*0.999 && want.Bytes.Expected <= got.Bytes.High*1.001 {
				inside++
			}
		}
	}
	t.Logf("%d of %d inside", inside, all)
	if 10*inside < 8*all {
		t.Errorf("%d of %d inside the ranges", inside, all)
	}
}
