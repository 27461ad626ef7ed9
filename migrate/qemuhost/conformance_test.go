package qemuhost

import (
	"context"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/hosttest"
	"github.com/vmmigrate/vmmigrate/qmp"
)

func TestT3Conformance(t *testing.T) {
	hosttest.Run(t, conformancePair, hosttest.Abilities{Postcopy: true, Recovery: true, Stamps: true, Rounds: true})
}

func conformancePair(t *testing.T) *hosttest.Pair {
	ctx := t.Context()
	p := newPair(ctx, t, 20000)
	k := newLink(t)
	probes := map[migrate.Side]*qmp.Client{migrate.SideSource: p.src.qmp(ctx), migrate.SideDestination: p.dst.qmp(ctx)}
	ends := map[migrate.Side]*testQEMU{migrate.SideSource: p.src, migrate.SideDestination: p.dst}
	return &hosttest.Pair{
		Source: p.a, Dest: p.b, Name: "guest", Slow: 2 << 20,
		Verify: func(ctx context.Context, s migrate.Side) error { return ends[s].verify(ctx, probes[s]) },
		Dial: func(ctx context.Context, s migrate.Side) (hosttest.Driver, error) {
			return Dial(ctx, Scheme+"://"+ends[s].third, Options{})
		},
		KillDest: p.dst.kill,
		Route:    k.Route, Cut: k.Cut, Heal: k.Heal,
		PauseGuest: func(ctx context.Context) error { return qmp.Stop(ctx, probes[migrate.SideSource]) },
	}
}
