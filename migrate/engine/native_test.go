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

var errBoom = errors.New("boom")

// drive calls the steps as the coordinator does and undoes what fails before the commit.
func drive(ctx context.Context, s migrate.Session, commit func()) error {
	for _, step := range []func(context.Context) error{s.Prepare, s.Copy} {
		if err := step(ctx); err != nil {
			return errors.Join(err, s.Undo(context.WithoutCancel(ctx)))
		}
	}
	commit()
	for _, step := range []func(context.Context) error{s.Resume, s.Page, s.Finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// TestNativeCallsInOrder checks which calls reach the hosts, for a success and for a failure of each step.
func TestNativeCallsInOrder(t *testing.T) {
	for _, c := range []struct {
		name, fail, want string
		err              error
	}{
		{"success", "", "begin prepare perform COMMIT switch finish confirm", nil},
		{"begin fails", "begin", "begin", errBoom},
		{"prepare fails", "prepare", "begin prepare confirm(false)", errBoom},
		{"perform fails", "perform", "begin prepare perform finish(false)", errBoom},
		{"switch fails", "switch", "begin prepare perform COMMIT switch", errBoom},
		{"finish fails", "finish", "begin prepare perform COMMIT switch finish", errBoom},
		{"confirm fails", "confirm", "begin prepare perform COMMIT switch finish confirm", errBoom},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sc := newScript()
				sc.fail[c.fail] = errBoom
				s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy})
				err := drive(t.Context(), s, func() { _ = sc.call("COMMIT") })
				if !errors.Is(err, c.err) {
					t.Errorf("error %v, want %v", err, c.err)
				}
				if got := sc.called(); got != c.want {
					t.Errorf("calls\n got %s\nwant %s", got, c.want)
				}
			})
		})
	}
}

// TestCancelStopsTheCopy: Cancel makes Copy return ErrCancelled, and Undo then removes the destination only.
func TestCancelStopsTheCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.perform = make(chan struct{})
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy})
		done := make(chan error)
		go func() { done <- drive(t.Context(), s, func() {}) }()
		synctest.Wait()
		if err := s.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, migrate.ErrCancelled) {
			t.Errorf("copy ended with %v", err)
		}
		if got, want := sc.called(), "begin prepare perform cancel finish(false)"; got != want {
			t.Errorf("calls\n got %s\nwant %s", got, want)
		}
	})
}

// TestEndedContextCancelsAtTheSource: a context that ends before the commit cancels the job and waits for Perform.
func TestEndedContextCancelsAtTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.perform = make(chan struct{})
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, migrate.ErrTimeLimit)
		defer cancel()
		if err := drive(ctx, s, func() {}); !errors.Is(err, migrate.ErrTimeLimit) {
			t.Errorf("ended with %v", err)
		}
		if got, want := sc.called(), "begin prepare perform cancel finish(false)"; got != want {
			t.Errorf("calls\n got %s\nwant %s", got, want)
		}
	})
}

func ptr[T any](v T) *T { return &v }

// TestPostcopyCommitsFirst: the commit is written before the switch is asked for, and a commit that cannot be written
// ends the migration with the guest on the source and no switch.
func TestPostcopyCommitsFirst(t *testing.T) {
	for _, c := range []struct {
		name   string
		commit error
		want   string
	}{
		{"committed", nil, "begin prepare perform commit postcopy switch finish confirm"},
		{"journal full", errBoom, "begin prepare perform commit cancel finish(false)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sc := newScript()
				sc.perform, sc.commitErr = make(chan struct{}), c.commit
				sc.stats = func() migrate.Stats {
					return migrate.Stats{Status: "active", Round: ptr(int64(1)), RAMRemaining: ptr(int64(1 << 20))}
				}
				s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPostcopy})
				if err := drive(t.Context(), s, func() {}); !errors.Is(err, c.commit) {
					t.Errorf("ended with %v", err)
				}
				if got := sc.called(); got != c.want {
					t.Errorf("calls\n got %s\nwant %s", got, c.want)
				}
			})
		})
	}
}

// TestPausedGuestGoesByPrecopy: a guest that its owner paused gives no RESUME to wait for.
func TestPausedGuestGoesByPrecopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.paused = true
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyHybrid})
		if err := drive(t.Context(), s, func() { _ = sc.call("COMMIT") }); err != nil {
			t.Fatal(err)
		}
		if got, want := sc.called(), "begin prepare perform COMMIT switch finish confirm"; got != want {
			t.Errorf("calls\n got %s\nwant %s", got, want)
		}
		if !strings.Contains(strings.Join(sc.told(), ";"), "paused") {
			t.Error("nobody was told")
		}
	})
}

// TestPostcopyFinishesEarly: where the destination can, it is told to run the guest before the switch is asked for, so
// that it does not need us for it.
func TestPostcopyFinishesEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.perform, sc.finish, sc.early = make(chan struct{}), make(chan struct{}), true
		sc.stats = func() migrate.Stats {
			return migrate.Stats{Status: "active", Round: ptr(int64(1)), RAMRemaining: ptr(int64(1 << 20))}
		}
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPostcopy})
		if err := errors.Join(s.Prepare(t.Context()), s.Copy(t.Context())); err != nil {
			t.Fatal(err)
		}
		sc.dstEvents <- migrate.GuestEvent{Kind: migrate.EventResume}
		if err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(sc.finish)
		if err := errors.Join(s.Page(t.Context()), s.Finish(t.Context())); err != nil {
			t.Fatal(err)
		}
		got := sc.called()
		if strings.Count(got, "finish") != 1 || !strings.Contains(got, "commit") || strings.Index(got, "finish") < strings.Index(got, "commit") {
			t.Errorf("calls: %s", got)
		}
	})
}

