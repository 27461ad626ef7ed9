package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// An agent that is gone is noticed while something else is waited for that would come of it, and not only when that is late.
func TestASilentAgentIsNoticed(t *testing.T) {
	for _, point := range []string{"after-stream", "after-punch"} {
		t.Run(point, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.never, w.unsent = point == "after-stream", point == "after-punch"
				s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid})
				s.job.Reached = func(_ context.Context, at string) {
					if at == point {
						w.mu.Lock()
						w.dead = true
						w.mu.Unlock()
					}
				}
				err := steps(t.Context(), s, false)
				if !errors.Is(err, migrate.ErrLinkLost) || !strings.Contains(err.Error(), "an agent does not answer") {
					t.Fatalf("%v", err)
				}
				if calls := w.called(); !strings.Contains(calls, "close-dest cancel") {
					t.Errorf("the source is not let go on: %s", calls)
				}
			})
		})
	}
}

// An agent that does not hear that it is to go leaves the hosts time to undo what they did, and the source's guest its own.
func TestADeafAgentLeavesTimeToUndo(t *testing.T) {
	for fail, want := range map[string]string{"copy": "finish(false) confirm(false)", "still": "cancel"} {
		t.Run(fail, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.deaf, w.never, w.fail[fail] = true, fail == "still", errBoom
				ctx, stop := context.WithTimeout(t.Context(), 5*answerLimit)
				defer stop()
				s := w.session(migrate.Params{Strategy: migrate.StrategyPrecopy})
				s.undo = time.Hour
				if err := s.Prepare(ctx); err != nil {
					t.Fatal(err)
				}
				if err := s.Copy(ctx); err == nil {
					t.Fatal("it went well")
				}
				err := s.Undo(ctx)
				if calls := w.called(); ctx.Err() != nil || !strings.Contains(calls, want) {
					t.Errorf("%v, %v; %s, want %s", ctx.Err(), err, calls, want)
				}
			})
		})
	}
}
