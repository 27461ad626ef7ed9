package migratetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// World is two hosts, the guest between them, and what was done to it.
type World struct {
	// Source and Dest are the hosts at fake:///a and fake:///b; Journal keeps its entries in memory.
	Source, Dest *Host
	Journal      *Journal

	mu       sync.Mutex
	domain   string
	hook     func(*Call) error
	calls    []string
	count    map[migrate.Step]int
	commits  int
	faults   []error
	ran      bool // the destination has run the guest
	sessions int
	agents   bool // RAM is left behind without the hypervisors' knowing
	missing  bool // some of it is not at the destination
}

// Agents makes the world's engine the nbd one. Its source stands still after the copy and is in no post-copy; its
// destination plainly runs the guest, while RAM is missing until a Page succeeds.
func (w *World) Agents() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agents, w.missing = true, true
}

// NewWorld has the guest running on the source and nothing at the destination.
func NewWorld(domain string) *World {
	w := &World{domain: domain, count: map[migrate.Step]int{}}
	w.Source = &Host{w: w, side: migrate.SideSource, uri: "fake:///a", state: &migrate.GuestState{Run: migrate.RunRunning}}
	w.Dest = &Host{w: w, side: migrate.SideDestination, uri: "fake:///b"}
	w.Source.main, w.Dest.main = w.Source, w.Dest
	w.Journal = NewJournal()
	w.Journal.world = w
	return w
}

// Call is one step of a session, as a hook sees it before it is done.
type Call struct {
	Context context.Context
	Step    migrate.Step
	// N counts the calls of this step from 1.
	N       int
	Session *Session
}

// Do carries the step out as it would be without a hook; a hook calls it to do the step and then lose the answer.
func (c *Call) Do() error { return c.Session.do(c.Context, c.Step) }

// ErrGoOn is what a hook returns to let the step be done as usual; so does nil.
var ErrGoOn = errors.New("go on")

// ErrDone is what a hook returns when it did the step itself and the step is to succeed.
var ErrDone = errors.New("done")

// Hook sets what is called before each step. Its error is the step's, except ErrGoOn, ErrDone and nil.
func (w *World) Hook(f func(*Call) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = f
}

// Calls lists the steps and repairs in their order.
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.calls...)
}

// Sessions counts the sessions that were opened.
func (w *World) Sessions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sessions
}

// Err tells what was broken: two sides at once, a source resumed behind the destination's back, a run without a commit.
func (w *World) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.faults...)
}

// Request is a migration of the guest with the world's engine.
func (w *World) Request(p migrate.Params) migrate.Request {
	return migrate.Request{ID: "m-test", Domain: w.domain, Source: w.Source, Dest: w.Dest, Engine: w.Engine(), Params: p}
}

// Dial gives a new connection to one of the hosts; it fails while the host is cut off.
func (w *World) Dial(_ context.Context, uri string) (migrate.Host, error) {
	for _, h := range []*Host{w.Source, w.Dest} {
		if h.uri == uri {
			return h.dial()
		}
	}
	return nil, fmt.Errorf("dial %s: no such host: %w", uri, migrate.ErrLinkLost)
}

// EngineByName is a Config.Engine.
func (w *World) EngineByName(migrate.EngineName) (migrate.Engine, error) { return w.Engine(), nil }

// Engine is the world's engine.
func (w *World) Engine() migrate.Engine { return engine{w} }

// did notes a call; the caller holds mu.
func (w *World) did(what string) { w.calls = append(w.calls, what) }

// set changes a guest's state and looks for trouble; the caller holds mu.
func (w *World) set(h *Host, run migrate.RunState) {
	if run == "" {
		h.state = nil
	} else {
		h.state = &migrate.GuestState{Run: run}
	}
	if runs(w.Source) && runs(w.Dest) {
		w.faults = append(w.faults, errors.New("both sides run the guest"))
	}
	if h == w.Source && run == "" && w.ran && w.missing {
		w.faults = append(w.faults, errors.New("the source was released while the destination lacks RAM"))
	}
	if h == w.Dest && runs(h) {
		if w.commits == 0 {
			w.faults = append(w.faults, errors.New("the destination runs the guest without a commit"))
		}
		w.ran = true
	}
	if h == w.Source && runs(h) && w.ran {
		w.faults = append(w.faults, errors.New("the source was resumed after the destination ran the guest"))
	}
}

func runs(h *Host) bool {
	if h.state == nil {
		return false
	}
	switch h.state.Run {
	case migrate.RunRunning:
		return true
	case migrate.RunPostcopy, migrate.RunPostcopyPaused:
		return h.side == migrate.SideDestination
	}
	return false
}

func (w *World) emit(sink migrate.Sink, s migrate.Side, k migrate.EventKind, round int) {
	now := time.Now()
	sink.Guest(s, migrate.GuestEvent{Kind: k, At: now, Seen: now, Round: round})
}

// Killed is the world as the process's death at this moment would leave it: the same hosts and journal records, with
// nobody alive. The old world goes on for those who still use it.
func (w *World) Killed() *World {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := NewWorld(w.domain)
	n.Source.state, n.Dest.state = w.Source.state, w.Dest.state
	n.ran, n.commits, n.agents, n.missing = w.ran, w.commits, w.agents, w.missing
	n.Journal.takeOver(w.Journal)
	return n
}

// Commit tells the world that a commit was written by other means than its own journal.
func (w *World) Commit() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commits++
}
