package qemuhost

import (
	"context"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// pair is a running guest and a QEMU that waits for it.
type pair struct {
	t        *testing.T
	src, dst *testQEMU
	a, b     *Host
}

func newPair(ctx context.Context, t *testing.T, rate uint32, extra ...string) *pair {
	t.Helper()
	image := guestImage(t, rate)
	p := &pair{t: t, src: startQEMU(t, image, extra...), dst: startQEMU(t, image, append(extra, "-incoming", "defer")...)}
	p.a, p.b = p.src.dial(ctx), p.dst.dial(ctx)
	await(ctx, t, "the guest boots", p.src.booted)
	return p
}

// state asks one end.
func (p *pair) state(ctx context.Context, h *Host) migrate.RunState {
	p.t.Helper()
	s, err := h.State(ctx, "guest")
	if err != nil {
		p.t.Fatal(err)
	}
	return s.Run
}

// prepared begins a migration and prepares the destination.
func (p *pair) prepared(ctx context.Context, params migrate.Params) (migrate.Offer, migrate.Ticket) {
	p.t.Helper()
	o, err := p.a.Begin(ctx, "guest", params)
	if err != nil {
		p.t.Fatal(err)
	}
	ticket, err := p.b.Prepare(ctx, o, params)
	if err != nil {
		p.t.Fatal(err)
	}
	return o, ticket
}

// landed does what follows a Perform that succeeded, and looks at the guest.
func (p *pair) landed(ctx context.Context, o migrate.Offer, params migrate.Params, ticket migrate.Ticket) {
	p.t.Helper()
	if err := p.a.Switch(ctx, o, params); err != nil {
		p.t.Fatal(err)
	}
	if err := p.b.Finish(ctx, o, params, ticket, true); err != nil {
		p.t.Fatal(err)
	}
	if got := p.state(ctx, p.b); got != migrate.RunRunning {
		p.t.Errorf("the destination is %s", got)
	}
	if err := p.dst.verify(ctx, p.dst.qmp(ctx)); err != nil {
		p.t.Error(err)
	}
	if err := p.a.Confirm(ctx, o, params, ticket, true); err != nil {
		p.t.Fatal(err)
	}
	await(ctx, p.t, "the source's QEMU ends", p.src.ended)
}

// stands performs a post-copy until the guest stands still at pre-switchover.
func (p *pair) stands(ctx context.Context, params migrate.Params) (migrate.Offer, migrate.Ticket) {
	p.t.Helper()
	o, ticket := p.prepared(ctx, params)
	done := make(chan error, 1)
	go func() {
		var err error
		ticket, err = p.a.Perform(ctx, o, params, ticket)
		done <- err
	}()
	waitStats(ctx, p.t, p.a, done, func(s migrate.Stats) bool { return s.Status == "active" })
	if err := p.a.StartPostcopy(ctx, "guest"); err != nil {
		p.t.Fatal(err)
	}
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
	return o, ticket
}

// loseDestination kills the destination and waits until the source's QEMU has noted it.
func (p *pair) loseDestination(ctx context.Context) {
	p.t.Helper()
	p.dst.kill()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for m, err := qmp.QueryMigrate(ctx, p.a.c); why(m) == ""; m, err = qmp.QueryMigrate(ctx, p.a.c) {
		if err != nil {
			p.t.Fatal(err)
		}
		<-tick.C
	}
}

// slowPostcopy leaves time for something to happen while RAM is copied.
func slowPostcopy() migrate.Params {
	return migrate.Params{Strategy: migrate.StrategyPostcopy, Bandwidth: 2 << 20, MaxDowntime: time.Millisecond}
}

func TestT3MultifdWithCompression(t *testing.T) {
	ctx := limit(t, time.Minute)
	p := newPair(ctx, t, 0)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, MaxDowntime: 5 * time.Second, Parallel: 2, Compression: []string{"zstd"},
		AutoConverge: true, AutoConvergeInitial: 30}
	o, ticket := p.prepared(ctx, params)
	ticket, err := p.a.Perform(ctx, o, params, ticket)
	if err != nil {
		t.Fatal(err)
	}
	p.landed(ctx, o, params, ticket)
	after, err := p.b.current(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for name, on := range after.Caps {
		if on {
			t.Errorf("capability %s is left on at the destination", name)
		}
	}
}

func TestT3UnixSocketAndPreempt(t *testing.T) {
	ctx := limit(t, time.Minute)
	p := newPair(ctx, t, 20000)
	params := slowPostcopy()
	params.Preempt, params.MigrateURI = true, "unix://"+t.TempDir()+"/ram"
	o, ticket := p.stands(ctx, params)
	p.landed(ctx, o, params, ticket)
}

func TestT3DirtyLimitNeedsADirtyRing(t *testing.T) {
	ctx := limit(t, time.Minute)
	p := newPair(ctx, t, 0)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, DirtyLimit: true}
	o, ticket := p.prepared(ctx, params)
	_, err := p.a.Perform(ctx, o, params, ticket)
	wantMentions(t, err, "dirty-ring-size")
	if got := p.state(ctx, p.a); got != migrate.RunRunning {
		t.Errorf("the source is %s", got)
	}
}

