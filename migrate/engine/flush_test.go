package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/agenttest"
)

// flushed are the paths that an agent was asked to write out last, and how often it was asked.
func flushed(f *agenttest.Fake) (paths []string, times int) {
	for _, a := range f.Asked() {
		if a.Method == "SyncImages" {
			paths = a.With.(agenttest.Synced).Paths
			times++
		}
	}
	return paths, times
}

// Where QEMU stops the guest by itself both ends write out from when RAM is sent until the copy is over, and not before: the
// disks' copy is not to wait for storage.
func TestImagesAreFlushedWhileRAMIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newImageWorld()
		w.perform = make(chan struct{})
		var sent atomic.Int64
		w.stats = func() migrate.Stats { n := sent.Load(); return migrate.Stats{Status: "active", RAMSent: &n} }
		p := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, Disks: []migrate.DiskMap{{Target: "vda", Path: "/n/x", Format: "raw"}}}
		s := w.open(t, p)
		if err := s.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		copied := make(chan error, 1)
		go func() { copied <- s.Copy(t.Context()) }()
		<-time.After(time.Second) // of this bubble's time, in which nothing is slow
		if _, n := flushed(&w.here); n != 0 {
			t.Errorf("flushed %d times while the disks were copied", n)
		}
		sent.Store(1)
		<-time.After(time.Second)
		from, n := flushed(&w.here)
		to, m := flushed(&w.there)
		if !slices.Equal(from, []string{"/i/web"}) || !slices.Equal(to, []string{"/n/x"}) || n < 5 || n > 11 || m < n-1 || m > n+1 {
			t.Errorf("flushed %v %d times, %v %d times", from, n, to, m)
		}
		close(w.perform)
		if err := <-copied; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, n = flushed(&w.here)
		<-time.After(time.Second)
		if _, m := flushed(&w.here); m != n {
			t.Error("flushed when the copy was over")
		}
		if err := s.Close(); err != nil || !strings.HasSuffix(asked(&w.here), " Close") || !strings.HasSuffix(asked(&w.there), " Close") {
			t.Errorf("%v; %s; %s", err, asked(&w.here), asked(&w.there))
		}
	})
}

// A migration does without a host that cannot write out.
func TestFlushThatFails(t *testing.T) {
	w := newImageWorld()
	w.there.Fails = map[string]error{"SyncImages": errors.New("EIO")}
	w.stats = func() migrate.Stats { return migrate.Stats{Status: "active", RAMSent: new(int64(1))} }
	w.perform = make(chan struct{})
	s := w.open(t, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll})
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	parked := w.there.Park("SyncImages")
	go func() {
		<-parked.Here
		close(parked.Go)
		close(w.perform)
	}()
	if err := s.Copy(t.Context()); err != nil {
		t.Error(err)
	}
}

// slowImages take their time to write out, each time a tenth of it.
type slowImages struct {
	agent.Images
	took  time.Duration
	asked int
}

func (s *slowImages) SyncImages(ctx context.Context, _ []string, _ bool) error {
	s.asked++
	select {
	case <-time.After(s.took):
		s.took /= 10
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Ahead of a stop that is ours there is another flush after a long one, and storage that does not come to its end is left alone.
func TestFlushAhead(t *testing.T) {
	for took, want := range map[time.Duration]struct {
		asked int
		took  time.Duration
	}{time.Millisecond: {1, time.Millisecond}, time.Second / 10: {2, 110 * time.Millisecond}, time.Hour: {1, flushLimit}} {
		synctest.Test(t, func(t *testing.T) {
			w := newImageWorld()
			s := w.open(t, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll}).(*session)
			s.job.Params.CopyStorage = migrate.CopyAfter
			slow := &slowImages{took: took}
			begun := time.Now()
			newFlusher(t.Context(), s, slow, &w.there).ahead(t.Context())
			if _, n := flushed(&w.there); n != 0 || slow.asked != want.asked || time.Since(begun) != want.took {
				t.Errorf("%v: %d times in %v, and %d times where nothing is written yet", took, slow.asked, time.Since(begun), n)
			}
		})
	}
}

// While the source's driver waits for its QEMU to be done with the guest, the destination has been told to run it already: the
// source sends its devices' state, so that disks are over.
func TestNBDLandsWhileTheDeviceStateIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.early, w.finish, w.unsent = true, make(chan struct{}), true
		s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid, CopyStorage: migrate.CopyAll})
		var before, after string
		s.job.Reached = func(_ context.Context, point string) {
			switch point {
			case "after-punch":
				go func() {
					synctest.Wait()
					before = w.called()
					w.srcEvents <- migrate.GuestEvent{Kind: migrate.EventMigration, Detail: "device"}
					synctest.Wait()
					after = w.called()
					close(w.perform)
				}()
			case "after-gate":
				close(w.finish)
			}
		}
		if err := drive(t.Context(), s, func() {}); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(before, " finish") || !strings.HasSuffix(after, " finish") {
			t.Errorf("told to run too early or too late:\n%s\n%s", before, after)
		}
		w.whole()
	})
}
