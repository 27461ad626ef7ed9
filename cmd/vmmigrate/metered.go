package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/qemuhost"
	"github.com/vmmigrate/vmmigrate/migrate/sampler"
)

// openMetered connects to the host, if its driver can be asked what guests use.
func openMetered(ctx context.Context, g *globals) (sampler.Source, error) {
	if qemuhost.Handles(g.connect) {
		return briefly{g}, nil
	}
	return meter(ctx, g)
}

func meter(ctx context.Context, g *globals) (sampler.Source, error) {
	h, err := openHost(ctx, g.connect, g.log())
	if err != nil {
		return nil, err
	}
	if m, ok := h.(sampler.Source); ok {
		return m, nil
	}
	return nil, errors.Join(fmt.Errorf("%s cannot be asked what guests use: %w", h.URI(), migrate.ErrNotSupported), h.Close())
}

// briefly is a QEMU whose monitor serves one client at a time: it is held for each question only, since a migration needs it, too,
// and while one has it nothing is asked.
type briefly struct{ g *globals }

// briefTime is how long is waited for the monitor.
const briefTime = 2 * time.Second

func (b briefly) with(ctx context.Context, do func(context.Context, sampler.Source) error) error {
	ctx, stop := context.WithTimeout(ctx, briefTime)
	defer stop()
	m, err := meter(ctx, b.g)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, m), m.Close())
}

// Usage implements migrate.Metered.
func (b briefly) Usage(ctx context.Context, domains ...string) (all []migrate.Usage, err error) {
	err = b.with(ctx, func(ctx context.Context, m sampler.Source) (err error) {
		all, err = m.Usage(ctx, domains...)
		return err
	})
	return all, err
}

// MeasureDirty implements migrate.Metered.
func (b briefly) MeasureDirty(ctx context.Context, domain string, window time.Duration) error {
	return b.with(ctx, func(ctx context.Context, m sampler.Source) error { return m.MeasureDirty(ctx, domain, window) })
}

// Close implements sampler.Source; nothing is open.
func (briefly) Close() error { return nil }