// The dirty ring holds more than the guest has pages. With one of 4096 entries, whose limit this guest reaches, QEMU 10.0 on
// Linux 6.18 lost writes in about one of five runs, without a dirty limit too, and never in 25 with this size. Seen under
// nested KVM only; where it belongs, QEMU or the kernel, is not known. What is tested is our driving of the dirty limit.
func TestT3UnderKVM(t *testing.T) {
	need.KVM(t)
	for name, c := range map[string]struct {
		accel  string
		params migrate.Params
	}{
		"precopy":     {"kvm", migrate.Params{Strategy: migrate.StrategyPrecopy}},
		"dirty limit": {"kvm,dirty-ring-size=65536", migrate.Params{Strategy: migrate.StrategyPrecopy, DirtyLimit: true}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := limit(t, time.Minute)
			p := newPair(ctx, t, 0, "-accel", c.accel)
			c.params.MaxDowntime = 5 * time.Second
			o, ticket := p.prepared(ctx, c.params)
			ticket, err := p.a.Perform(ctx, o, c.params, ticket)
			if err != nil {
				t.Fatal(err)
			}
			p.landed(ctx, o, c.params, ticket)
		})
	}
	t.Run("postcopy", func(t *testing.T) {
		ctx := limit(t, time.Minute)
		p := newPair(ctx, t, 0, "-accel", "kvm")
		o, ticket := p.stands(ctx, slowPostcopy())
		p.landed(ctx, o, slowPostcopy(), ticket)
	})
}

// The link breaks while the guest stands still before the commit: nothing must be sent, and the guest must come back.
func TestT3LinkLostBeforeTheSwitch(t *testing.T) {
	ctx := limit(t, time.Minute)
	p := newPair(ctx, t, 20000)
	params := slowPostcopy()
	o, ticket := p.stands(ctx, params)
	p.loseDestination(ctx)
	err := p.a.Switch(ctx, o, params)
	wantIs(t, err, migrate.ErrNotLanded)
	if err := p.b.Finish(ctx, o, params, ticket, false); err != nil {
		t.Error(err)
	}
	if err := p.a.Confirm(ctx, o, params, ticket, false); err != nil {
		t.Fatal(err)
	}
	if s, err := p.a.State(ctx, "guest"); err != nil || s.Run != migrate.RunRunning || s.Job {
		t.Errorf("the source: %+v, %v", s, err)
	}
	if err := p.src.verify(ctx, p.src.qmp(ctx)); err != nil {
		t.Error(err)
	}
}

// The same, but QEMU is told to go on before anybody could notice. QEMU 10.0 is stuck then; the guest must run all the same.
func TestT3QEMUStuckInItsSwitchIsFreed(t *testing.T) {
	ctx := limit(t, time.Minute)
	p := newPair(ctx, t, 20000)
	params := slowPostcopy()
	o, ticket := p.stands(ctx, params)
	p.loseDestination(ctx)
	probe := p.src.qmp(ctx)
	if err := probe.Execute(ctx, "migrate-continue", map[string]any{"state": "pre-switchover"}, nil); err != nil {
		t.Fatal(err)
	}
	err := p.a.Switch(ctx, o, params)
	wantIs(t, err, migrate.ErrNotLanded)
	if err := p.a.Confirm(ctx, o, params, ticket, false); err != nil {
		t.Fatal(err)
	}
	s, err := p.a.State(ctx, "guest")
	if err != nil || s.Run != migrate.RunRunning {
		t.Errorf("the source: %+v, %v", s, err)
	}
	if v := p.a.c.Version(); v.AtLeast(10, 0) && !v.AtLeast(10, 1) && !s.Job {
		t.Errorf("QEMU %v was not stuck: this test tested nothing", v)
	}
	if err := p.src.verify(ctx, probe); err != nil {
		t.Error(err)
	}
}

func TestT3PrecopyMovesARunningGuest(t *testing.T) {
	ctx := limit(t, time.Minute)
	p := newPair(ctx, t, 0)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, MaxDowntime: 2 * time.Second}
	o, err := p.a.Begin(ctx, "guest", params)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := p.b.Prepare(ctx, o, params)
	if err != nil {
		t.Fatal(err)
	}
	if ticket, err = p.a.Perform(ctx, o, params, ticket); err != nil {
		t.Fatal(err)
	}
	if a, b := p.state(ctx, p.a), p.state(ctx, p.b); a != migrate.RunPaused || b != migrate.RunIncoming {
		t.Errorf("before the switch: source %s, destination %s", a, b)
	}
	if err := p.a.Switch(ctx, o, params); err != nil {
		t.Fatal(err)
	}
	if a, b := p.state(ctx, p.a), p.state(ctx, p.b); a != migrate.RunMigrated || b == migrate.RunRunning {
		t.Errorf("after the switch: source %s, destination %s", a, b)
	}
	if err := p.b.Finish(ctx, o, params, ticket, true); err != nil {
		t.Fatal(err)
	}
	if got := p.state(ctx, p.b); got != migrate.RunRunning {
		t.Errorf("the destination is %s", got)
	}
	if err := p.dst.verify(ctx, p.dst.qmp(ctx)); err != nil {
		t.Error(err)
	}
	if err := p.a.Confirm(ctx, o, params, ticket, true); err != nil {
		t.Fatal(err)
	}
	await(ctx, t, "the source's QEMU ends", p.src.ended)
}
