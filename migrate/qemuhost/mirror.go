package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// The states of a block job that this driver acts upon.
const (
	jobReady     = "ready"
	jobConcluded = "concluded"
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

// startMirror opens the destination's export as a block node and begins to copy to it.
func (h *Host) startMirror(ctx context.Context, d disk, c ticketCookie, p migrate.Params, tlsHost string) error {
	a := args{"driver": "nbd", "node-name": nodeName(d.Target), "server": c.NBD, "export": d.Target}
	if c.TLS {
		a["tls-creds"], a["tls-hostname"] = tlsObject, tlsHost
	}
	if err := h.do(ctx, "blockdev-add", a); err != nil {
		return fmt.Errorf("open the destination's copy: %w", err)
	}
	m := args{"job-id": mirrorID(d.Target), "device": d.Node, "target": nodeName(d.Target), "sync": "full",
		"auto-dismiss": false, "auto-finalize": true, "speed": max(p.Bandwidth, 0)}
	if p.CopyStorage == migrate.CopyInc {
		m["sync"] = "top"
	}
	if p.SynchronousWrites {
		m["copy-mode"] = "write-blocking"
	}
	return h.do(ctx, "blockdev-mirror", m)
}

// ourJobs lists the mirrors of this driver.
func (h *Host) ourJobs(ctx context.Context) ([]job, error) {
	all, err := h.jobs(ctx)
	var ours []job
	for _, j := range all {
		if strings.HasPrefix(j.ID, prefix) {
			ours = append(ours, j)
		}
	}
	return ours, err
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
		case jobReady:
			ready++
		case jobConcluded:
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

func mirrorFailed(j job) error {
	target := strings.TrimPrefix(j.ID, prefix+"mirror-")
	if j.Error == "" {
		return fmt.Errorf("the mirror of disk %s ended before its time", target)
	}
	return fmt.Errorf("the mirror of disk %s: %s", target, j.Error)
}

// account remembers the figures for Stats, also when the jobs are no more.
func (h *Host) account(js []job) {
	if len(js) == 0 {
		return
	}
	var p progress
	for _, j := range js {
		p.done += j.Current
		p.total += j.Total
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
		if err := h.do(ctx, "block-job-cancel", args{"device": mirrorID(target)}); err != nil {
			return fmt.Errorf("end the mirror of disk %s: %w", target, err)
		}
	}
	err := h.await(ctx, func(ctx context.Context) (bool, error) { return h.mirrorsConcluded(ctx, len(c.Disks)) }, eventJob)
	if err != nil {
		return err
	}
	for _, target := range c.Disks {
		if err := h.do(ctx, "job-dismiss", args{"id": mirrorID(target)}); err != nil {
			return err
		}
		if err := h.do(ctx, "blockdev-del", args{"node-name": nodeName(target)}); err != nil {
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
		if j.Status != jobConcluded {
			return false, nil
		}
		if j.Error != "" || j.Current != j.Total {
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
		err := h.urgent(ctx, "yank", args{"instances": []args{{"type": "block-node", "node-name": n}}})
		if ignoreRefusal(err) != nil {
			return err
		}
	}
	err = h.await(ctx, h.dropJobs, eventJob)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := h.do(ctx, "blockdev-del", args{"node-name": n}); err != nil {
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
		if j.Status == jobConcluded {
			err = h.do(ctx, "job-dismiss", args{"id": j.ID})
		} else {
			err = h.do(ctx, "block-job-cancel", args{"device": j.ID, "force": true})
		}
		if ignoreRefusal(err) != nil {
			return false, err
		}
	}
	return len(js) == 0, nil
}

// ourNodes lists the block nodes that this driver made.
func (h *Host) ourNodes(ctx context.Context) ([]string, error) {
	var all []struct {
		Name string `json:"node-name"`
	}
	if err := h.ask(ctx, "query-named-block-nodes", args{"flat": true}, &all); err != nil {
		return nil, err
	}
	var out []string
	for _, n := range all {
		if strings.HasPrefix(n.Name, prefix) {
			out = append(out, n.Name)
		}
	}
	return out, nil
}
