package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// slowSource is a source's end whose answers fail or do not come.
type slowSource struct {
	worldSourceEnd
	fails error // nil: no answer
}

func (e slowSource) Stats(ctx context.Context) (agent.SourceStats, error) {
	if e.fails != nil {
		return agent.SourceStats{}, e.fails
	}
	<-ctx.Done()
	return agent.SourceStats{}, ctx.Err()
}
func (e slowSource) Close(ctx context.Context) error { _, err := e.Stats(ctx); return err }

// slowDest pages for half a minute, and tells of it or not; bytes come or not.
type slowDest struct {
	worldDestEnd
	tells, gets bool
}

func (e slowDest) Page(ctx context.Context, progress func(agent.Progress)) (agent.Progress, error) {
	for n := range int64(30) {
		select {
		case <-time.After(time.Second + time.Millisecond):
		case <-ctx.Done():
			return agent.Progress{}, ctx.Err()
		}
		p := agent.Progress{Remaining: 1}
		if e.gets {
			p.Bytes = n
		}
		if e.tells {
			progress(p)
		}
	}
	return e.worldDestEnd.Page(ctx, progress)
}

// TestNBDSilentAgents: while a guest waits for pages, an agent that does not answer is replaced within seconds; a source's agent
// from which RAM comes is left alone.
func TestNBDSilentAgents(t *testing.T) {
	for _, c := range []struct {
		name        string
		source      bool // it answers
		fails       error
		tells, gets bool
		within      time.Duration // 0: it is left alone
	}{
		{"source stands still", false, nil, true, false, 8 * time.Second},
		{"source is gone", false, errBoom, true, false, 4 * time.Second},
		{"source is slow", false, nil, true, true, 0},
		{"control connection is gone", false, errBoom, true, true, 0},
		{"destination stands still", true, nil, false, false, 11 * time.Second},
		{"paging is stuck", true, nil, true, false, 11 * time.Second}, // twice this world's IdleLimit
		{"all is well", true, nil, true, true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.session(migrate.Params{Strategy: migrate.StrategyPostcopy})
				for _, step := range []func(context.Context) error{s.Prepare, s.Copy, s.Resume} {
					if err := step(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if !c.source {
					s.source = slowSource{worldSourceEnd{w}, c.fails}
				}
				s.dest = slowDest{worldDestEnd{w}, c.tells, c.gets}
				begun := time.Now()
				err := s.Page(t.Context())
				if c.within == 0 {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				if took := time.Since(begun); !errors.Is(err, migrate.ErrPaused) || took > c.within {
					t.Fatalf("after %v: %v", took, err)
				}
				begun = time.Now()
				if err := s.Recover(t.Context()); err != nil || time.Since(begun) > time.Second {
					t.Fatalf("recovered after %v: %v", time.Since(begun), err)
				}
				if !strings.HasSuffix(w.called(), "open-dest open-source") {
					t.Errorf("calls %s, want agents anew", w.called())
				}
			})
		})
	}
}
