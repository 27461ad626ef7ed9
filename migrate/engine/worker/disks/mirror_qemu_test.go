package disks

import (
	"errors"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// storageDaemon has an image in the hands of QEMU's block layer, which exports it and can mirror it.
func storageDaemon(t *testing.T, path, format string, size int64) (agent.SourceDisk, *qmp.Client) {
	t.Helper()
	dir := t.TempDir()
	d := agent.SourceDisk{Target: "vda", Path: path, Format: format, Size: size, Live: filepath.Join(dir, "live"), Mirror: filepath.Join(dir, "mirror")}
	monitor := filepath.Join(dir, "qmp")
	cmd := exec.Command("qemu-storage-daemon", "--blockdev", "driver=file,node-name=file,discard=unmap,filename="+path, "--blockdev", "driver="+format+",node-name=disk,file=file,discard=unmap",
		"--nbd-server", "addr.type=unix,addr.path="+d.Live, "--export", "type=nbd,id=live,node-name=disk,writable=on,name=vda",
		"--chardev", "socket,id=mon,path="+monitor+",server=on,wait=off", "--monitor", "chardev=mon", "--daemonize", "--pidfile", filepath.Join(dir, "pid"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-storage-daemon: %v: %s", err, out)
	}
	t.Cleanup(func() { endDaemon(t, filepath.Join(dir, "pid")) })
	c, err := qmp.Dial(t.Context(), "unix", monitor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return d, c
}

// jobIs waits until the mirror is in a state.
func jobIs(t *testing.T, events <-chan qmp.Event, want qmp.JobStatus) {
	t.Helper()
	for e := range events {
		typed, err := e.Typed()
		if err != nil {
			t.Fatal(err)
		}
		s, ok := typed.(*qmp.JobStatusChangeEvent)
		if ok && s.Status == want {
			return
		}
		if ok && s.Status == qmp.JobConcluded {
			t.Fatal("the mirror has ended")
		}
	}
	t.Fatalf("the mirror was never %s", want)
}

// QEMU's own mirror brings what is written, in the background first and at once in the end.
func TestT2MirroredByQEMU(t *testing.T) {
	tools(t)
	const size = 48 << 20
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			path, _ := rawDisk(t, size, 5)
			if format == "qcow2" {
				raw := path
				path = filepath.Join(t.TempDir(), "disk.qcow2")
				run(t, "qemu-img", "convert", "-q", "-O", "qcow2", "-f", "raw", raw, path)
			}
			d, q := storageDaemon(t, path, format, size)
			events, err := q.Events(t.Context(), "JOB_STATUS_CHANGE")
			if err != nil {
				t.Fatal(err)
			}
			m := open(t, d, blank(t, format, size), nil)
			m.live = unixClient(t, d.Live, "vda")
			defer m.close()
			ctx := t.Context()
			node := qmp.NBDNode{NodeName: "target", Server: qmp.UnixAddress(d.Mirror), Export: "vda", Unmap: true}
			mirror := qmp.MirrorArgs{JobID: "j", Device: "disk", Target: "target", Sync: qmp.SyncNone, OnTargetError: "stop", Granularity: new(uint32(4096)), AutoDismiss: new(false)}
			if err := errors.Join(qmp.BlockdevAdd(ctx, q, node), qmp.BlockdevMirror(ctx, q, mirror)); err != nil {
				t.Fatal(err)
			}
			jobIs(t, events, qmp.JobReady)
			stop, wg := make(chan struct{}), sync.WaitGroup{}
			for seed := range uint64(3) {
				own := &moved{src: m.src, live: m.live}
				wg.Go(func() { guestUntil(t, own, seed, stop) })
			}
			p := m.fetch(t)
			if err := qmp.BlockJobChange(ctx, q, "j", qmp.CopyWriteBlocking); err != nil {
				t.Error(err)
			}
			close(stop)
			wg.Wait()
			inSync(t, q)
			if err := errors.Join(m.to.Settle(ctx), qmp.BlockJobCancel(ctx, q, "j", false)); err != nil {
				t.Fatal(err)
			}
			jobIs(t, events, qmp.JobConcluded)
			if err := errors.Join(qmp.JobDismiss(ctx, q, "j"), qmp.BlockdevDel(ctx, q, "target")); err != nil {
				t.Fatal(err)
			}
			m.compare(t)
			after, err := m.to.Fetch(ctx, func(agent.Progress) {})
			if err == nil && after.Disks[0].Mirrored == 0 || p.Fetched == 0 {
				t.Errorf("%+v, %+v, %v", p, after, err)
			}
			if here, there := allocated(t, d.Path), allocated(t, m.dst.Path); there*100 > here*105 {
				t.Errorf("%d bytes at the source, %d at the destination", here, there)
			}
		})
	}
}

// inSync waits until the mirror has nothing left to copy.
func inSync(t *testing.T, q *qmp.Client) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		jobs, err := qmp.QueryBlockJobs(t.Context(), q)
		if err != nil || len(jobs) != 1 || jobs[0].Error != nil {
			t.Fatal(jobs, err)
		}
		if synced := jobs[0].ActivelySynced; synced != nil && *synced {
			return
		}
	}
}

// guestUntil writes until it is told to stop, and then some more.
func guestUntil(t *testing.T, m *moved, seed uint64, stop <-chan struct{}) {
	rng := rand.New(rand.NewPCG(seed, 7))
	for left := 30; left > 0; {
		select {
		case <-stop:
			left--
		default:
		}
		m.write(t, rng, []*nbd.Client{m.live})
	}
}
