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

// begun is what every migration of the nbd engine begins with, and taken what the undoing of one ends with that was begun.
const (
	begun = "begin prepare open-dest open-source caps(true) "
	ended = " switch release page harvest close-dest close-source confirm"
	taken = " close-dest close-source finish(false)"
)

// without leaves out what runs in a goroutine of its own, and is looked at apart.
func without(calls, name string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(" "+calls+" ", " "+name+" ", " ")), " ")
}

// TestNBDCallsInOrder: which calls reach hosts and agents, in each strategy. The commit comes before the guest is stopped, what
// is missing is made so before the destination may run, and the source is released when nothing is missing. A guest that was paused before
// moves by pre-copy: nobody would ask for what is missing.
func TestNBDCallsInOrder(t *testing.T) {
	for _, c := range []struct {
		name, want string
		p          migrate.Params
		paused     bool
	}{
		{"hybrid", begun + "copy commit perform stream-up pass harvest punch" + ended, migrate.Params{Strategy: migrate.StrategyHybrid}, false},
		{"precopy", begun + "copy commit perform stream-up pass harvest fetch punch" + ended, migrate.Params{Strategy: migrate.StrategyPrecopy}, false},
		{"postcopy", begun + "copy commit perform stream-up pass harvest punch" + ended, migrate.Params{Strategy: migrate.StrategyPostcopy}, false},
		{"paused", begun + "copy commit perform stream-up harvest fetch punch" + ended, migrate.Params{Strategy: migrate.StrategyHybrid}, true},
		{"disks", begun + "perform copy stream-up commit stream-up pass harvest punch" + ended,
			migrate.Params{Strategy: migrate.StrategyHybrid, CopyStorage: migrate.CopyAll}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.script.paused = c.paused
				if !c.paused {
					wrote := 0
					w.writes = func(w *world) {
						if wrote++; wrote < 3 {
							w.write(1, 2, 3)
						}
					}
				}
				s := w.session(c.p)
				lacked := -1
				s.job.Reached = func(_ context.Context, point string) {
					if point == "after-punch" {
						lacked = w.missing.Count()
					}
				}
				if err := drive(t.Context(), s, func() {}); err != nil {
					t.Fatal(err)
				}
				if c.name == "precopy" && lacked != 0 || c.name == "postcopy" && lacked != len(w.pages) {
					t.Errorf("%d pages are missing when it runs", lacked)
				}
				calls := w.called()
				if c.p.CopyStorage != migrate.CopyNone { // its goroutine begins among the rounds
					calls = begun + "perform copy " + strings.TrimLeft(strings.ReplaceAll(strings.ReplaceAll(strings.TrimPrefix(calls, begun), "perform ", ""), "copy ", ""), " ")
				}
				if got := without(calls, "finish"); got != c.want {
					t.Errorf("calls\n got %s\nwant %s", got, c.want)
				}
				if i, j := strings.Index(calls, " finish "), strings.Index(calls, " release "); i < j {
					t.Errorf("told to run before its state could come: %s", calls)
				}
				w.whole()
			})
		})
	}
}

// TestNBDRoundsGoOnAfterDisks: what the rounds left behind before disks were waited for is not forgotten by those after it, in which
// the guest has not written it again.
func TestNBDRoundsGoOnAfterDisks(t *testing.T) {
	for _, late := range []time.Duration{againAfter / 2, 2 * againAfter} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.late, w.took = late, time.Millisecond
			w.writes = func(w *world) {
				if w.late > 0 { // the first rounds
					w.write(1, 2, 3)
				}
			}
			s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid, CopyStorage: migrate.CopyAll})
			if err := drive(t.Context(), s, func() {}); err != nil {
				t.Fatal(err)
			}
			w.whole()
		})
	}
}

