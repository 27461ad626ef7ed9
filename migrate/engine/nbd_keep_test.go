package engine

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// A copy is kept when the destination has all of the RAM, and before the source is released. That it cannot be kept, or that its
// agent says nothing more, is told, and the source is released all the same.
func TestNBDKeepsACopy(t *testing.T) {
	for name, c := range map[string]struct {
		asked bool
		spoil func(*world)
		note  string
	}{
		"not asked for": {},
		"kept":          {asked: true, note: "was kept at the source"},
		"no room":       {asked: true, note: "no copy of the guest's RAM was kept at the source: boom", spoil: func(w *world) { w.fail["keep"] = errBoom }},
		"no answer":     {asked: true, note: "nothing was written for 1m0s", spoil: func(w *world) { w.mute = true }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if c.spoil != nil {
					c.spoil(w)
				}
				begun := time.Now()
				if err := drive(t.Context(), w.session(migrate.Params{Strategy: migrate.StrategyHybrid, KeepCopy: c.asked}), func() {}); err != nil {
					t.Fatal(err)
				}
				want := " close-dest keep close-source confirm"
				if !c.asked {
					want = " close-dest close-source confirm"
				}
				if calls := w.called(); !strings.HasSuffix(calls, want) {
					t.Errorf("calls %s, want%s at the end", calls, want)
				}
				if notes := strings.Join(w.told(), "\n"); !strings.Contains(notes, c.note) || c.note == "" && strings.Contains(notes, "copy") {
					t.Errorf("notes: %s", notes)
				}
				if took := time.Since(begun); took > 2*keepIdle {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// The source offers fingerprints only to a destination that has something to compare them with, and the user hears of it.
func TestNBDAsksForReuse(t *testing.T) {
	kept := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		wish bool
		held agent.Held
		note string
	}{
		"no wish":      {},
		"nothing held": {wish: true, held: agent.Held{Why: "nobody was here"}, note: "none of the guest's RAM can be reused: nobody was here"},
		"held":         {wish: true, held: agent.Held{Usable: true, Bytes: 5 << 20, Kept: kept}, note: "has 5 MiB of the guest's RAM as it was at 2026-01-02T03:04:05Z"},
		"held in part": {wish: true, held: agent.Held{Usable: true, Why: "a block is larger"}, note: "only what differs is fetched: a block is larger"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.held = c.held
			s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid, Reuse: c.wish})
			if err := s.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			if w.specs.dst.Reuse != c.wish || w.specs.src.Reuse != c.held.Usable {
				t.Errorf("reuse at the destination %t, at the source %t", w.specs.dst.Reuse, w.specs.src.Reuse)
			}
			if notes := strings.Join(w.told(), "\n"); !strings.Contains(notes, c.note) || c.note == "" && notes != "" {
				t.Errorf("notes: %s", notes)
			}
		})
	}
}
