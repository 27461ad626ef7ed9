package qemuhost

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

func TestDialTellsWhatIsWrong(t *testing.T) {
	_, err := Dial(t.Context(), "qemu:///system", Options{})
	wantMentions(t, err, "qemu:///system")
	_, err = Dial(t.Context(), Scheme+"://"+filepath.Join(t.TempDir(), "none"), Options{})
	wantMentions(t, err, "no such file")
	wantIs(t, err, migrate.ErrNoDomain)
	_, err = Dial(t.Context(), Scheme+"://"+t.TempDir(), Options{}) // something that no socket is
	wantIs(t, err, migrate.ErrNoDomain)
	path := filepath.Join(t.TempDir(), "mute") // it accepts and never greets, as a QEMU that serves somebody else
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = Dial(ctx, Scheme+"://"+path, Options{})
	wantIs(t, err, context.DeadlineExceeded)
	wantMentions(t, err)
}

// set changes a model under its lock.
func (m *model) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func TestBeginRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(m *model)
		p     migrate.Params
		want  error
	}{
		"a destination":              {plant: func(m *model) { m.run = "inmigrate" }, want: migrate.ErrBlocked},
		"a guest that was sent away": {plant: func(m *model) { m.run, m.status = "postmigrate", "completed" }, want: migrate.ErrBlocked},
		"a crashed guest":            {plant: func(m *model) { m.run = "guest-panicked" }, want: migrate.ErrBlocked},
		"a migration under way":      {plant: func(m *model) { m.status = "active" }, want: migrate.ErrBusy},
		"a device that cannot":       {plant: func(m *model) { m.blocked = []string{"VFIO"} }, want: migrate.ErrBlocked},
		"a disk that is not there": {plant: func(*model) {}, p: migrate.Params{CopyStorage: migrate.CopyAll, MigrateDisks: []string{"x"}},
			want: migrate.ErrBlocked},
		"recovery of nothing": {plant: func(*model) {}, p: migrate.Params{Resume: true}, want: migrate.ErrBlocked},
		"recovery of a sound one": {plant: func(m *model) { m.run, m.status = "finish-migrate", "postcopy-active" },
			p: migrate.Params{Resume: true}, want: migrate.ErrBlocked},
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t, false)
			h := m.host(t.Context())
			m.set(func() { c.plant(m) })
			c.p.Strategy = migrate.StrategyPrecopy
			_, err := h.Begin(t.Context(), "guest", c.p)
			wantIs(t, err, c.want)
			if d := snapshot(m); d.caps[qmp.CapEvents] {
				t.Error("a Begin that refused has changed QEMU")
			}
		})
	}
}

func TestPrepareRefuses(t *testing.T) {
	for name, plant := range map[string]func(dst *model, p *migrate.Params){
		"another name":          func(_ *model, p *migrate.Params) { p.DestinationName = "other" },
		"one that runs":         func(dst *model, _ *migrate.Params) { dst.run = "running" },
		"one that was used":     func(dst *model, _ *migrate.Params) { dst.status = "failed" },
		"an address for humans": func(_ *model, p *migrate.Params) { p.MigrateURI = "over there" },
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := modelPair(t)
			a, b := src.host(t.Context()), dst.host(t.Context())
			p := migrate.Params{Strategy: migrate.StrategyPrecopy}
			o, err := a.Begin(t.Context(), "guest", p)
			if err != nil {
				t.Fatal(err)
			}
			dst.set(func() { plant(dst, &p) })
			_, err = b.Prepare(t.Context(), o, p)
			var oe *migrate.OpError
			if !errors.As(err, &oe) || oe.Side != migrate.SideDestination {
				t.Errorf("%#v", err)
			}
		})
	}
}

// at drives a migration over models up to the given step, "prepared" or "performed".
func at(t *testing.T, step string) (src, dst *model, a, b *Host, o migrate.Offer, ticket migrate.Ticket) {
	t.Helper()
	ctx := t.Context()
	src, dst = modelPair(t)
	a, b = src.host(ctx), dst.host(ctx)
	p := everything()
	var err error
	if o, err = a.Begin(ctx, "guest", p); err != nil {
		t.Fatal(err)
	}
	if ticket, err = b.Prepare(ctx, o, p); err != nil {
		t.Fatal(err)
	}
	if step == "prepared" {
		return
	}
	if ticket, err = a.Perform(ctx, o, p, ticket); err != nil {
		t.Fatal(err)
	}
	return
}

// In the switch QEMU is stuck: it has noted an error and does not act on it.
func TestSwitchNoticesThatQEMUIsStuck(t *testing.T) {
	src, dst, a, _, o, _ := at(t, "performed")
	src.set(func() { src.stuck = true })
	err := a.Switch(t.Context(), o, everything())
	wantIs(t, err, migrate.ErrNotLanded)
	wantMentionsOnly(t, err, "stuck")
	if src.runs() || dst.runs() {
		t.Error("somebody runs the guest")
	}
	wantErr(t, "Cancel after Switch", a.Cancel(t.Context(), "guest"))
}

// An error that QEMU noted before the switch keeps it from being told to go on.
func TestSwitchDoesNotGoOnOverABrokenLink(t *testing.T) {
	src, dst, a, _, o, _ := at(t, "performed")
	src.set(func() { src.why = "Channel error" })
	err := a.Switch(t.Context(), o, everything())
	wantIs(t, err, migrate.ErrNotLanded)
	src.set(func() {
		if src.status != "pre-switchover" {
			t.Errorf("the source is %s", src.status)
		}
	})
	if dst.runs() {
		t.Error("the destination runs")
	}
}