// TestResumeReturnsAtTheEvent: in post-copy Finish goes on until the last page; Resume does not wait for it.
func TestResumeReturnsAtTheEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.finish = make(chan struct{})
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPostcopy})
		if err := errors.Join(s.Prepare(t.Context()), s.Copy(t.Context())); err != nil {
			t.Fatal(err)
		}
		sc.dstEvents <- migrate.GuestEvent{Kind: migrate.EventResume}
		if err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(sc.finish)
		if err := errors.Join(s.Page(t.Context()), s.Finish(t.Context())); err != nil {
			t.Fatal(err)
		}
	})
}

// TestStalledPostcopyIsBrokenOffAndRecovered: no byte moves, so the source is told to let go; Recover runs the phases
// again once the destination has noticed.
func TestStalledPostcopyIsBrokenOffAndRecovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.finish = make(chan struct{})
		sc.stats = func() migrate.Stats {
			return migrate.Stats{Status: "postcopy-active", RAMSent: ptr(int64(7))}
		}
		sc.reconnects = true
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPostcopy})
		if err := errors.Join(s.Prepare(t.Context()), s.Copy(t.Context())); err != nil {
			t.Fatal(err)
		}
		sc.dstEvents <- migrate.GuestEvent{Kind: migrate.EventResume}
		if err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Page(t.Context()); !errors.Is(err, migrate.ErrPaused) {
			t.Fatalf("page ended with %v", err)
		}
		close(sc.finish) // the destination noticed
		if err := s.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Page(t.Context()), s.Finish(t.Context())); err != nil {
			t.Fatal(err)
		}
		if got, want := sc.called(), "begin prepare perform switch finish pause begin prepare perform switch finish confirm"; got != want {
			t.Errorf("calls\n got %s\nwant %s", got, want)
		}
	})
}

// TestStalledCopyGivesUp: a link that is cut before the switch ends the copy; the guest stays on the source.
func TestStalledCopyGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.perform = make(chan struct{})
		sc.stats = func() migrate.Stats { return migrate.Stats{Status: "active", RAMSent: ptr(int64(7))} }
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy})
		if err := drive(t.Context(), s, func() {}); !errors.Is(err, migrate.ErrLinkLost) {
			t.Errorf("ended with %v", err)
		}
		if got, want := sc.called(), "begin prepare perform cancel finish(false)"; got != want {
			t.Errorf("calls\n got %s\nwant %s", got, want)
		}
	})
}

// TestStalledLinkIsLeftToTCP: a destination that could not take a new link is waited for, and the wait is told.
func TestStalledLinkIsLeftToTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.finish = make(chan struct{})
		sent := make(chan int64, 1)
		sent <- 7
		sc.stats = func() migrate.Stats {
			n := <-sent
			sent <- n
			return migrate.Stats{Status: "postcopy-active", RAMSent: ptr(n)}
		}
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPostcopy})
		if err := errors.Join(s.Prepare(t.Context()), s.Copy(t.Context())); err != nil {
			t.Fatal(err)
		}
		sc.dstEvents <- migrate.GuestEvent{Kind: migrate.EventResume}
		if err := s.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		paged := make(chan error)
		go func() { paged <- s.Page(t.Context()) }()
		<-time.After(time.Second)
		<-sent
		sent <- 8
		<-time.After(10 * time.Millisecond)
		close(sc.finish)
		if err := <-paged; err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(sc.told(), "; "); !strings.Contains(notes, "paused:") || !strings.Contains(notes, "recovered:") {
			t.Errorf("notes: %s", notes)
		}
		if strings.Contains(sc.called(), "pause") {
			t.Error("the link was broken off")
		}
	})
}

// TestSilentSourceIsGivenUp: figures that cannot be read for long end the copy, too.
func TestSilentSourceIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.perform = make(chan struct{})
		sc.fail["stats"] = errBoom
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy})
		if err := drive(t.Context(), s, func() {}); !errors.Is(err, migrate.ErrLinkLost) {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestRefusedSwitchIsAskedForAgain: a source that is not ready for post-copy yet is asked again.
func TestRefusedSwitchIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		sc.perform = make(chan struct{})
		sc.fail["postcopy"] = errBoom
		sc.stats = func() migrate.Stats {
			sc.mu.Lock()
			defer sc.mu.Unlock()
			if strings.Count(strings.Join(sc.calls, " "), "postcopy") == 2 {
				delete(sc.fail, "postcopy")
			}
			return migrate.Stats{Status: "active", Round: ptr(int64(1)), RAMRemaining: ptr(int64(1 << 20))}
		}
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPostcopy})
		if err := drive(t.Context(), s, func() {}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(sc.called(), "postcopy"); n != 3 {
			t.Errorf("asked %d times: %s", n, sc.called())
		}
	})
}

// TestPeerToPeerCommitsBeforeItStarts and leaves everything else to the daemon.
func TestPeerToPeerCommitsBeforeItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := newScript()
		s := open(t, sc, migrate.Params{Strategy: migrate.StrategyPrecopy, PeerToPeer: true})
		if err := drive(t.Context(), s, func() {}); err != nil {
			t.Fatal(err)
		}
		if got, want := sc.called(), "commit peer"; got != want {
			t.Errorf("calls\n got %s\nwant %s", got, want)
		}
	})
}
