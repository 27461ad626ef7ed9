package engine

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// mortal is an agent that answers until it dies.
type mortal struct {
	agent.Agent
	dies time.Time
}

func (m mortal) Hello(context.Context) (agent.Identity, error) {
	if time.Now().After(m.dies) {
		return agent.Identity{}, migrate.ErrLinkLost
	}
	return agent.Identity{}, nil
}

// slowFold takes that long, or as long as it is let.
type slowFold struct {
	migrate.Overlayer
	takes time.Duration
}

func (s slowFold) Fold(ctx context.Context, _ string, _ migrate.Overlay, _ func(done, total int64)) error {
	select {
	case <-time.After(s.takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A fold reads what the destination's agent has. Without that it never ends, and another agent has to take over; with it it may
// take as long as it likes.
func TestFoldEndsWithItsAgent(t *testing.T) {
	for _, c := range []struct {
		takes, lives time.Duration
		lost         bool
	}{{time.Hour, 2 * time.Hour, false}, {time.Hour, time.Minute, true}} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			l := &later{s: &session{}, to: slowFold{takes: c.takes}, there: &peer{Agent: mortal{dies: begun.Add(c.lives)}}}
			err := l.fold(t.Context(), laterDisk{}, nil)
			if lost := errors.Is(err, migrate.ErrLinkLost); lost != c.lost || !lost && err != nil {
				t.Errorf("an agent that lives for %v: %v", c.lives, err)
			}
			if took := time.Since(begun); c.lost && took > c.lives+5*askEvery {
				t.Errorf("it was noticed after %v", took)
			}
		})
	}
}

// What a bare QEMU says of a disk on an overlay names neither the image nor its kind: the journal does, for another coordinator.
func TestBeforeOverlays(t *testing.T) {
	l := &later{s: &session{job: migrate.Job{Kept: []storage.Made{{Target: "vda-overlay", Path: "/images/web.qcow2" + overlayMark}}}}}
	got := l.beforeOverlays([]migrate.Disk{{Target: "vda", Kind: "network", Path: `json:{"driver":"qcow2"}`, Format: "qcow2"}, {Target: "vdb", Kind: "file", Path: "/b", Format: "raw"}})
	want := []migrate.Disk{{Target: "vda", Kind: "file", Path: "/images/web.qcow2"}, {Target: "vdb", Kind: "file", Path: "/b", Format: "raw"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
