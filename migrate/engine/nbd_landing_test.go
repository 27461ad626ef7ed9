package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// TestNBDAgentGoneBeforeTheGuestRuns: the destination's QEMU needs pages to load its devices' state, and says nothing before it
// has them. Agents that are gone are replaced, and then it runs the guest.
func TestNBDAgentGoneBeforeTheGuestRuns(t *testing.T) {
	for _, lost := range []bool{false, true} { // the answer to Release
		t.Run(fmt.Sprintf("lost %t", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.session(migrate.Params{Strategy: migrate.StrategyPostcopy})
				w.finish = make(chan struct{})
				w.paged = sync.OnceFunc(func() { close(w.finish) })
				if lost {
					w.fail["release"] = migrate.ErrLinkLost
				}
				for _, step := range []func(context.Context) error{s.Prepare, s.Copy} {
					if err := step(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				w.mu.Lock()
				w.dead = true
				w.mu.Unlock()
				ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
				defer stop()
				for _, step := range []func(context.Context) error{s.Resume, s.Page, s.Finish} {
					if err := step(ctx); err != nil {
						t.Fatalf("%v (%s)", err, w.called())
					}
				}
				if !w.specs.dst.Resume || !w.specs.src.Resume {
					t.Error("the new agents did not take up what the others left")
				}
				w.whole()
			})
		})
	}
}

// TestNBDQEMUGoneBeforeTheGuestRuns: a QEMU that got a part of its stream ends. That is said as soon as it is known, and no agent
// is asked for again and again.
func TestNBDQEMUGoneBeforeTheGuestRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.session(migrate.Params{Strategy: migrate.StrategyPostcopy})
		w.fail["release"], w.fail["finish"] = migrate.ErrLinkLost, errBoom
		for _, step := range []func(context.Context) error{s.Prepare, s.Copy} {
			if err := step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		if err := s.Resume(t.Context()); !errors.Is(err, errBoom) || time.Since(begun) > time.Second {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		if n := strings.Count(w.called(), "open-dest"); n != 1 {
			t.Errorf("%d agents took the destination: %s", n, w.called())
		}
	})
}

// TestNBDUndoAfterNewAgents: a destination that ended although new agents served it is taken back as the migration that the
// drivers know of, which is no recovery.
func TestNBDUndoAfterNewAgents(t *testing.T) {
	w := newWorld(t)
	s := w.session(migrate.Params{Strategy: migrate.StrategyPostcopy})
	for _, step := range []func(context.Context) error{s.Prepare, s.Copy} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.silent = true
	if err := s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.missing.Reset()
	if err := s.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if calls := w.called(); s.p.Resume || !strings.Contains(calls, "confirm(false)") {
		t.Errorf("undone as a recovery %t: %s", s.p.Resume, calls)
	}
}

// TestNBDPrecopyAsksWhoHasTheGuest: without missing pages nobody has to bring any, and an answer that is lost has both ends asked.
func TestNBDPrecopyAsksWhoHasTheGuest(t *testing.T) {
	w := newWorld(t)
	s := w.session(migrate.Params{Strategy: migrate.StrategyPrecopy})
	w.fail["release"] = migrate.ErrLinkLost
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Copy(t.Context()); !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("%v", err)
	}
}