func TestSwitchMayBeAskedTwice(t *testing.T) {
	_, _, a, b, o, ticket := at(t, "performed")
	for range 2 {
		if err := a.Switch(t.Context(), o, everything()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := b.Finish(t.Context(), o, everything(), ticket, true); err != nil {
			t.Fatal(err)
		}
	}
}

// A guest that was paused at the source stays paused, whoever asks.
func TestOnlyAGuestThatRanIsRun(t *testing.T) {
	ctx := t.Context()
	src, dst := modelPair(t)
	a, b := src.host(ctx), dst.host(ctx)
	src.set(func() { src.run = "paused" })
	landed, err := attempt(ctx, a, b, everything(), func(string) {})
	if err != nil || !landed || dst.runs() {
		t.Errorf("landed %t, %v, the destination is %s", landed, err, dst.run)
	}
}

// What Finish(false) and Discard remove must never have run.
func TestDiscardLooksForItsSign(t *testing.T) {
	for name, c := range map[string]struct {
		plant func(dst *model)
		gone  bool
	}{
		"it waits":                    {func(*model) {}, true},
		"it arrived and did not run":  {func(dst *model) { dst.run, dst.status = "paused", "completed" }, true},
		"it arrived and has run":      {func(dst *model) { dst.run = "paused"; delete(dst.objects, waitObject) }, false},
		"it runs, against all advice": {func(dst *model) { dst.run = "running" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, dst, _, b, o, ticket := at(t, "prepared")
			dst.set(func() { c.plant(dst) })
			err := b.Finish(t.Context(), o, everything(), ticket, false)
			if dst.set(func() {}); dst.dead != c.gone || (err == nil) != c.gone {
				t.Errorf("gone %t, %v", dst.dead, err)
			}
			if c.gone {
				if _, err := b.State(t.Context(), "guest"); !errors.Is(err, migrate.ErrNoDomain) {
					t.Errorf("its state: %v", err)
				}
			}
		})
	}
}

// Cancel comes from another goroutine, and the Perform that it ends takes everything back.
func TestCancelMidFlight(t *testing.T) {
	ctx := t.Context()
	clean := snapshot(newModel(t, false))
	for _, own := range []bool{true, false} {
		src, _, a, b, o, ticket := at(t, "prepared")
		src.set(func() { src.slow = true })
		done := make(chan error, 1)
		go func() {
			_, err := a.Perform(ctx, o, everything(), ticket)
			done <- err
		}()
		waitStats(limit(t, 10*time.Second), t, a, done, func(s migrate.Stats) bool { return s.Status == "active" })
		if _, err := a.Perform(ctx, o, everything(), ticket); !errors.Is(err, migrate.ErrBusy) {
			t.Errorf("a second Perform: %v, want ErrBusy", err)
		}
		if own {
			if err := a.Cancel(ctx, "guest"); err != nil {
				t.Fatal(err)
			}
		} else if err := qmp.MigrateCancel(ctx, a.c); err != nil { // somebody else's hand
			t.Fatal(err)
		}
		wantIs(t, <-done, migrate.ErrCancelled)
		asFound(t, src, clean)
		if !src.runs() {
			t.Errorf("the source is %s", src.run)
		}
		if err := b.Finish(ctx, o, everything(), ticket, false); err != nil {
			t.Error(err)
		}
	}
}

// A process that knows nothing of the migration switches off what it finds on.
func TestCancelFromAnotherProcess(t *testing.T) {
	src, _, a, _, _, _ := at(t, "performed")
	a.forget(migrate.SideSource)
	if err := a.Cancel(t.Context(), "guest"); err != nil {
		t.Fatal(err)
	}
	src.set(func() {
		for name, on := range src.caps {
			if on {
				t.Errorf("capability %s is left on", name)
			}
		}
		if d := cmp.Diff(newModel(t, false).params, src.params); d != "" {
			t.Errorf("parameters are not QEMU's own: %s", d)
		}
		if src.params["tls-creds"] != "" || len(src.objects) > 0 || src.run != "running" {
			t.Errorf("left behind: credentials %v, objects %v, the guest %s", src.params["tls-creds"], src.objects, src.run)
		}
	})
}

func TestConfirmKeepsASourceThatIsStillNeeded(t *testing.T) {
	for name, plant := range map[string]func(src *model){
		"it runs":             func(src *model) { src.run, src.status = "running", "failed" },
		"it stands still":     func(src *model) { src.run, src.status = "finish-migrate", "pre-switchover" },
		"post-copy is paused": func(src *model) { src.run, src.status = "finish-migrate", "postcopy-paused" },
	} {
		t.Run(name, func(t *testing.T) {
			src, _, a, _, o, ticket := at(t, "performed")
			src.set(func() { plant(src) })
			wantErr(t, "Confirm", a.Confirm(t.Context(), o, everything(), ticket, true))
			wantErr(t, "Release", a.Release(t.Context(), "guest", true))
			if src.dead {
				t.Error("the source was quit")
			}
		})
	}
}

func TestNothingIsTakenBackInPostcopy(t *testing.T) {
	src, _, a, _, o, ticket := at(t, "performed")
	src.set(func() { src.run, src.status = "finish-migrate", "postcopy-paused" })
	wantErr(t, "Confirm(false)", a.Confirm(t.Context(), o, everything(), ticket, false))
	wantErr(t, "ResumeGuest", a.ResumeGuest(t.Context(), "guest"))
	wantErr(t, "Cancel", a.Cancel(t.Context(), "guest"))
	if src.runs() {
		t.Error("the source runs a guest that the destination owns")
	}
}

// wantErr fails if a call succeeded that must not.
func wantErr(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was not refused", what)
	}
}
