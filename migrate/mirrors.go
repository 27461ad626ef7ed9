package migrate

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// MirrorPrefix begins the names of jobs, nodes and exports that the source's QEMU is given where agents copy disks before the
// guest goes.
const MirrorPrefix = "vmm-reuse-"

// DropMirrors removes from a source's QEMU what this or an earlier migration has put there for that. Its guest is not touched.
func DropMirrors(ctx context.Context, x qmp.Executor) error {
	if err := endMirrors(ctx, x); err != nil {
		return err
	}
	nodes, err := qmp.QueryNamedBlockNodes(ctx, x)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.NodeName != nil && strings.HasPrefix(*n.NodeName, MirrorPrefix) {
			if err := qmp.BlockdevDel(ctx, x, *n.NodeName); err != nil {
				return err
			}
		}
	}
	exports, err := qmp.QueryBlockExports(ctx, x)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(exports, func(e qmp.BlockExport) bool { return strings.HasPrefix(e.ID, MirrorPrefix) }) {
		return qmp.NBDServerStop(ctx, x)
	}
	return nil
}

// endMirrors ends the jobs. One whose connection hangs has it closed.
func endMirrors(ctx context.Context, x qmp.Executor) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		jobs, err := qmp.QueryJobs(ctx, x)
		if err != nil {
			return err
		}
		left := 0
		for _, j := range jobs {
			if !strings.HasPrefix(j.ID, MirrorPrefix) {
				continue
			}
			left++
			if j.Status == qmp.JobConcluded {
				err = qmp.JobDismiss(ctx, x, j.ID)
			} else {
				_ = qmp.Yank(ctx, x, qmp.YankBlockNode(strings.Replace(j.ID, "-job-", "-to-", 1))) // refused where nothing hangs
				_ = qmp.BlockJobCancel(ctx, x, j.ID, true)                                         // or it ends by itself
			}
			if err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
