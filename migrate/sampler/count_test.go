package sampler

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/analysis/sample/store"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// pages is a guest that writes page 0 in each second and one more of its own in each.
type pages struct {
	calls  int
	fail   int           // that call fails, once
	late   int           // that call comes so late that the next second has begun
	closed *int          // counts Close
	took   time.Duration // of the late call
}

func blocks() []ram.Block { return []ram.Block{{Name: "m", Size: 1 << 20, PageSize: 4096}} }

func (p *pages) Written(context.Context) (Written, error) {
	p.calls++
	if p.calls == p.fail {
		return Written{}, migrate.ErrBusy
	}
	if p.calls == p.late {
		time.Sleep(p.took)
	}
	set := ram.NewSet(blocks())
	set[0].Set(0)
	set[0].Set(1 + p.calls%200)
	return Written{Pages: set, Blocks: blocks(), Mode: "uffd-wp"}, nil
}

func (p *pages) Close() error { *p.closed++; return nil }

// windowsOf sorts windows by their length in seconds.
func windowsOf(all []Sample) map[int][]Window {
	out := map[int][]Window{}
	for _, s := range all {
		if s.Window != nil {
			n := int(s.Window.Length / time.Second)
			out[n] = append(out[n], *s.Window)
		}
	}
	return out
}

// What is written in each second of a window counts once, and windows of a length lie end to end.
func TestCounterGivesAllWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed, opened := 0, 0
		f := &fake{}
		got := windowsOf(watch(t, f, 70*time.Second, func(c *Config) {
			c.Count = func(context.Context, store.Guest) (Counter, error) { opened++; return &pages{closed: &closed}, nil }
		}))
		if len(f.begun) != 0 || opened != 1 || closed != 1 {
			t.Errorf("QEMU measured %d times; opened %d times, closed %d times", len(f.begun), opened, closed)
		}
		for _, n := range []int{1, 2, 4, 8, 16, 32} {
			if len(got[n]) < 70/n-2 || len(got[n]) == 0 {
				t.Errorf("%d windows of %d s", len(got[n]), n)
			}
			for i, w := range got[n] {
				if w.Bytes != float64(4096*(1+n)) || w.Mode != "uffd-wp" || !w.At.Truncate(w.Length).Equal(w.At) {
					t.Errorf("%d s: %+v", n, w)
				}
				if i > 0 && w.At.Sub(got[n][i-1].At) != w.Length {
					t.Errorf("%d s: %s after %s", n, w.At, got[n][i-1].At)
				}
			}
		}
	})
}

// An interval that was not one is in no window: a guest writes other pages in another time.
func TestCounterDropsWhatIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := 0
		got := windowsOf(watch(t, &fake{}, 40*time.Second, func(c *Config) {
			c.Count = func(context.Context, store.Guest) (Counter, error) {
				return &pages{closed: &closed, late: 10, took: 700 * time.Millisecond}, nil
			}
		}))
		if n := len(got[1]); n < 33 || n > 37 {
			t.Errorf("%d windows of a second in 40 s, of which one was late and one short", n)
		}
		for n, list := range got {
			for _, w := range list {
				if w.Bytes != float64(4096*(1+n)) {
					t.Errorf("%+v", w)
				}
			}
		}
	})
}

// During a migration no tracker is in the guest; one that was sent away, or cannot be had, is tried again, and QEMU measures
// meanwhile.
func TestCounterGivesWay(t *testing.T) {
	t.Run("migration", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			closed, opened := 0, 0
			f := &fake{}
			f.migrates = 10500 * time.Millisecond
			got := windowsOf(watch(t, f, 30*time.Second, func(c *Config) {
				c.Count = func(context.Context, store.Guest) (Counter, error) { opened++; return &pages{closed: &closed}, nil }
			}))
			if f.looks > 40 {
				t.Errorf("%d looks in 30 s", f.looks)
			}
			if opened != 1 || closed != 1 || len(got[1]) < 8 || len(got[1]) > 10 {
				t.Errorf("opened %d times, closed %d times, %d windows", opened, closed, len(got[1]))
			}
		})
	})
	t.Run("sent away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			closed, opened := 0, 0
			f := &fake{}
			got := windowsOf(watch(t, f, 100*time.Second, func(c *Config) {
				c.Count = func(context.Context, store.Guest) (Counter, error) {
					if opened++; opened == 2 {
						return nil, errors.New("no room")
					}
					return &pages{closed: &closed, fail: map[int]int{1: 5}[opened]}, nil
				}
			}))
			modes := map[string]int{}
			for _, w := range got[1] {
				modes[w.Mode]++
			}
			if opened != 3 || closed != 2 || modes["uffd-wp"] < 10 || modes["page-sampling"] < 10 {
				t.Errorf("opened %d times, closed %d times, %v", opened, closed, modes)
			}
		})
	})
}
