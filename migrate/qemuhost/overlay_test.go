package qemuhost

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// serveImage has qemu-nbd serve an image for reading until the returned function is called.
func serveImage(t *testing.T, image, socket string, options ...string) (stop func()) {
	t.Helper()
	pid := filepath.Join(t.TempDir(), "pid")
	args := append([]string{"-r", "-t", "-e", "8", "-k", socket, "-x", "vdb", "--fork", "--pid-file=" + pid}, append(options, image)...)
	if out, err := exec.Command("qemu-nbd", args...).CombinedOutput(); err != nil { // it comes back when it listens
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { _ = errors.Join(syscall.Kill(n, syscall.SIGKILL), os.Remove(socket)) }) // both may be gone
	t.Cleanup(stop)
	return stop
}

// A guest that was started on its own disk goes on with what the source has, by an overlay, and ends up on its own disk alone,
// which is sparse where the source's is.
func TestT3Overlay(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	p, srcImage, dstImage := diskPair(ctx, t)
	dir := t.TempDir()
	if err := os.Truncate(dstImage, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dstImage, diskSize); err != nil {
		t.Fatal(err)
	}
	made, err := storage.Stage(ctx, storage.Spec{Migration: "m", Target: "vdb", Path: filepath.Join(dir, "ov"), Format: "qcow2", Size: diskSize})
	if err != nil {
		t.Fatal(err)
	}
	o := migrate.Overlay{Target: "vdb", Path: filepath.Join(dir, made.Staged), Socket: filepath.Join(dir, "s"),
		Final: migrate.Disk{Path: dstImage, Kind: "file", Format: "raw"}}
	stop := serveImage(t, "driver=raw,file.driver=file,file.locking=off,file.filename="+srcImage, o.Socket, "--image-opts")
	params := migrate.Params{Strategy: migrate.StrategyPrecopy}
	guestWrites(ctx, t, p.src.qmp(ctx), 0, 4<<20, 1<<20) // zeros, in the source's own image
	offer, err := p.a.Begin(ctx, "guest", params)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := p.b.Prepare(ctx, offer, params)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.b.PutOverlays(ctx, "guest", []migrate.Overlay{o}); err != nil {
		t.Fatal(err)
	}
	if ticket, err = p.a.Perform(ctx, offer, params, ticket); err != nil {
		t.Fatal(err)
	}
	if err := p.a.Switch(ctx, offer, params); err != nil {
		t.Fatal(err)
	}
	stop()
	stop = serveImage(t, srcImage, o.Socket, "-f", "raw")
	if err := p.b.Finish(ctx, offer, params, ticket, true); err != nil {
		t.Fatal(err)
	}
	dst := p.dst.qmp(ctx)
	guestWrites(ctx, t, dst, 0x44, 2<<20, 65536)
	var done, total int64
	for range 2 { // the second finds nothing to do
		if err := p.b.Fold(ctx, "guest", o, func(d, n int64) { done, total = d, n }); err != nil {
			t.Fatal(err)
		}
	}
	if done != total || total == 0 {
		t.Errorf("%d of %d bytes were copied", done, total)
	}
	stop()
	guestWrites(ctx, t, dst, 0x55, 3<<20, 65536) // on its own disk, with nobody to serve another
	nodes, err := qmp.QueryNamedBlockNodes(ctx, p.b.c)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if text(n.NodeName) == nodesOf("vdb").nbd || text(n.NodeName) == nodesOf("vdb").overlay {
			t.Errorf("node %s is left", text(n.NodeName))
		}
	}
	if err := p.a.Confirm(ctx, offer, params, ticket, true); err != nil {
		t.Fatal(err)
	}
	if err := dst.Execute(ctx, "quit", nil, nil); err != nil {
		t.Fatal(err)
	}
	await(ctx, t, "the destination's QEMU ends", p.dst.ended)
	wantBytes(t, dstImage, 0x11, 0, 2<<20)
	wantBytes(t, dstImage, 0x44, 2<<20, 65536)
	wantBytes(t, dstImage, 0x55, 3<<20, 65536)
	wantBytes(t, dstImage, 0, 4<<20, 1<<20)
	wantBytes(t, dstImage, 0x11, 5<<20, 3<<20)
}
