package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

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
	if err := h.beginCopies(p); err != nil {
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
	return h.await(ctx, func(ctx context.Context) (bool, error) { return h.tend(ctx, len(c.Disks)) }, eventJob)
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
		AutoDismiss: new(false), Speed: new(migrate.DiskShares(p.DiskCap(), make([]bool, len(c.Disks)))[0]), OnTargetError: onTargetError(p),
		Granularity: new(uint32(mirrorGranularity))}
	if p.CopyStorage == migrate.CopyInc {
		m.Sync = qmp.SyncTop
	}
	if p.SynchronousWrites {
		m.CopyMode = qmp.CopyWriteBlocking
	}
	return qmp.BlockdevMirror(ctx, h.c, m)
}

// beginCopies sets up what is kept of the mirrors. endCopies ends it.
func (h *Host) beginCopies(p migrate.Params) error {
	sub, err := h.c.Subscribe(qmp.SubscribeOptions{Names: []string{qmp.EventBlockJobError}, Queue: 64})
	if err != nil {
		return err
	}
	c := h.newCopies(p)
	c.errors = sub
	h.mu.Lock()
	h.copies, h.pause, h.rate = c, p.MaxDowntime, p.Bandwidth
	h.mu.Unlock()
	return nil
}

// endCopies stops listening for the mirrors' errors. The figures stay.
func (h *Host) endCopies() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.copies != nil && h.copies.errors != nil {
		h.copies.errors.Close()
	}
}

// ourJobs lists the jobs of this driver.
func (h *Host) ourJobs(ctx context.Context) ([]qmp.Job, error) {
	all, err := qmp.QueryJobs(ctx, h.c)
	return slices.DeleteFunc(all, func(j qmp.Job) bool { return !ours(j.ID) }), err
}

// onTargetError: a target without room pauses the mirror where there is time to make some; the guest goes on. Any other error
// ends it: it most often is a lost link, which no second try brings back.
func onTargetError(p migrate.Params) string {
	if p.DiskFull > 0 {
		return "enospc"
	}
	return "report"
}

// mirrorsLive tends the mirrors while RAM is sent. It fails if one has ended while it was still needed.
func (h *Host) mirrorsLive(ctx context.Context, want int) error {
	if want == 0 {
		return nil
	}
	_, err := h.tend(ctx, want)
	return err
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
	still := &standing{limit: switchStall, since: time.Now()}
	err := h.await(ctx, func(ctx context.Context) (bool, error) { return h.mirrorsConcluded(ctx, len(c.Disks), still) }, eventJob)
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

// switchStall is how long the mirrors may move nothing while the guest stands still for them.
const switchStall = 10 * time.Second

// standing notices that nothing moves.
type standing struct {
	limit time.Duration
	since time.Time
	sent  int64
}

func (s *standing) over(sent int64) bool {
	if sent != s.sent {
		s.sent, s.since = sent, time.Now()
	}
	return time.Since(s.since) >= s.limit
}

// mirrorsConcluded tells whether all have ended, and well: with no error and nothing left to copy. The guest stands still
// meanwhile, so one that waits for room, or moves nothing, is not waited for.
func (h *Host) mirrorsConcluded(ctx context.Context, want int, still *standing) (bool, error) {
	js, err := h.mirrorJobs(ctx)
	if err != nil {
		return false, err
	}
	h.account(js)
	if len(js) != want {
		return false, fmt.Errorf("%d of %d mirrors are left: somebody else ended them", len(js), want)
	}
	var sent int64
	ended := 0
	for _, j := range js {
		sent += j.Offset
		switch {
		case fullTarget(j):
			return false, h.follow(ctx, migrate.DiskMove{Kind: migrate.DiskNoRoom, Disk: diskOf(j), Why: "the guest was to be switched over, and does not wait for room"})
		case j.Status != qmp.JobConcluded:
		case text(j.Error) != "" || j.Offset != j.Len:
			return false, h.mirrorFailed(j)
		default:
			ended++
		}
	}
	if ended < want && still.over(sent) {
		return false, fmt.Errorf("the disks' copies moved nothing for %v while the guest stood still", switchStall)
	}
	return ended == want, nil
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
