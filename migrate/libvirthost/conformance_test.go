package libvirthost

import (
	"context"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/hosttest"
)

func TestT4Conformance(t *testing.T) {
	// Recovery: libvirt 11.2 and 11.3 crash on it, and no connection of ours has a link that can be cut.
	hosttest.Run(t, conformancePair, hosttest.Abilities{Postcopy: true, Stamps: true, Rounds: true})
}

func conformancePair(t *testing.T) *hosttest.Pair {
	ctx := t.Context()
	p := newPair(ctx, t, guestConfig{})
	return &hosttest.Pair{
		Source: p.a, Dest: p.b, Name: p.name, Slow: 2 << 20, Verify: p.verify,
		Dial: func(ctx context.Context, s migrate.Side) (hosttest.Driver, error) {
			return Open(ctx, map[migrate.Side]string{
				migrate.SideSource: p.hostA.URI(), migrate.SideDestination: p.hostB.URI()}[s], Options{})
		},
		KillDest:   func() { p.killQEMU(p.hostB) },
		PauseGuest: func(ctx context.Context) error { return p.suspend(ctx, p.a) },
	}
}
