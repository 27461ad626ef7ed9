package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// progress is the sum over the mirrors of a migration, in bytes.
type progress struct{ done, total int64 }

func mirrorID(target string) string { return prefix + "mirror-" + safeID(target) }

func nodeName(target string) string {
	n := prefix + safeID(target)
	return n[:min(len(n), 31)] // QEMU's limit
}

// mirror starts copying the disks and returns once every one of them is in step with its copy.
func (h *Host) mirror(ctx context.Context, c ticketCookie, p migrate.Params, tlsHost string) error {
	if len(c.Disks) == 0 {
		return nil
	}
	if c.NBD == nil {
		return errors.New("the destination exports disks but does not tell where")
	}
	disks, err := h.listDisks(ctx)
	if err != nil {
		return err
	}
	for _, target := range c.Disks {
		d, ok := findDisk(disks, target)
		if !ok {
			return fmt.Errorf("disk %s is gone from the source", target)
		}
		if err := h.startMirror(ctx, d, c, p, tlsHost); err != nil {
			return migrate.Fail("mirror disk "+target, migrate.SideSource, err, "")
		}
	}
	return h.await(ctx, func(ctx context.Context) (bool, error) { return h.mirrorsReady(ctx, len(c.Disks)) }, eventJob)
}

func findDisk(disks []disk, target string) (disk, bool) {
	for _, d := range disks {
		if d.Target == target {
			return d, true
		}
	}
	return disk{}, false
}

// mirrorGranularity is the least that a mirror copies, in bytes. With QEMU's own choice for a target over NBD, 64 KiB, a raw
// image grows by all of that for each block that a guest has written into a hole.
const mirrorGranularity = 4 << 10

// startMirror opens the destination's export as a block node and begins to copy to it.
func (h *Host) startMirror(ctx context.Context, d disk, c ticketCookie, p migrate.Params, tlsHost string) error {
	n := qmp.NBDNode{NodeName: nodeName(d.Target), Server: *c.NBD, Export: d.Target, Unmap: true}
	if c.TLS {
		n.TLSCreds, n.TLSHostname = tlsObject, tlsHost
	}
	if err := qmp.BlockdevAdd(ctx, h.c, n); err != nil {
		return migrate.Fail("open the destination's copy of disk "+d.Target, migrate.SideSource, err,
			"can the source reach the destination's NBD server, and with TLS, do the certificates fit?")
	}
	m := qmp.MirrorArgs{JobID: mirrorID(d.Target), Device: d.Node, Target: nodeName(d.Target), Sync: qmp.SyncFull,
		AutoDismiss: new(false), Speed: new(max(p.Bandwidth, 0)), Granularity: new(uint32(mirrorGranularity))}
	if p.CopyStorage == migrate.CopyInc {
		m.Sync = qmp.SyncTop
	}
	if p.SynchronousWrites {
		m.CopyMode = qmp.CopyWriteBlocking
	}
	return qmp.BlockdevMirror(ctx, h.c, m)
}

// ourJobs lists the mirrors of this driver.
func (h *Host) ourJobs(ctx context.Context) ([]qmp.Job, error) {
	all, err := qmp.QueryJobs(ctx, h.c)
	return slices.DeleteFunc(all, func(j qmp.Job) bool { return !ours(j.ID) }), err
}

// mirrorsReady tells whether all of them are in step. One that ended is an error.
func (h *Host) mirrorsReady(ctx context.Context, want int) (bool, error) {
	js, err := h.ourJobs(ctx)
	if err != nil {
		return false, err
	}
	h.account(js)
	ready := 0
	for _, j := range js {
		switch j.Status {
		case qmp.JobReady:
			ready++
		case qmp.JobConcluded:
			return false, mirrorFailed(j)
		}
	}
	if len(js) < want {
		return false, fmt.Errorf("%d of %d mirrors are gone: somebody else ended them", want-len(js), want)
	}
	return ready == want, nil
}

// mirrorsLive fails if a mirror has ended while it was still needed.
func (h *Host) mirrorsLive(ctx context.Context, want int) error {
	if want == 0 {
		return nil
	}
	_, err := h.mirrorsReady(ctx, want)
	return err
}

