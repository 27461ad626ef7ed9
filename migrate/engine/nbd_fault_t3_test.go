package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest/pair"
)

var errSpoilt = errors.New("spoilt on purpose")

// spoilAt fails the n-th passing of a point.
func spoilAt(point string, n int) func(context.Context, string) error {
	var mu sync.Mutex
	seen := 0
	return func(_ context.Context, at string) error {
		mu.Lock()
		defer mu.Unlock()
		if at == point {
			if seen++; seen == n {
				return errSpoilt
			}
		}
		return nil
	}
}

// Whatever fails before the destination is let go on, the guest runs on at the source, whole, and can be moved the next time.
func TestT3NBDFailsBackToTheSource(t *testing.T) {
	cases := map[string]struct {
		point string
		n     int
	}{
		"the fetch":        {"fetch", 1},
		"the switch":       {"switch", 1},
		"before the gates": {"release", 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := begin(t, pair.Options{Memory: 16 * mib}, migrate.Params{Strategy: migrate.StrategyHybrid}, worker.Options{Spoil: spoilAt(c.point, c.n)})
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if step, err := m.steps(ctx); step != "copy" || !errors.Is(err, errSpoilt) {
				t.Fatalf("%s: %v, want copy to be spoilt", step, err)
			}
			if err := m.sess.Undo(ctx); err != nil {
				t.Fatal(err)
			}
			if s := m.Source.Status(t); s != "running" {
				t.Fatalf("the source is %s", s)
			}
			goesOn(t, m.Source)
			clean(t, m.Source)
		})
	}
}

// clean looks that a migration that was taken back left nothing behind in QEMU.
func clean(t *testing.T, m *pair.Machine) {
	t.Helper()
	var caps []struct {
		Capability string
		State      bool
	}
	m.Do(t, "query-migrate-capabilities", nil, &caps)
	for _, c := range caps {
		if c.Capability == "x-ignore-shared" && c.State {
			t.Error("the source's QEMU still leaves its RAM out")
		}
	}
	if n := userfaults(t, m.PID); n != 0 {
		t.Errorf("%d userfaultfds are left in the source's QEMU", n)
	}
}

// A harvest that fails makes every page dirty, and costs no page.
func TestT3NBDUnknownPagesAreDirty(t *testing.T) {
	for n := 1; n <= 4; n++ {
		t.Run(fmt.Sprintf("harvest %d", n), func(t *testing.T) {
			m := begin(t, pair.Options{Memory: 16 * mib}, migrate.Params{Strategy: migrate.StrategyHybrid}, worker.Options{Spoil: spoilAt("harvest", n)})
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if step, err := m.steps(ctx); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			goesOn(t, m.Dest)
		})
	}
}

// A destination that is killed before the switch costs nothing.
func TestT3NBDDestinationDiesInTheCopy(t *testing.T) {
	var m *move
	kill := func(_ context.Context, at string) error {
		if at == "switch" {
			m.Dest.Kill()
		}
		return nil
	}
	m = begin(t, pair.Options{Memory: 16 * mib}, migrate.Params{Strategy: migrate.StrategyHybrid}, worker.Options{Spoil: kill})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	step, err := m.steps(ctx)
	if step != "copy" || err == nil {
		t.Fatalf("%s: %v", step, err)
	}
	t.Log(err)
	if err := m.sess.Undo(ctx); err != nil {
		t.Log(err) // the destination cannot be asked any more
	}
	if s := m.Source.Status(t); s != "running" {
		t.Fatalf("the source is %s after %v", s, err)
	}
	goesOn(t, m.Source)
}

// cutter makes data connections that can all be cut at once, and refuses new ones until it is mended.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn
	cut   bool
}

func (c *cutter) dial(ctx context.Context, addr string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil, errors.New("the link is cut")
	}
	n, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		c.conns = append(c.conns, n)
	}
	return n, err
}

func (c *cutter) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	for _, n := range c.conns {
		_ = n.Close()
	}
	c.conns = nil
}

