package engine

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// fetchDisks copies what agents copy of the disks, before the RAM, which changes faster.
func (s *nbdSession) fetchDisks(ctx context.Context) error {
	if s.mirrored == nil {
		return nil
	}
	return s.mirrored.fetch(ctx)
}

// settleDisks begins to let go of the images that agents wrote.
func (s *nbdSession) settleDisks(ctx context.Context) *call {
	if s.mirrored == nil {
		c := &call{done: make(chan struct{})}
		close(c.done)
		return c
	}
	return s.run(func(context.Context) error { return s.mirrored.settle(ctx) })
}

// movesDisks tells whether the drivers copy disks within Perform.
func (s *nbdSession) movesDisks() bool {
	return s.p.CopyStorage != migrate.CopyNone || len(s.p.MigrateDisks) > 0
}
