package sampler

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample"
	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
)

// fake is a host with one guest, which uses half of its two vCPUs and writes so many bytes per second.
type fake struct {
	since     time.Time
	migrating bool
	migrates  time.Duration // it begins to, after that
	restarted time.Time
	measured  *migrate.DirtyMeasure
	until     time.Time
	begun     []time.Duration
	refuse    int  // that many measurements
	lost      int  // that many looks
	silent    bool // every other time about disks
	looks     int
	opened    int
	closed    int
}

func (f *fake) Usage(context.Context, ...string) ([]migrate.Usage, error) {
	if f.lost > 0 {
		f.lost--
		return nil, migrate.ErrLinkLost
	}
	if f.migrates > 0 && time.Since(f.since) > f.migrates {
		f.migrating = true
	}
	since := f.since
	if f.restarted.After(since) {
		since = f.restarted
	}
	d := time.Since(since)
	written, sent := int64(d.Seconds()*1000), int64(d.Seconds()*10)
	u := migrate.Usage{Name: "web", UUID: "u", VCPUs: 2, CPU: &d, DiskWritten: &written, Sent: &sent, Migrating: f.migrating}
	if f.looks++; f.silent && f.looks%2 == 0 {
		u.DiskWritten = nil
	}
	if f.measured != nil {
		m := *f.measured
		m.Done = !time.Now().Before(f.until)
		u.Dirty = &m
	}
	return []migrate.Usage{u}, nil
}

func (f *fake) MeasureDirty(_ context.Context, _ string, w time.Duration) error {
	if f.migrating {
		panic("a measurement during a migration")
	}
	if f.measured != nil && time.Now().Before(f.until) {
		return errors.New("already being measured")
	}
	if f.refuse > 0 {
		f.refuse--
		return errors.New("not now")
	}
	f.begun = append(f.begun, w)
	f.measured = &migrate.DirtyMeasure{Window: w, Bytes: int64(w.Seconds()) << 20, Mode: "page-sampling"}
	f.until = time.Now().Add(w + 10*time.Millisecond)
	return nil
}

func (f *fake) Close() error { f.closed++; return nil }

// watch runs a sampler over the fake for that long, in time that costs none.
func watch(t *testing.T, f *fake, d time.Duration, change func(c *Config)) (got []Sample) {
	t.Helper()
	f.since = time.Now()
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	c := Config{
		Open: func(context.Context) (Source, error) { f.opened++; return f, nil },
		Emit: func(_ context.Context, s []Sample) error { got = append(got, s...); return nil },
	}
	if change != nil {
		change(&c)
	}
	if err := Run(ctx, c); err != nil {
		t.Error(err)
	}
	if f.opened != f.closed {
		t.Errorf("opened %d times, closed %d times", f.opened, f.closed)
	}
	return got
}

func rates(all []Sample) (out []Sample) {
	for _, s := range all {
		if s.Window == nil {
			out = append(out, s)
		}
	}
	return out
}

func TestRatesOfEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Truncate(time.Second)
		got := rates(watch(t, &fake{}, 20500*time.Millisecond, nil))
		if len(got) < 18 {
			t.Fatalf("%d samples", len(got))
		}
		for i, s := range got {
			if math.Abs(s.CPU-0.5) > 0.001 || math.Abs(s.DiskWrites-1000) > 1 || math.Abs(s.Network-10) > 1 || s.Guest.Name != "web" {
				t.Errorf("%+v", s)
			}
			if i > 0 && s.At.Sub(got[i-1].At) != time.Second || s.At.Sub(start)%time.Second != 0 {
				t.Errorf("%s after %s", s.At, got[max(0, i-1)].At)
			}
		}
	})
}

func TestWindowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		got := watch(t, f, 10*time.Minute, nil)
		seen, ones := map[time.Duration]int{}, 0.0
		for _, s := range got {
			if w := s.Window; w != nil {
				if w.Bytes != w.Length.Seconds()*(1<<20) || w.Mode != "page-sampling" {
					t.Errorf("%+v", w)
				}
				seen[w.Length]++
				if w.Length == time.Second {
					ones++
				}
			}
		}
		for w := time.Second; w <= 32*time.Second; w *= 2 {
			if seen[w] == 0 {
				t.Errorf("no window of %s in %v", w, seen)
			}
		}
		if ones < 0.7*600 {
			t.Errorf("%v of 600 seconds have a window of one", ones)
		}
	})
}

