package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
	"github.com/vmmigrate/vmmigrate/migrate/qemuhost"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest/pair"
)

const mib = 1 << 20

// sink keeps what a session tells.
type sink struct {
	mu    sync.Mutex
	last  migrate.Stats
	ours  migrate.Stats // the last that agents gave
	stop  time.Time
	pause time.Duration
	notes []string
}

func (s *sink) Stats(v migrate.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last = v; v.Reused != nil {
		s.ours = v
	}
}

func (s *sink) Guest(side migrate.Side, e migrate.GuestEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if side == migrate.SideSource && e.Kind == migrate.EventStop {
		s.stop = e.At
	}
	if side == migrate.SideDestination && e.Kind == migrate.EventResume && !s.stop.IsZero() {
		s.pause = e.At.Sub(s.stop)
	}
}

func (s *sink) Note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, text)
}

// workers gives agents that work in this process.
func workers(t *testing.T, o worker.Options) func(context.Context, migrate.Place) (agent.Agent, error) {
	o.Version, o.Linger, o.Log = "test", time.Second, slog.New(slog.NewTextHandler(t.Output(), nil))
	return func(context.Context, migrate.Place) (agent.Agent, error) { return worker.New(o) }
}

// move is one migration of a bare guest under way.
type move struct {
	*pair.Pair
	sess   migrate.Session
	tell   *sink
	commit bool
	agents sync.Map // by the number of their QEMU's process
}

// begin opens a migration of a guest that writes all the time.
func begin(t *testing.T, o pair.Options, p migrate.Params, w worker.Options) *move {
	t.Helper()
	need.QEMU(t)
	need.UFFD(t)
	if o.Accel == "kvm" {
		need.KVM(t)
	}
	m := &move{Pair: pair.New(t, o), tell: &sink{}}
	connect := workers(t, w)
	e := &engine.NBD{Connect: func(ctx context.Context, p migrate.Place) (agent.Agent, error) {
		a, err := connect(ctx, p)
		m.agents.Store(p.PID, a)
		return a, err
	}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	var err error
	p.DestinationName = "dest" // as a pair calls it
	m.sess, err = e.Open(t.Context(), migrate.Job{ID: "m-test", Domain: "source", Source: driver(t, m.Source), Dest: driver(t, m.Dest), Params: p,
		Commit: func(context.Context) error { m.commit = true; return nil }, Sink: m.tell})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.sess.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func driver(t *testing.T, m *pair.Machine) migrate.Host {
	t.Helper()
	h, err := qemuhost.Dial(t.Context(), qemuhost.Scheme+"://"+m.Socket, qemuhost.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// steps runs the session's steps up to the first that fails, and says which that was.
func (m *move) steps(ctx context.Context) (string, error) {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"prepare", m.sess.Prepare}, {"copy", m.sess.Copy}, {"resume", m.sess.Resume}, {"page", m.sess.Page}, {"finish", m.sess.Finish}} {
		if err := step.do(ctx); err != nil {
			return step.name, err
		}
	}
	return "", nil
}

// goesOn lets the guest write all of its memory once more, stops it and looks at every page.
func goesOn(t *testing.T, m *pair.Machine) bareguest.State {
	t.Helper()
	before, err := bareguest.ReadState(m.RAM(t))
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for now := before; now.Pass < before.Pass+2; now, err = bareguest.ReadState(m.RAM(t)) {
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("the guest stands at pass %d: %s", now.Pass, m.Status(t))
		}
	}
	m.Do(t, "stop", nil, nil)
	return m.Check(t)
}

// TestT3NBDMovesABareGuest moves guests of every kind by every strategy, and looks at every page of them.
func TestT3NBDMovesABareGuest(t *testing.T) {
	kinds := map[string]pair.Options{
		"plain":                    {Memory: 64 * mib},
		"two blocks, two CPUs":     {Memory: 32 * mib, Blocks: 2, CPUs: 2},
		"huge pages":               {Memory: 32 * mib, HugePages: true},
		"huge pages in two blocks": {Memory: 32 * mib, HugePages: true, Blocks: 2},
		"kvm":                      {Memory: 32 * mib, Accel: "kvm"},
	}
	for name, o := range kinds {
		for _, strategy := range []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyPostcopy, migrate.StrategyHybrid} {
			t.Run(fmt.Sprintf("%s by %s", name, strategy), func(t *testing.T) {
				o, p := o, migrate.Params{Strategy: strategy}
				if strategy == migrate.StrategyPrecopy {
					o.Guest.Rate = 10000         // otherwise it writes faster than anything can follow
					p.Timeout = 10 * time.Second // and on a busy machine it still may
				}
				m := begin(t, o, p, worker.Options{})
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				if step, err := m.steps(ctx); err != nil {
					t.Fatalf("%s: %v (%v)", step, err, m.tell.notes)
				}
				if s := m.Dest.Status(t); s != "running" {
					t.Errorf("the destination is %s", s)
				}
				st := goesOn(t, m.Dest)
				m.tell.mu.Lock()
				defer m.tell.mu.Unlock()
				t.Logf("pause %v, pass %d, %v", m.tell.pause, st.Pass, m.tell.notes)
			})
		}
	}
}

// What the destination's file held before the guest came, where the guest has never written, is not the guest's when it runs.
func TestT3NBDLeavesNothingOfWhatWasThere(t *testing.T) {
	for _, strategy := range []migrate.Strategy{migrate.StrategyPrecopy, migrate.StrategyPostcopy, migrate.StrategyHybrid} {
		t.Run(string(strategy), func(t *testing.T) {
			o := pair.Options{Memory: 16 * mib, Guest: bareguest.Config{Start: mib, End: 4 * mib, Rate: 2000}}
			m := begin(t, o, migrate.Params{Strategy: strategy}, worker.Options{})
			m.Dest.Put(t, 0, 2*mib, bytes.Repeat([]byte("old"), mib))
			m.Dest.Put(t, 0, 8*mib, bytes.Repeat([]byte("old"), mib))
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if step, err := m.steps(ctx); err != nil {
				t.Fatalf("%s: %v (%v)", step, err, m.tell.notes)
			}
			goesOn(t, m.Dest)
			found := make([]byte, 4*mib)
			if _, err := m.Dest.RAM(t).ReadAt(found, 8*mib); err != nil {
				t.Fatal(err)
			}
			if at := bytes.Index(found, []byte("old")); at >= 0 {
				t.Errorf("what was there before is there still, from %d on", 8*mib+at)
			}
		})
	}
}

// userfaults counts the userfaultfds that a process has open.
func userfaults(t *testing.T, pid int) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.Contains(to, "userfaultfd") {
			n++
		}
	}
	return n
}