// TestNBDLandsEarly: a destination that can is told to run the guest once that stands still and the commit is written, so that
// our death in the pause loses nothing; with disks it is told when they are there, which is before the gate opens as well.
func TestNBDLandsEarly(t *testing.T) {
	for _, disks := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.early, w.finish = true, make(chan struct{})
			w.gate = synctest.Wait // who was sent to tell it has told it
			p := migrate.Params{Strategy: migrate.StrategyHybrid}
			if disks {
				p.CopyStorage = migrate.CopyAll
			}
			s := w.session(p)
			var seen string
			s.job.Reached = func(_ context.Context, point string) {
				if point == "after-punch" {
					synctest.Wait()
					seen = w.called()
				}
				if point == "after-gate" {
					close(w.finish)
				}
			}
			if err := drive(t.Context(), s, func() {}); err != nil {
				t.Fatal(err)
			}
			if early := strings.Contains(seen, " finish"); early == disks {
				t.Errorf("disks %t: told to run before its RAM was switched: %t; %s", disks, early, seen)
			}
			if calls := w.called(); strings.Index(calls, " finish") > strings.Index(calls, " release") {
				t.Errorf("disks %t: told to run when the gate was open: %s", disks, calls)
			}
			w.whole()
		})
	}
}

// TestNBDFailures: what fails before the gate is opened is taken back, the source runs on, and QEMU sends its RAM again; what
// fails from then on is taken back by nobody.
func TestNBDFailures(t *testing.T) {
	stopped := begun + "copy commit perform stream-up "
	for _, c := range []struct{ fail, want string }{
		{"begin", "begin"},
		{"prepare", "begin prepare confirm(false)"},
		{"open-dest", "begin prepare open-dest finish(false) confirm(false)"},
		{"open-source", "begin prepare open-dest open-source close-dest finish(false) confirm(false)"},
		{"caps(true)", begun + "close-dest close-source finish(false) confirm(false)"},
		{"copy", begun + "copy close-dest close-source finish(false) confirm(false) caps(false)"},
		{"commit", begun + "copy commit close-dest close-source finish(false) confirm(false) caps(false)"},
		{"perform", begun + "copy commit perform stream-up pass close-dest cancel" + taken + " caps(false)"},
		{"stream-up", stopped + "close-dest cancel" + taken + " caps(false)"},
		{"pass", stopped + "pass close-dest cancel" + taken + " caps(false)"},
		{"still", stopped + "pass close-dest cancel" + taken + " caps(false)"},
		{"punch", stopped + "pass harvest punch close-dest cancel" + taken + " caps(false)"},
		{"fetch", stopped + "pass harvest fetch close-dest cancel" + taken + " caps(false)"},
		{"harvest", stopped + "pass harvest close-dest cancel" + taken + " caps(false)"},
		{"release", stopped + "pass harvest fetch punch switch release"},
		{"switch", stopped + "pass harvest fetch punch switch close-dest cancel" + taken + " confirm(false) caps(false)"},
		{"page", stopped + "pass harvest fetch punch switch release page"},
		{"close-dest", stopped + "pass harvest fetch punch switch release page harvest close-dest"},
		{"confirm", stopped + "pass harvest fetch punch" + ended},
	} {
		t.Run(c.fail, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				if w.fail[c.fail] = errBoom; c.fail == "commit" {
					w.commitErr = errBoom
				}
				w.never = c.fail == "still"
				w.writes = func(w *world) { w.writes = nil; w.write(5) }
				p := migrate.Params{Strategy: migrate.StrategyPrecopy}
				if c.fail == "punch" {
					p.Strategy = migrate.StrategyHybrid
				}
				s := w.session(p)
				err := steps(t.Context(), s, !strings.Contains(c.want, " release"))
				if err == nil || c.fail != "still" && !errors.Is(err, errBoom) {
					t.Fatalf("%v", err)
				}
				if got := without(w.called(), "finish"); got != c.want {
					t.Errorf("calls\n got %s\nwant %s", got, c.want)
				}
				if strings.Contains(c.want, "page") && c.fail == "page" && !errors.Is(err, migrate.ErrPaused) {
					t.Errorf("the guest runs at the destination, and this is %v", err)
				}
			})
		})
	}
}