func TestNothingIsMeasuredDuringAMigration(t *testing.T) {
	for name, busy := range map[string]bool{"told by the host": false, "told by the journal": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{migrating: !busy}
				got := watch(t, f, 30*time.Second, func(c *Config) {
					if busy {
						c.Busy = func(context.Context, store.Guest) bool { return true }
					}
				})
				if len(got) < 25 || len(f.begun) > 0 {
					t.Errorf("%d samples, %d measurements", len(got), len(f.begun))
				}
				for _, s := range got {
					if !s.Migrating || !math.IsNaN(s.CPU) || s.Window != nil || len(s.Batch().Metrics)+len(s.Batch().Windows) > 0 {
						t.Fatalf("%+v", s)
					}
				}
			})
		})
	}
}

func TestWhoCannotBeMeasuredIsAskedLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{refuse: 1000}
		watch(t, f, time.Hour, nil)
		if tries := 1000 - f.refuse; tries < 10 || tries > 30 {
			t.Errorf("%d tries in an hour", tries)
		}
	})
}

func TestAMeasurementOfSomebodyElseIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{measured: &migrate.DirtyMeasure{Window: 7 * time.Second}, until: time.Now().Add(7 * time.Second)}
		for _, s := range watch(t, f, time.Minute, nil) {
			if s.Window != nil && s.Window.Length == 7*time.Second {
				t.Errorf("%+v", s.Window)
			}
		}
		if len(f.begun) == 0 {
			t.Error("nothing is measured after it")
		}
	})
}

func TestALostHostIsConnectedToAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{lost: 3}
		got := watch(t, f, time.Minute, nil)
		if f.opened != 4 || len(rates(got)) < 40 {
			t.Errorf("opened %d times, %d samples", f.opened, len(got))
		}
	})
}

func TestAGuestThatWasStartedAnewHasNoNegativeRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{restarted: time.Now().Add(10 * time.Second)}
		for _, s := range watch(t, f, 20*time.Second, nil) {
			if s.CPU < 0 || s.DiskWrites < 0 || s.Network < 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestACounterThatIsNotToldOnceCountsTheNextTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		known := 0
		all := rates(watch(t, &fake{silent: true}, 20500*time.Millisecond, func(c *Config) { c.NoDirty = true }))
		for _, s := range all {
			if !math.IsNaN(s.DiskWrites) {
				known++
				if math.Abs(s.DiskWrites-1000) > 1 {
					t.Errorf("%+v", s)
				}
			}
		}
		if known < 8 || known == len(all) {
			t.Errorf("known in %d of %d", known, len(all))
		}
	})
}

func TestTheEndOfTheReceiverEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("full")
		f := &fake{}
		err := Run(t.Context(), Config{Open: func(context.Context) (Source, error) { return f, nil }, Emit: func(context.Context, []Sample) error { return full }})
		if !errors.Is(err, full) || f.closed != 1 {
			t.Error(err)
		}
		if err := Run(t.Context(), Config{Interval: time.Millisecond}); err == nil {
			t.Error("an interval of a millisecond")
		}
	})
}

func TestBatchHasTheRateOfWindowsOfOneStep(t *testing.T) {
	at := time.Unix(1000, 30e6)
	s := Sample{Step: time.Second, CPU: 0.5, DiskWrites: math.NaN(), Network: 7, Window: &Window{At: at, Length: time.Second, Bytes: 42}}
	b := s.Batch()
	if len(b.Metrics) != 3 || b.Metrics[2].Name != string(sample.MetricDirty) || b.Metrics[2].Values[0] != 42 || len(b.Windows) != 1 || !b.Windows[0].Start.Equal(time.Unix(1000, 0)) {
		t.Errorf("%+v", b)
	}
	s.Window.Length = 2 * time.Second
	if b := s.Batch(); len(b.Metrics) != 2 || b.Windows[0].Step != 2*time.Second {
		t.Errorf("%+v", b)
	}
}
