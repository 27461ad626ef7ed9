package main

import (
	"context"
	"errors"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/engine"
	"github.com/vmmigrate/vmmigrate/migrate/sampler"
)

// counter counts what a guest writes by a tracker that its host's agent holds.
type counter struct{ x *engine.Exports }

// openCounter has an agent of the guest's host put a tracker into its QEMU.
func openCounter(ctx context.Context, g *globals, domain string) (sampler.Counter, error) {
	host, err := openHost(ctx, g.connect, g.log())
	if err != nil {
		return nil, err
	}
	n := &engine.NBD{Log: g.log(), Connect: agent.Connector{Version: agentVersion(), Log: g.log()}.Connect}
	x, err := n.OpenExports(ctx, host, domain, true)
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	if err := host.Close(); err != nil { // it was to find the guest's RAM
		return nil, errors.Join(err, x.Close())
	}
	return counter{x}, nil
}

// Written implements sampler.Counter.
func (c counter) Written(ctx context.Context) (sampler.Written, error) {
	h, err := c.x.Written(ctx)
	return sampler.Written{Pages: h.Dirty, Blocks: c.x.Blocks(), Mode: h.Tracker}, err
}

// Close implements sampler.Counter.
func (c counter) Close() error { return c.x.Close() }
