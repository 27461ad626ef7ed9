package qmp_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// A disk is mirrored from one QEMU to an export of another, made synchronous,
// and released with a consistent copy.
func TestT3Mirror(t *testing.T) {
	ctx := testContext(t)
	src, dst := startQEMU(t), startQEMU(t)
	source, dest := src.client(), dst.client()
	const size = 4 << 20
	from, to := src.file("from.raw", size), dst.file("to.raw", size)
	want := bytes.Repeat([]byte("disk"), size/4)
	if err := os.WriteFile(from, want, 0o600); err != nil {
		t.Fatal(err)
	}
	addDisk(ctx, t, source, "d0", from)
	addDisk(ctx, t, dest, "d0", to)
	export(ctx, t, dest, qmp.UnixAddress(filepath.Join(dst.dir, "nbd.sock")))

	node := qmp.NBDNode{NodeName: "n0", Server: qmp.UnixAddress(filepath.Join(dst.dir, "nbd.sock")), Export: "disk", OpenTimeout: new(uint32(1))}
	if err := qmp.BlockdevAdd(ctx, source, node); err != nil {
		t.Fatal(err)
	}
	sub := subscribe(t, source, 0)
	if err := qmp.BlockdevMirror(ctx, source, qmp.MirrorArgs{
		JobID: "j0", Device: "d0", Target: "n0", Sync: qmp.SyncFull, CopyMode: qmp.CopyBackground, AutoDismiss: new(false),
	}); err != nil {
		t.Fatal(err)
	}
	waitEvent(ctx, t, sub, qmp.EventBlockJobReady)
	jobs, err := qmp.QueryBlockJobs(ctx, source)
	check(t, "ready", err == nil && len(jobs) == 1 && jobs[0].Ready && jobs[0].Device == "j0" && jobs[0].Len == size &&
		!*jobs[0].ActivelySynced, jobs, err)
	if err := qmp.BlockJobSetSpeed(ctx, source, "j0", 1<<30); err != nil {
		t.Error(err)
	}
	if err := qmp.BlockJobChange(ctx, source, "j0", qmp.CopyWriteBlocking); err != nil {
		t.Error(err)
	}
	release(ctx, t, source, sub)
	withdraw(ctx, t, dest)
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs (%d bytes, %v)", len(got), err)
	}
}

// export serves d0 of x as disk.
func export(ctx context.Context, t *testing.T, x qmp.Executor, at qmp.SocketAddress) {
	t.Helper()
	if err := qmp.NBDServerStart(ctx, x, qmp.NBDServerArgs{Addr: at}); err != nil {
		t.Fatal(err)
	}
	if err := qmp.BlockExportAdd(ctx, x, qmp.NBDExport{ID: "e0", NodeName: "d0", Name: "disk", Writable: true}); err != nil {
		t.Fatal(err)
	}
	exports, err := qmp.QueryBlockExports(ctx, x)
	check(t, "exports", err == nil && len(exports) == 1 && exports[0].NodeName == "d0" && exports[0].Type == "nbd", exports, err)
}

// release ends the mirror with a consistent copy and drops its target.
func release(ctx context.Context, t *testing.T, x qmp.Executor, sub *qmp.Subscription) {
	t.Helper()
	if err := qmp.BlockJobCancel(ctx, x, "j0", false); err != nil {
		t.Fatal(err)
	}
	v := waitEvent(ctx, t, sub, qmp.EventBlockJobCompleted)
	e, ok := v.(*qmp.BlockJobEvent)
	check(t, "completed", ok && e.Device == "j0" && e.Error == nil && e.Len == e.Offset, v, nil)
	if _, err := sub.Wait(ctx, func(e qmp.Event) bool {
		v, err := e.Typed()
		s, ok := v.(*qmp.JobStatusChangeEvent)
		return err == nil && ok && s.Status == qmp.JobConcluded
	}); err != nil {
		t.Fatal(err)
	}
	jobs, err := qmp.QueryJobs(ctx, x)
	check(t, "concluded", err == nil && len(jobs) == 1 && jobs[0].Status == qmp.JobConcluded && jobs[0].Error == nil, jobs, err)
	if err := qmp.JobDismiss(ctx, x, "j0"); err != nil {
		t.Error(err)
	}
	if err := qmp.BlockdevDel(ctx, x, "n0"); err != nil {
		t.Error(err)
	}
}

// withdraw takes the export back and stops the server.
func withdraw(ctx context.Context, t *testing.T, x qmp.Executor) {
	t.Helper()
	sub := subscribe(t, x, 0, qmp.EventBlockExportDeleted)
	if err := qmp.BlockExportDel(ctx, x, "e0", true); err != nil {
		t.Fatal(err)
	}
	waitEvent(ctx, t, sub, qmp.EventBlockExportDeleted)
	if err := qmp.NBDServerStop(ctx, x); err != nil {
		t.Error(err)
	}
	if err := qmp.BlockdevDel(ctx, x, "d0"); err != nil {
		t.Error(err)
	}
}

// waitEvent waits for an event and decodes it.
func waitEvent(ctx context.Context, t *testing.T, s *qmp.Subscription, name string) any {
	t.Helper()
	e, err := s.Wait(ctx, func(e qmp.Event) bool { return e.Name == name })
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	v, err := e.Typed()
	if err != nil {
		t.Fatal(err)
	}
	return v
}
