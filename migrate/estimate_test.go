package migrate_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/migratetest"
)

// nonsense is any figure at all, or none.
func nonsense(r *rand.Rand) *int64 {
	var v int64
	switch r.IntN(7) {
	case 0:
		return nil
	case 1:
		v = 0
	case 2:
		v = math.MaxInt64 - r.Int64N(3)
	case 3:
		v = math.MinInt64 + r.Int64N(3)
	case 4:
		v = -r.Int64N(1 << 40)
	default:
		v = r.Int64N(1 << 40)
	}
	return &v
}

// TestProgressOfAnything: whatever the figures are, percent stays within 0 and 100 and never falls, and the line is valid.
func TestProgressOfAnything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	for range 200 {
		e := migrate.NewEstimator(rng.IntN(2) == 0, rng.Int64()-math.MaxInt64/2)
		e.GoOn([]float64{0, 50, -3, 600, math.NaN(), math.Inf(1)}[rng.IntN(6)])
		now := time.Now()
		last, phase := 0.0, migrate.PhaseChecking
		for step := range 40 {
			now = now.Add(time.Duration(rng.Int64N(int64(5*time.Second))) - time.Second)
			if rng.IntN(6) == 0 && phase < migrate.PhaseFinishing {
				phase++
				e.Phase(phase)
			}
			e.Stats(now, migrate.Stats{RAMTotal: nonsense(rng), RAMRemaining: nonsense(rng), RAMSent: nonsense(rng), DiskTotal: nonsense(rng),
				DiskRemaining: nonsense(rng), DiskSent: nonsense(rng), DirtyRate: nonsense(rng), Bandwidth: nonsense(rng), Round: nonsense(rng)})
			if step == 39 && rng.IntN(2) == 0 {
				e.Complete()
				phase = migrate.PhaseEnded
			}
			p := migrate.Progress{Migration: "m", Time: time.Unix(1, 0), Phase: phase, Owner: migrate.OwnerSource}
			e.Fill(&p)
			if !(p.Percent >= last && p.Percent <= 100) || p.Percent == 100 && phase != migrate.PhaseEnded {
				t.Fatalf("seed %d: percent %v after %v in %v", seed, p.Percent, last, phase)
			}
			if p.ETAMS != nil && p.ETAMS.High != nil && *p.ETAMS.High < p.ETAMS.Low {
				t.Fatalf("seed %d: time left %d to %d", seed, p.ETAMS.Low, *p.ETAMS.High)
			}
			last = p.Percent
			validate(t, migrate.ProgressJSONSchema(), p)
		}
	}
}

func progressAt(e *migrate.Estimator) migrate.Progress {
	var p migrate.Progress
	e.Fill(&p)
	return p
}

// TestETA: the range holds what a plain calculation gives.
func TestETA(t *testing.T) {
	const mib = int64(1 << 20)
	figures := func(left, dirty, bw int64) migrate.Stats {
		s := migratetest.Figures(1024*mib, left*mib, 0, 1)
		*s.DirtyRate, *s.Bandwidth = dirty*mib, bw*mib
		return s
	}
	for _, c := range []struct {
		name            string
		postcopy        bool
		left, dirty, bw int64
		low, high       int64 // high -1: not bounded
	}{
		{"idle guest", false, 500, 0, 100, 5000, 7500},
		{"half of it dirtied again", false, 500, 50, 100, 5000, 15000},
		{"never converges", false, 500, 200, 100, 5000, -1},
		{"postcopy sends it at most once more", true, 500, 200, 100, 5000, 22500},
	} {
		e := migrate.NewEstimator(c.postcopy, 0)
		e.Phase(migrate.PhaseCopying)
		e.Stats(time.Unix(1, 0), figures(c.left, c.dirty, c.bw))
		p := progressAt(e)
		high := int64(-1)
		if p.ETAMS.High != nil {
			high = *p.ETAMS.High
		}
		if p.ETAMS.Low != c.low || high != c.high {
			t.Errorf("%s: %d to %d, want %d to %d", c.name, p.ETAMS.Low, high, c.low, c.high)
		}
	}
}

// TestBandwidthIsSmoothed: one odd second moves the figure a little, and a lasting change arrives.
func TestBandwidthIsSmoothed(t *testing.T) {
	e := migrate.NewEstimator(false, 0)
	e.Phase(migrate.PhaseCopying)
	at, sent := time.Unix(1, 0), int64(0)
	feed := func(perSecond int64) int64 {
		at, sent = at.Add(time.Second), sent+perSecond
		e.Stats(at, migrate.Stats{RAMSent: &sent})
		if p := progressAt(e); p.BandwidthBytesPerS != nil {
			return *p.BandwidthBytesPerS
		}
		return -1
	}
	for range 10 {
		feed(1000)
	}
	if v := feed(0); v < 650 || v > 800 {
		t.Errorf("after one silent second %d", v)
	}
	for range 20 {
		feed(4000)
	}
	if v := feed(4000); v < 3900 {
		t.Errorf("after 20 seconds of 4000: %d", v)
	}
}

// TestDisksFirst: RAM counts as work while only disks are counted.
func TestDisksFirst(t *testing.T) {
	e := migrate.NewEstimator(false, 3<<30)
	e.Phase(migrate.PhaseCopying)
	total, left := int64(1<<30), int64(0)
	e.Stats(time.Unix(1, 0), migrate.Stats{DiskTotal: &total, DiskRemaining: &left})
	if p := progressAt(e); p.Percent < 20 || p.Percent > 30 {
		t.Errorf("%v percent when a quarter is done", p.Percent)
	}
}

func FuzzProgressLine(f *testing.F) {
	f.Add(`{"migration":"m","time":"2026-11-22T01:02:03Z","phase":"copying","owner":"source","percent":1,"eta_ms":{"low":3}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var p migrate.Progress
		if json.Unmarshal([]byte(text), &p) == nil {
			if _, err := json.Marshal(p); err != nil && p.Time.Year() >= 0 && p.Time.Year() < 10000 {
				t.Errorf("read %q and cannot write it: %v", text, err)
			}
		}
	})
}