// steps goes up to the first failure, and undoes it if it is to be.
func steps(ctx context.Context, s migrate.Session, undo bool) error {
	for _, step := range []func(context.Context) error{s.Prepare, s.Copy, s.Resume, s.Page, s.Finish} {
		if err := step(ctx); err != nil {
			if undo {
				err = errors.Join(err, s.Undo(context.WithoutCancel(ctx)))
			}
			return err
		}
	}
	return nil
}

// TestNBDHarvestLost: in hybrid a last harvest that fails makes all of the RAM missing, and nothing is lost.
func TestNBDHarvestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fail["harvest"] = errBoom
		w.writes = func(w *world) { w.write(5) }
		s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid})
		lacked := 0
		s.job.Reached = func(_ context.Context, point string) {
			if point == "after-punch" {
				lacked = w.missing.Count()
			}
		}
		if err := drive(t.Context(), s, func() {}); err != nil {
			t.Fatal(err)
		}
		if lacked != len(w.pages) {
			t.Errorf("%d pages were made missing, want all", lacked)
		}
		w.whole()
	})
}

// TestNBDCancelInRounds: a cancel ends the fetch that is under way; nothing was committed, and all is taken back.
func TestNBDCancelInRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.park = make(chan struct{})
		s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid})
		done := make(chan error)
		go func() { done <- drive(t.Context(), s, func() {}) }()
		<-w.park
		if err := s.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, migrate.ErrCancelled) {
			t.Errorf("ended with %v", err)
		}
		all := w.called() // the source is told to cancel while all else is taken back already
		if got, want := without(all, "cancel"), begun+"copy close-dest close-source finish(false) confirm(false) caps(false)"; got != want || got == all {
			t.Errorf("calls\n got %s\nwant %s and cancel", all, want)
		}
	})
}

// TestNBDPrecopyTimeout: a guest that writes faster than it is fetched goes on until the user's time-out; then the rest is
// fetched while it stands still. Without a time-out the caller's limit ends it, and it runs on at the source.
func TestNBDPrecopyTimeout(t *testing.T) {
	all := make([]int, 64)
	for i := range all {
		all[i] = i
	}
	for _, limit := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.took, w.writes = time.Second, func(w *world) { w.write(all...) }
			ctx, stop := context.WithTimeoutCause(t.Context(), 10*time.Minute, migrate.ErrTimeLimit)
			defer stop()
			begun := time.Now()
			err := drive(ctx, w.session(migrate.Params{Strategy: migrate.StrategyPrecopy, Timeout: limit}), func() {})
			if limit == 0 {
				if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, migrate.ErrTimeLimit) || strings.Contains(w.called(), "commit") {
					t.Errorf("without a time-out: %v, %s", err, w.called())
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took < limit || took > limit+10*time.Second {
				t.Errorf("with a time-out of %v it took %v", limit, took)
			}
			w.whole()
		})
	}
}

