package worker

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// OpenDiskSource implements agent.Disks.
func (w *Worker) OpenDiskSource(ctx context.Context, spec agent.DiskSourceSpec) (agent.DiskSource, error) {
	return w.disks.OpenSource(ctx, spec)
}

// OpenDiskDest implements agent.Disks.
func (w *Worker) OpenDiskDest(ctx context.Context, spec agent.DiskDestSpec) (agent.DiskDest, error) {
	return w.disks.OpenDest(ctx, spec)
}