func mirrorFailed(j qmp.Job) error {
	target := strings.TrimPrefix(j.ID, prefix+"mirror-")
	if text(j.Error) == "" {
		return fmt.Errorf("the mirror of disk %s ended before its time", target)
	}
	return fmt.Errorf("the mirror of disk %s: %s", target, text(j.Error))
}

// account remembers the figures for Stats, also when the jobs are no more.
func (h *Host) account(js []qmp.Job) {
	if len(js) == 0 {
		return
	}
	var p progress
	for _, j := range js {
		p.done += j.CurrentProgress
		p.total += j.TotalProgress
	}
	h.mu.Lock()
	h.disks = &p
	h.mu.Unlock()
}

// finishMirrors ends the mirrors with the guest at a standstill: cancelled without force, a mirror that is ready writes
// what is left and ends, which makes the copy exact at this moment.
func (h *Host) finishMirrors(ctx context.Context, c ticketCookie) error {
	if len(c.Disks) == 0 {
		return nil
	}
	for _, target := range c.Disks {
		if err := qmp.BlockJobCancel(ctx, h.c, mirrorID(target), false); err != nil {
			return fmt.Errorf("end the mirror of disk %s: %w", target, err)
		}
	}
	err := h.await(ctx, func(ctx context.Context) (bool, error) { return h.mirrorsConcluded(ctx, len(c.Disks)) }, eventJob)
	if err != nil {
		return err
	}
	for _, target := range c.Disks {
		if err := qmp.JobDismiss(ctx, h.c, mirrorID(target)); err != nil {
			return err
		}
		if err := qmp.BlockdevDel(ctx, h.c, nodeName(target)); err != nil {
			return err
		}
	}
	return nil
}

// mirrorsConcluded tells whether all have ended, and well: with no error and nothing left to copy.
func (h *Host) mirrorsConcluded(ctx context.Context, want int) (bool, error) {
	js, err := h.ourJobs(ctx)
	if err != nil {
		return false, err
	}
	h.account(js)
	if len(js) != want {
		return false, fmt.Errorf("%d of %d mirrors are left: somebody else ended them", len(js), want)
	}
	for _, j := range js {
		if j.Status != qmp.JobConcluded {
			return false, nil
		}
		if text(j.Error) != "" || j.CurrentProgress != j.TotalProgress {
			return false, mirrorFailed(j)
		}
	}
	return true, nil
}

// dropMirrors ends what mirrors there are, whatever becomes of the copies, and closes the destination's exports.
func (h *Host) dropMirrors(ctx context.Context) error {
	nodes, err := h.ourNodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		// A connection that hangs would hold up everything below. A refusal means that it does not.
		err := qmp.Yank(ctx, h.c, qmp.YankBlockNode(n))
		if ignoreRefusal(err) != nil {
			return err
		}
	}
	err = h.await(ctx, h.dropJobs, eventJob)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := qmp.BlockdevDel(ctx, h.c, n); err != nil {
			return err
		}
	}
	return nil
}

// dropJobs pushes each of our jobs one step nearer to its end and tells whether none is left.
func (h *Host) dropJobs(ctx context.Context) (bool, error) {
	js, err := h.ourJobs(ctx)
	if err != nil {
		return false, err
	}
	for _, j := range js {
		if j.Status == qmp.JobConcluded {
			err = qmp.JobDismiss(ctx, h.c, j.ID)
		} else {
			err = qmp.BlockJobCancel(ctx, h.c, j.ID, true)
		}
		if ignoreRefusal(err) != nil {
			return false, err
		}
	}
	return len(js) == 0, nil
}

// ourNodes lists the block nodes that this driver made.
func (h *Host) ourNodes(ctx context.Context) ([]string, error) {
	all, err := qmp.QueryNamedBlockNodes(ctx, h.c)
	var out []string
	for _, n := range all {
		if name := text(n.NodeName); ours(name) {
			out = append(out, name)
		}
	}
	return out, err
}