// TestNBDRecover: agents that are still there go on as they are; others are made anew and told to take up what they find; a
// new coordinator, whose drivers have no job, has the source released by its custodian.
func TestNBDRecover(t *testing.T) {
	lose := func(t *testing.T) (*world, *nbdSession) {
		w := newWorld(t)
		w.writes = func(w *world) { w.writes = nil; w.write(5) }
		s := w.session(migrate.Params{Strategy: migrate.StrategyPostcopy})
		w.fail["page"] = migrate.ErrPaused
		if err := steps(t.Context(), s, false); !errors.Is(err, migrate.ErrPaused) {
			t.Fatalf("%v", err)
		}
		w.mu.Lock()
		w.calls, w.fail = nil, map[string]error{}
		w.mu.Unlock()
		return w, s
	}
	for _, c := range []struct {
		name, want string
		dead, anew bool
	}{
		{"agents are there", "page harvest close-dest close-source confirm", false, false},
		{"agents are gone", "close-source open-dest open-source page close-dest close-source confirm", true, false},
		{"coordinator is new", "open-dest open-source page close-dest close-source dest-caps(false) release-source", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := lose(t)
				w.dead = c.dead
				if c.anew {
					s = w.session(migrate.Params{Strategy: migrate.StrategyPostcopy})
				}
				for _, step := range []func(context.Context) error{s.Recover, s.Resume, s.Page, s.Finish} {
					if err := step(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if got := w.called(); got != c.want {
					t.Errorf("calls\n got %s\nwant %s", got, c.want)
				}
				if anew := c.dead || c.anew; w.specs.src.Resume != anew || w.specs.dst.Resume != anew {
					t.Errorf("the agents were told to take it up: %t, %t", w.specs.src.Resume, w.specs.dst.Resume)
				}
				w.whole()
			})
		})
	}
}

// TestNBDLinkAddress: where the source's agent connects to, and the destination's listens.
func TestNBDLinkAddress(t *testing.T) {
	pidfile := func(string) string { return "/run/pid" }
	for _, c := range []struct {
		name         string
		p            migrate.Params
		dst          migrate.Place
		to, listenAt string
	}{
		{"the user's URI", migrate.Params{MigrateURI: "tcp://10.0.0.7"}, migrate.Place{Name: "b"}, "10.0.0.7:49152", ":0"},
		{"the user's address", migrate.Params{ListenAddress: "10.0.0.8"}, migrate.Place{Name: "b"}, "10.0.0.8:49152", "10.0.0.8:0"},
		{"any address is none", migrate.Params{ListenAddress: "0.0.0.0"}, migrate.Place{Name: "b"}, "b:49152", "0.0.0.0:0"},
		{"two QEMUs here", migrate.Params{}, migrate.Place{Local: true, PID: 1}, "127.0.0.1:49152", "127.0.0.1:0"},
		{"the connection's name", migrate.Params{}, migrate.Place{Name: "b", SSH: "b"}, "b:49152", ":0"},
		{"the host's own name", migrate.Params{}, migrate.Place{Local: true, SocketDir: "/run/b", PIDFile: pidfile}, "b.example.org:49152", ":0"},
		{"IPv6", migrate.Params{MigrateURI: "tcp://[fd00::7]"}, migrate.Place{Name: "b"}, "[fd00::7]:49152", ":0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.places[1] = c.dst
			c.p.Strategy = migrate.StrategyHybrid
			if c.dst.PIDFile != nil {
				c.p.DestinationXML = "<domain type='kvm'><name>web</name></domain>"
			}
			s := w.session(c.p)
			if err := s.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := w.specs.src.Link.Addr; got != c.to {
				t.Errorf("connects to %s, want %s", got, c.to)
			}
			if got := w.specs.dst.Link.Addr; got != c.listenAt {
				t.Errorf("listens at %s, want %s", got, c.listenAt)
			}
			if w.specs.src.Link.Token == "" || w.specs.src.Link.Token != w.specs.dst.Link.Token || len(w.specs.src.Link.Peer) == 0 {
				t.Errorf("the link is not protected: %+v", w.specs.src.Link)
			}
		})
	}
}

// Pages of 1 GiB would be fetched as a whole, dozens at once: such a guest is refused before anything is done.
func TestNBDRefusesHugestPages(t *testing.T) {
	w := newWorld(t)
	w.pageSize = "1 GiB"
	s := w.session(migrate.Params{Strategy: migrate.StrategyHybrid})
	err := s.Prepare(t.Context())
	if !errors.Is(err, migrate.ErrNotSupported) || !strings.Contains(err.Error(), "1024 MiB") || migrate.FixOf(err) == "" || w.called() != "" {
		t.Errorf("%v; %s", err, w.called())
	}
}
