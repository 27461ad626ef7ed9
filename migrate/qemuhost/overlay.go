package qemuhost

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
	"github.com/vmmigrate/vmmigrate/qmp"
)

var _ migrate.Overlayer = (*Host)(nil)

// overlayNodes are the names of the block nodes of a disk that comes later. They do not begin with prefix: what does is dropped
// when a migration is given up, and the guest needs these.
type overlayNodes struct{ nbd, file, overlay, finalFile, final, job string }

func nodesOf(target string) overlayNodes {
	name := func(kind string) string {
		n := "vmm-" + kind + "-" + safeID(target)
		return n[:min(len(n), 31)] // QEMU's limit
	}
	return overlayNodes{nbd: name("nbd"), file: name("of"), overlay: name("ov"), finalFile: name("df"), final: name("d"), job: name("fold")}
}

// OnOverlays leaves the parameters as they are: this QEMU has its disks, and PutOverlays puts it onto others.
func (h *Host) OnOverlays(_ migrate.Offer, p migrate.Params, _ []migrate.Overlay) (migrate.Params, error) {
	return p, nil
}

// waitForServer is how long QEMU lets requests wait for an NBD server that is gone, in seconds: a guest waits rather than see an
// error.
const waitForServer = 30 * 24 * 3600

// PutOverlays implements migrate.Overlayer.
func (h *Host) PutOverlays(ctx context.Context, name string, overlays []migrate.Overlay) error {
	if err := h.find(name, migrate.SideDestination); err != nil {
		return err
	}
	disks, err := h.listDisks(ctx)
	if err != nil {
		return err
	}
	for _, o := range overlays {
		d, ok := findDisk(disks, o.Target)
		if !ok {
			err = fmt.Errorf("the waiting guest has no such disk")
		} else {
			err = h.putOverlay(ctx, d, o)
		}
		if err != nil {
			return migrate.Fail("put disk "+o.Target+" onto an overlay", migrate.SideDestination, err, "this takes QEMU 6.1 or newer at the destination; or copy the disks before: --copy-storage-all")
		}
	}
	return nil
}

func (h *Host) putOverlay(ctx context.Context, d disk, o migrate.Overlay) error {
	n := nodesOf(o.Target)
	nbd := qmp.NBDNode{NodeName: n.nbd, Server: qmp.SocketAddress{Type: "unix", Path: o.Socket}, Export: o.Target, ReadOnly: true,
		ReconnectDelay: new(uint32(waitForServer))}
	if err := qmp.BlockdevAdd(ctx, h.c, nbd); err != nil {
		return err
	}
	if err := qmp.BlockdevAdd(ctx, h.c, map[string]any{"driver": "file", "node-name": n.file, "filename": o.Path, "discard": "unmap"}); err != nil {
		return err
	}
	overlay := map[string]any{"driver": "qcow2", "node-name": n.overlay, "file": n.file, "backing": nil, "discard": "unmap"}
	if err := qmp.BlockdevAdd(ctx, h.c, overlay); err != nil {
		return err
	}
	if err := qmp.BlockdevSnapshot(ctx, h.c, d.Node, n.overlay); err != nil {
		return err
	}
	overlay["backing"] = n.nbd
	return qmp.BlockdevReopen(ctx, h.c, overlay)
}

// Fold implements migrate.Overlayer.
func (h *Host) Fold(ctx context.Context, name string, o migrate.Overlay, progress func(done, total int64)) error {
	if err := h.find(name, migrate.SideDestination); err != nil {
		return err
	}
	return migrate.Fail("fold disk "+o.Target, migrate.SideDestination, h.fold(ctx, o, progress), "the guest runs on meanwhile; vmmigrate recover goes on with it")
}

func (h *Host) fold(ctx context.Context, o migrate.Overlay, progress func(done, total int64)) error {
	n := nodesOf(o.Target)
	disks, err := h.listDisks(ctx)
	if err != nil {
		return err
	}
	d, ok := findDisk(disks, o.Target)
	switch {
	case !ok:
		return fmt.Errorf("the guest has no such disk any more")
	case d.Node != n.overlay && !strings.HasPrefix(d.Node, "#block"): // a mirror's filter has such a name
		return h.dropOverlay(ctx, n)
	}
	j, err := h.foldJob(ctx, n)
	if err == nil && j == nil {
		err = h.startFold(ctx, o, n)
	}
	if err == nil {
		err = h.unpause(ctx, n)
	}
	if err != nil {
		return err
	}
	asked := false
	err = h.await(ctx, func(ctx context.Context) (bool, error) { return h.foldStep(ctx, n, &asked, progress) }, eventJob)
	if err != nil {
		return err
	}
	return h.dropOverlay(ctx, n)
}

// Unstick implements migrate.Overlayer.
func (h *Host) Unstick(ctx context.Context, name string) (was bool, err error) {
	if err := h.find(name, migrate.SideDestination); err != nil {
		return false, err
	}
	run, err := h.runState(ctx)
	if err != nil || run != qmp.StateIOError {
		return false, err
	}
	return true, qmp.Cont(ctx, h.c)
}