// A link that is cut while pages are missing makes the guest wait, and it goes on when the link is back.
func TestT3NBDLinkCutWhilePaging(t *testing.T) {
	c := &cutter{}
	var once sync.Once
	cut := func(_ context.Context, at string) error {
		if at == "page" {
			once.Do(func() { c.set(true) })
		}
		return nil
	}
	m := begin(t, pair.Options{Memory: 64 * mib}, migrate.Params{Strategy: migrate.StrategyPostcopy}, worker.Options{Dial: c.dial, Spoil: cut})
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	step, err := m.steps(ctx)
	if step != "page" || !errors.Is(err, migrate.ErrPaused) {
		t.Fatalf("%s: %v, want a paused paging", step, err)
	}
	c.set(false)
	if err := m.sess.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	for err = m.sess.Page(ctx); errors.Is(err, migrate.ErrPaused); err = m.sess.Page(ctx) {
		t.Log(err) // the connections come back one after the other
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := m.sess.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	goesOn(t, m.Dest)
}

// A link that is lost when the destination may run makes no source run: it has completed its migration before, and waits for a
// decision. Whether the destination got all of the stream is for whoever asks both.
func TestT3NBDTheSourceDoesNotGoBackByItself(t *testing.T) {
	c := &cutter{}
	cut := func(_ context.Context, at string) error {
		if at == "released" {
			c.set(true)
		}
		return nil
	}
	m := begin(t, pair.Options{Memory: 16 * mib}, migrate.Params{Strategy: migrate.StrategyHybrid}, worker.Options{Dial: c.dial, Spoil: cut})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	step, err := m.steps(ctx)
	t.Logf("%s: %v", step, err)
	if s := m.Source.Status(t); s != "postmigrate" {
		t.Errorf("the source is %s", s)
	}
	c.set(false)
	if step != "page" { // it did not get all of the stream
		m.Dest.Kill()
		return
	}
	if err := m.sess.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	for err = m.sess.Page(ctx); errors.Is(err, migrate.ErrPaused); err = m.sess.Page(ctx) {
		t.Log(err) // the connections come back one after the other
	}
	if err != nil {
		t.Fatal(err)
	}
	goesOn(t, m.Dest)
}

// A destination's QEMU that ends while pages are missing needs none any more: that is no pause to recover from.
func TestT3NBDDestinationDiesWhilePaging(t *testing.T) {
	var m *move
	kill := func(_ context.Context, at string) error {
		if at == "page" {
			m.Dest.Kill()
		}
		return nil
	}
	m = begin(t, pair.Options{Memory: 64 * mib}, migrate.Params{Strategy: migrate.StrategyPostcopy}, worker.Options{Spoil: kill})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	step, err := m.steps(ctx)
	t.Logf("%s: %v", step, err)
	if errors.Is(err, migrate.ErrPaused) {
		if err := m.sess.Recover(ctx); err != nil {
			t.Fatal(err)
		}
		err = m.sess.Page(ctx)
	}
	if err == nil || errors.Is(err, migrate.ErrPaused) {
		t.Fatalf("a guest that is gone: %v", err)
	}
}

// An agent that nobody directs any more is all that a guest has which lacks pages: it stays, whatever goes wrong meanwhile.
func TestT3NBDAnAgentLeftAloneGoesOnAfterAFailure(t *testing.T) {
	failed := make(chan struct{}, 3)
	spoil := func(_ context.Context, at string) error {
		if at == "prepage" {
			select {
			case failed <- struct{}{}:
				return errSpoilt
			default:
			}
		}
		return nil
	}
	m := begin(t, pair.Options{Memory: 32 * mib}, migrate.Params{Strategy: migrate.StrategyPostcopy}, worker.Options{Spoil: spoil})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for _, step := range []func(context.Context) error{m.sess.Prepare, m.sess.Copy, m.sess.Resume} {
		if err := step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	a, _ := m.agents.Load(m.Dest.PID)
	if err := a.(agent.Agent).Close(); err != nil {
		t.Fatal(err)
	}
	if len(failed) != cap(failed) {
		t.Fatalf("it failed %d times", len(failed))
	}
	if n := userfaults(t, m.Dest.PID); n != 0 {
		t.Errorf("it left, and %d userfaultfds stay in QEMU", n)
	}
	goesOn(t, m.Dest)
}
