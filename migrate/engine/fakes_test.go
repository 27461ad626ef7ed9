package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is what both fake hosts obey: which call fails, what Perform and Finish wait for, and what was called.
type script struct {
	mu    sync.Mutex
	calls []string
	fail  map[string]error
	// perform and finish, if not nil, hold Perform and Finish back until closed.
	perform, finish chan struct{}
	stats           func() migrate.Stats
	dstEvents       chan migrate.GuestEvent
	notes           []string
	commitErr       error
	paused          bool // the guest stands still on the source
	reconnects      bool // the destination takes a new link in every state
	early           bool // the destination finishes before Perform has returned
}

func newScript() *script {
	return &script{fail: map[string]error{}, dstEvents: make(chan migrate.GuestEvent, 8), stats: func() migrate.Stats { return migrate.Stats{} }}
}

func (s *script) call(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, name)
	return s.fail[name]
}

func (s *script) called() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.calls, " ")
}

func (s *script) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notes)
}

func wait(ctx context.Context, c chan struct{}) error {
	if c == nil {
		return nil
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type fakeHost struct{ *script }

func (fakeHost) URI() string { return "fake://" }
func (fakeHost) Facts(context.Context) (migrate.HostFacts, error) {
	return migrate.HostFacts{}, nil
}
func (fakeHost) Domain(context.Context, string) (migrate.DomainFacts, error) {
	return migrate.DomainFacts{}, nil
}
func (fakeHost) State(context.Context, string) (migrate.GuestState, error) {
	return migrate.GuestState{}, nil
}
func (fakeHost) Close() error { return nil }

type fakeSource struct {
	fakeHost
	canceled chan struct{}
	once     *sync.Once
}

func (fakeSource) Watch(ctx context.Context, _ string) (<-chan migrate.GuestEvent, error) {
	c := make(chan migrate.GuestEvent)
	go func() { <-ctx.Done(); close(c) }()
	return c, nil
}
func (f fakeSource) Begin(context.Context, string, migrate.Params) (migrate.Offer, error) {
	return migrate.Offer{Name: "web", Paused: f.paused}, f.call("begin")
}
func (f fakeSource) Perform(ctx context.Context, _ migrate.Offer, _ migrate.Params, t migrate.Ticket) (migrate.Ticket, error) {
	return f.performing(ctx, t, f.call("perform"))
}

// performing is what Perform does once its call is noted.
func (f fakeSource) performing(ctx context.Context, t migrate.Ticket, err error) (migrate.Ticket, error) {
	if f.perform == nil || err != nil {
		return t, err
	}
	select {
	case <-f.perform:
		return t, nil
	case <-f.canceled:
		return t, errors.New("operation aborted")
	case <-ctx.Done():
		return t, ctx.Err()
	}
}
func (f fakeSource) Switch(context.Context, migrate.Offer, migrate.Params) error {
	return f.call("switch")
}
func (f fakeSource) Confirm(_ context.Context, _ migrate.Offer, _ migrate.Params, _ migrate.Ticket, landed bool) error {
	if landed {
		return f.call("confirm")
	}
	return f.call("confirm(false)")
}
func (f fakeSource) Stats(context.Context, string) (migrate.Stats, error) {
	f.mu.Lock()
	err := f.fail["stats"]
	f.mu.Unlock()
	return f.stats(), err
}
func (f fakeSource) Tune(context.Context, string, migrate.Tuning) error { return f.call("tune") }
func (f fakeSource) StartPostcopy(context.Context, string) error {
	err := f.call("postcopy")
	if err == nil && f.perform != nil {
		f.once.Do(func() { close(f.perform) })
	}
	return err
}
func (f fakeSource) Cancel(context.Context, string) error {
	f.once.Do(func() { close(f.canceled) })
	return f.call("cancel")
}
func (f fakeSource) Pause(context.Context, string) error { return f.call("pause") }
func (f fakeSource) MigratePeer(context.Context, string, migrate.Params, string) error {
	return f.call("peer")
}

type fakeDest struct{ fakeHost }

func (f fakeDest) TakesNewLink() bool                { return f.reconnects }
func (f fakeDest) FinishesEarly(migrate.Params) bool { return f.early }

func (f fakeDest) Watch(ctx context.Context, _ string) (<-chan migrate.GuestEvent, error) {
	c := make(chan migrate.GuestEvent)
	go func() {
		defer close(c)
		for {
			select {
			case ev := <-f.dstEvents:
				c <- ev
			case <-ctx.Done():
				return
			}
		}
	}()
	return c, nil
}
func (f fakeDest) Prepare(context.Context, migrate.Offer, migrate.Params) (migrate.Ticket, error) {
	return migrate.Ticket{URI: "tcp:b:1"}, f.call("prepare")
}
func (f fakeDest) Finish(ctx context.Context, _ migrate.Offer, _ migrate.Params, _ migrate.Ticket, landed bool) error {
	if !landed {
		return f.call("finish(false)")
	}
	if err := f.call("finish"); err != nil {
		return err
	}
	return wait(ctx, f.finish)
}

// fakeSink keeps the notes.
type fakeSink struct{ *script }

func (fakeSink) Stats(migrate.Stats)                    {}
func (fakeSink) Guest(migrate.Side, migrate.GuestEvent) {}
func (f fakeSink) Note(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes = append(f.notes, text)
}

// open makes a session over the script; it is closed with the test.
func open(t *testing.T, sc *script, p migrate.Params) migrate.Session {
	t.Helper()
	job := migrate.Job{ID: "1", Domain: "web", Params: p, Sink: fakeSink{sc},
		Source: fakeSource{fakeHost{sc}, make(chan struct{}), new(sync.Once)}, Dest: fakeDest{fakeHost{sc}},
		Commit: func(context.Context) error { _ = sc.call("commit"); return sc.commitErr }}
	n := &Native{Poll: time.Millisecond, StallAfter: 20 * time.Millisecond, Undo: 2 * time.Second}
	s, err := n.Open(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