// unpause lets a job go on that an error stopped.
func (h *Host) unpause(ctx context.Context, n overlayNodes) error {
	stopped, err := h.foldStopped(ctx, n)
	if err == nil && stopped != "" {
		err = qmp.JobResume(ctx, h.c, n.job)
	}
	return err
}

// foldStopped tells which kind of error stopped the job: nospace or failed; empty if none did.
func (h *Host) foldStopped(ctx context.Context, n overlayNodes) (string, error) {
	jobs, err := qmp.QueryBlockJobs(ctx, h.c)
	if err != nil {
		return "", err
	}
	for _, j := range jobs {
		if j.Device == n.job && j.Paused && j.IOStatus != "ok" {
			return j.IOStatus, nil
		}
	}
	return "", nil
}

func (h *Host) foldJob(ctx context.Context, n overlayNodes) (*qmp.Job, error) {
	all, err := qmp.QueryJobs(ctx, h.c)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(j qmp.Job) bool { return j.ID == n.job })
	if i < 0 {
		return nil, nil
	}
	return &all[i], nil
}

// foldGrain is by how many bytes is copied at least: what a raw image has holes for is not filled up around data.
const foldGrain = 4096

// startFold opens the final image and begins to copy. Writes of the guest go to both from now on, so that it ends.
func (h *Host) startFold(ctx context.Context, o migrate.Overlay, n overlayNodes) error {
	driver, format := "file", o.Final.Format
	if o.Final.Kind == "block" {
		driver = "host_device"
	}
	nodes, err := qmp.QueryNamedBlockNodes(ctx, h.c)
	if err != nil {
		return err
	}
	there := func(name string) bool {
		return slices.ContainsFunc(nodes, func(b qmp.BlockNode) bool { return text(b.NodeName) == name })
	}
	if !there(n.finalFile) {
		if err := qmp.BlockdevAdd(ctx, h.c, map[string]any{"driver": driver, "node-name": n.finalFile, "filename": o.Final.Path, "discard": "unmap"}); err != nil {
			return err
		}
	}
	if err := h.activate(ctx, n.overlay); err != nil {
		return err
	}
	if format == "" { // another coordinator does not know; the node that the guest was started on does
		for _, b := range nodes {
			if b.Image.Filename == o.Final.Path && (b.Driver == "raw" || b.Driver == "qcow2") && text(b.NodeName) != n.final {
				format = b.Driver
			}
		}
	}
	if !there(n.final) {
		if err := qmp.BlockdevAdd(ctx, h.c, map[string]any{"driver": format, "node-name": n.final, "file": n.finalFile, "discard": "unmap", "detect-zeroes": "unmap"}); err != nil {
			return err
		}
	}
	return h.c.Execute(ctx, "blockdev-mirror", map[string]any{"job-id": n.job, "device": n.overlay, "target": n.final, "sync": "full",
		"copy-mode": "write-blocking", "granularity": foldGrain, "on-target-error": "stop", "auto-dismiss": false}, nil)
}

// activate takes possession of a node in a guest that was left at a standstill: QEMU does it itself for one that runs. Before
// QEMU 10 there is no such command, and such a guest has to run first.
func (h *Host) activate(ctx context.Context, node string) error {
	run, _, err := h.look(ctx)
	if err != nil || run == qmp.StateRunning {
		return err
	}
	return h.c.Execute(ctx, "blockdev-set-active", map[string]any{"node-name": node, "active": true}, nil)
}

// foldStep looks at the job once and tells whether the guest is on its final image.
func (h *Host) foldStep(ctx context.Context, n overlayNodes, asked *bool, progress func(done, total int64)) (bool, error) {
	j, err := h.foldJob(ctx, n)
	if err != nil {
		return false, err
	}
	if j == nil {
		return false, fmt.Errorf("the job that copies it is gone: somebody else ended it")
	}
	progress(j.CurrentProgress, j.TotalProgress)
	switch {
	case j.Status == qmp.JobReady && !*asked:
		*asked = true
		return false, qmp.JobComplete(ctx, h.c, n.job)
	case j.Status != qmp.JobConcluded:
		stopped, err := h.foldStopped(ctx, n)
		switch {
		case stopped == "nospace":
			err = fmt.Errorf("%w for its image", storage.ErrNoRoom)
		case stopped != "":
			err = fmt.Errorf("its image cannot be written (%s)", stopped)
		}
		return false, err
	}
	if err := qmp.JobDismiss(ctx, h.c, n.job); err != nil {
		return false, err
	}
	if text(j.Error) != "" {
		return false, fmt.Errorf("the job that copies it: %s", text(j.Error))
	}
	if !*asked {
		return false, fmt.Errorf("the job that copies it was ended by somebody else")
	}
	return true, nil
}

// dropOverlay removes the nodes that nobody needs any more.
func (h *Host) dropOverlay(ctx context.Context, n overlayNodes) error {
	for _, node := range []string{n.overlay, n.file, n.nbd} {
		if err := ignoreRefusal(qmp.BlockdevDel(ctx, h.c, node)); err != nil {
			return err
		}
	}
	return nil
}
