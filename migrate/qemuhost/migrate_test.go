package qemuhost

import (
	"context"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// pair is a running guest and a QEMU that waits for it.
type pair struct {
	t        *testing.T
	src, dst *testQEMU
	a, b     *Host
}

func newPair(ctx context.Context, t *testing.T, delay uint32) *pair {
	t.Helper()
	boot := bootImage(t, delay)
	p := &pair{t: t, src: startQEMU(t, boot), dst: startQEMU(t, boot, "-incoming", "defer")}
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

func TestT3PrecopyMovesARunningGuest(t *testing.T) {
	ctx := limit(t, time.Minute)
	p := newPair(ctx, t, 1)
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
