package testenv

import (
	"context"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/wire"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// Link is a host's cable to the migration network.
type Link struct{ host *Host }

// Link returns the host's link to the migration network.
func (h *Host) Link() Link { return Link{host: h} }

// Shape changes the link's rate, delay and loss.
func (l Link) Shape(ctx context.Context, spec link.Spec) error {
	return l.call(ctx, control.Request{Op: daemon.OpShape, Link: &spec}, nil)
}

// Cut pulls the cable: the host loses its carrier, and frames vanish.
func (l Link) Cut(ctx context.Context) error {
	return l.call(ctx, control.Request{Op: daemon.OpCut}, nil)
}

// Mend puts the cable back.
func (l Link) Mend(ctx context.Context) error {
	return l.call(ctx, control.Request{Op: daemon.OpMend}, nil)
}

// Counters are what passed the link since the lab came up, as the host's device
// counts it: bytes with Ethernet headers, frames as large as the host hands them
// over.
type Counters = wire.Counters

// Counters reads the link's counters.
func (l Link) Counters(ctx context.Context) (Counters, error) {
	var c Counters
	err := l.call(ctx, control.Request{Op: daemon.OpCounters}, &c)
	return c, err
}

func (l Link) call(ctx context.Context, r control.Request, result any) error {
	r.Host = l.host.Name()
	return l.host.lab.call(ctx, r, result)
}
