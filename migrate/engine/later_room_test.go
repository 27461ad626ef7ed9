package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// tight is an agent whose file system has room from some time on.
type tight struct {
	agent.Agent
	from time.Time
}

func (a tight) DescribeImage(context.Context, storage.Query) (storage.Image, error) {
	if time.Now().Before(a.from) {
		return storage.Image{Free: 4096}, nil
	}
	return storage.Image{Free: 1 << 30}, nil
}

// told keeps what a migration's sink is told.
type told struct {
	waits map[string]bool
	notes []string
}

func (t *told) Guest(migrate.Side, migrate.GuestEvent) {}
func (t *told) Note(text string)                       { t.notes = append(t.notes, text) }
func (t *told) Stats(st migrate.Stats) {
	for _, d := range st.Disks {
		t.waits[d.Waits] = true
	}
}

func TestDisksThatFollowWaitForRoom(t *testing.T) {
	for _, c := range []struct {
		name string
		room time.Duration
		err  error
		want error
	}{
		{"there is some after a while", 5 * time.Second, storage.ErrNoRoom, nil},
		{"there is some after long", time.Hour, storage.ErrNoRoom, nil},
		{"libvirt does not tell why", 5 * time.Second, errors.New("the copy ended"), nil},
		{"there is plenty, and a quota", 0, storage.ErrNoRoom, nil},
		{"the link is the fault", time.Hour, migrate.ErrLinkLost, migrate.ErrLinkLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun, sink := time.Now(), &told{waits: map[string]bool{}}
				l := &later{s: &session{job: migrate.Job{Sink: sink}}, disks: []laterDisk{{Overlay: migrate.Overlay{Target: "vda"}, size: 9 << 20}},
					there: &peer{Agent: tight{from: begun.Add(c.room)}}}
				tries := 0
				p := l.unknown() // it fails before there are figures
				err := l.withRoom(t.Context(), &p, func() error {
					if tries++; time.Since(begun) < c.room || tries == 1 {
						return fmt.Errorf("it fails: %w", c.err)
					}
					return nil
				})
				if !errors.Is(err, c.want) || c.want == nil && err != nil {
					t.Errorf("%v, want %v", err, c.want)
				}
				waited := time.Since(begun)
				if most := max(c.room, roomLong) + roomEvery; waited > most || c.want == nil && waited < c.room {
					t.Errorf("it took %v, there was room after %v", waited, c.room)
				}
				said := false
				for why := range sink.waits {
					said = said || strings.Contains(why, "up to 10 MiB")
				}
				if said != (c.want == nil) {
					t.Errorf("waited %v, said %v", waited, sink.waits)
				}
			})
		})
	}
}

// stopped is a destination whose guest stands still now and then.
type stopped struct {
	migrate.Overlayer
	looks int
}

func (s *stopped) Unstick(context.Context, string) (bool, error) {
	s.looks++
	return s.looks%3 == 0, nil
}

func TestAGuestThatHasNoRoomIsLetGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink, to := &told{}, &stopped{}
		l := &later{s: &session{job: migrate.Job{Sink: sink}}, to: to}
		stop := l.keepRunning(t.Context())
		time.Sleep(10*roomEvery + roomEvery/2)
		stop()
		if to.looks != 11 || len(sink.notes) != 1 || !strings.Contains(sink.notes[0], "stood still") {
			t.Errorf("%d looks, notes %q", to.looks, sink.notes)
		}
	})
}
