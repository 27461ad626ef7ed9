package agent

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// sourceClient is a source's end at the other end of a connection.
type sourceClient struct {
	c      *Client
	handle uint64
	blocks []ram.Block
}

func (s *sourceClient) call(ctx context.Context, name, op string, resp any) error {
	return s.c.call(ctx, name, op, migrate.SideSource, &ofEnd{s.handle}, resp)
}

func (s *sourceClient) Harvest(ctx context.Context) (Harvest, error) {
	const op = "harvest the dirty pages"
	var m harvested
	if err := s.call(ctx, "Harvest", op, &m); err != nil {
		return Harvest{}, err
	}
	set, err := decodeSet(m.set, s.blocks)
	if err != nil {
		return Harvest{}, migrate.Fail(op, migrate.SideSource, err, "")
	}
	return Harvest{Dirty: set, Took: m.Took, Tracker: m.Tracker}, nil
}

func (s *sourceClient) Stats(ctx context.Context) (SourceStats, error) {
	var st SourceStats
	err := s.call(ctx, "SourceStats", "read the figures of the source's end", &st)
	return st, err
}

func (s *sourceClient) StreamUp(ctx context.Context) error {
	return s.call(ctx, "StreamUp", "wait for QEMU's stream", &empty{})
}

func (s *sourceClient) Keep(ctx context.Context, progress func(Progress)) (Progress, error) {
	return s.c.watch(ctx, "Keep", "keep a copy of the guest's RAM", &ofEnd{s.handle}, progress)
}

func (s *sourceClient) Close(ctx context.Context) error {
	return s.call(ctx, "CloseSource", "close the source's end", &empty{})
}

// destClient is a destination's end at the other end of a connection.
type destClient struct {
	c      *Client
	handle uint64
	addr   string
	held   Held
	blocks []ram.Block
}

func (d *destClient) call(ctx context.Context, name, op string, req any) error {
	return d.c.call(ctx, name, op, migrate.SideDestination, req, &empty{})
}

func (d *destClient) Addr() string { return d.addr }
func (d *destClient) Held() Held   { return d.held }

func (d *destClient) Fetch(ctx context.Context, pages ram.Set, progress func(Progress)) (Progress, error) {
	const op = "fetch pages"
	m, err := d.ofPages(pages)
	if err != nil {
		return Progress{}, migrate.Fail(op, migrate.SideDestination, err, "")
	}
	return d.c.watch(ctx, "Fetch", op, m, progress)
}

func (d *destClient) Tune(ctx context.Context, bandwidth, paging int64) error {
	return d.call(ctx, "Tune", "change the caps", &tuning{d.handle, bandwidth, paging})
}

func (d *destClient) Pass(ctx context.Context, stale ram.Set) error {
	const op = "let QEMU's stream begin"
	m, err := d.ofPages(stale)
	if err != nil {
		return migrate.Fail(op, migrate.SideDestination, err, "")
	}
	return d.call(ctx, "Pass", op, m)
}

// ofPages is a message about a set of pages.
func (d *destClient) ofPages(pages ram.Set) (*fetching, error) {
	if err := pages.Fits(d.blocks); err != nil {
		return nil, err
	}
	set, err := encodeSet(pages)
	return &fetching{Handle: d.handle, set: set}, err
}

func (d *destClient) Switch(ctx context.Context, missing ram.Set, hot []PageRef) error {
	const op = "make pages missing"
	err := missing.Fits(d.blocks)
	if err != nil {
		return migrate.Fail(op, migrate.SideDestination, err, "")
	}
	m := switching{Handle: d.handle}
	if m.setAndH, err = encodeSet(missing); err != nil {
		return migrate.Fail(op, migrate.SideDestination, err, "")
	}
	refs, err := encodeRefs(hot)
	if err != nil {
		return migrate.Fail(op, migrate.SideDestination, err, "")
	}
	m.setAndH = append(m.setAndH, refs)
	return d.call(ctx, "Switch", op, &m)
}

func (d *destClient) Release(ctx context.Context) error {
	return d.call(ctx, "Release", "let QEMU's stream end", &ofEnd{d.handle})
}

func (d *destClient) Page(ctx context.Context, progress func(Progress)) (Progress, error) {
	return d.c.watch(ctx, "Page", "page the rest in", &ofEnd{d.handle}, progress)
}

func (d *destClient) Close(ctx context.Context, abandon bool) error {
	return d.call(ctx, "CloseDest", "close the destination's end", &closing{d.handle, abandon})
}
