package qemuhost

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

const diskSize = 8 << 20

// newImage writes a raw image filled with one byte.
func newImage(t *testing.T, name string, fill byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, bytes.Repeat([]byte{fill}, diskSize), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// withDisk are the options that attach an image as disk vdb.
func withDisk(image string) []string {
	return []string{"-blockdev", "driver=file,node-name=data-file,filename=" + image,
		"-blockdev", "driver=raw,node-name=data,file=data-file", "-device", "virtio-blk-pci,id=vdb,drive=data"}
}

// diskPair is a pair whose guest also has a disk that is not shared.
func diskPair(ctx context.Context, t *testing.T, extra ...string) (p *pair, srcImage, dstImage string) {
	t.Helper()
	image := guestImage(t, 20000)
	srcImage, dstImage = newImage(t, "src.img", 0x11), newImage(t, "dst.img", 0xee)
	p = &pair{t: t, src: startQEMU(t, image, append(withDisk(srcImage), extra...)...),
		dst: startQEMU(t, image, append(withDisk(dstImage), append(extra, "-incoming", "defer", "-S")...)...)}
	p.a, p.b = p.src.dial(ctx), p.dst.dial(ctx)
	await(ctx, t, "the guest boots", p.src.booted)
	return p, srcImage, dstImage
}

// guestWrites writes to the guest's disk as the guest would.
func guestWrites(ctx context.Context, t *testing.T, c *qmp.Client, fill byte, at, size int) {
	t.Helper()
	line := fmt.Sprintf(`qemu-io -d vdb/virtio-backend "write -P 0x%x %d %d"`, fill, at, size)
	if err := c.Execute(ctx, "human-monitor-command", map[string]any{"command-line": line}, nil); err != nil {
		t.Fatal(err)
	}
}

// wantBytes fails unless a stretch of an image is filled with one byte.
func wantBytes(t *testing.T, image string, fill byte, at, size int) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[at:at+size], bytes.Repeat([]byte{fill}, size)) {
		t.Errorf("%s at %d is not all %#x: it begins %#x", filepath.Base(image), at, fill, b[at])
	}
}

// moveWithDisk migrates and writes to the disk in every phase in which the guest could.
func moveWithDisk(ctx context.Context, t *testing.T, p *pair, params migrate.Params) {
	t.Helper()
	src := p.src.qmp(ctx)
	guestWrites(ctx, t, src, 0x22, 0, 65536)
	o, err := p.a.Begin(ctx, "guest", params)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := p.b.Prepare(ctx, o, params)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		ticket, err = p.a.Perform(ctx, o, params, ticket)
		done <- err
	}()
	copying := func(s migrate.Stats) bool { return s.Status == "active" && s.DiskTotal != nil }
	waitStats(ctx, t, p.a, done, copying) // every mirror is in step by then
	guestWrites(ctx, t, src, 0x33, 1<<20, 65536)
	if params.Strategy.Postcopy() {
		err = p.a.StartPostcopy(ctx, "guest")
	} else {
		err = p.a.Tune(ctx, "guest", migrate.Tuning{Bandwidth: 1 << 40, MaxDowntime: 5 * time.Second})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if js, err := qmp.QueryJobs(ctx, p.a.c); err != nil || len(js) != 0 {
		t.Errorf("jobs before the switch: %v, %v", js, err)
	}
	if err := p.a.Switch(ctx, o, params); err != nil {
		t.Fatal(err)
	}
	if err := p.b.Finish(ctx, o, params, ticket, true); err != nil {
		t.Fatal(err)
	}
	dst := p.dst.qmp(ctx)
	guestWrites(ctx, t, dst, 0x44, 2<<20, 65536)
	if err := p.a.Confirm(ctx, o, params, ticket, true); err != nil {
		t.Fatal(err)
	}
	if err := p.dst.verify(ctx, dst); err != nil {
		t.Error(err)
	}
	if err := dst.Execute(ctx, "quit", nil, nil); err != nil {
		t.Fatal(err)
	}
	await(ctx, t, "the destination's QEMU ends", p.dst.ended)
	await(ctx, t, "the source's QEMU ends", p.src.ended)
}

// waitStats waits until the figures show something, or Perform ends.
func waitStats(ctx context.Context, t *testing.T, h *Host, done <-chan error, ok func(migrate.Stats) bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := h.Stats(ctx, "guest")
		if err == nil && ok(s) {
			return
		}
		select {
		case <-tick.C:
		case err := <-done:
			t.Fatalf("Perform ended too early: %v", err)
		case <-ctx.Done():
			t.Fatalf("%v; the last figures: %+v", ctx.Err(), s)
		}
	}
}

func TestT3StorageIsMirrored(t *testing.T) {
	for name, params := range map[string]migrate.Params{
		"precopy":            {Strategy: migrate.StrategyPrecopy},
		"postcopy":           {Strategy: migrate.StrategyPostcopy},
		"synchronous writes": {Strategy: migrate.StrategyPrecopy, SynchronousWrites: true},
		"named disk":         {Strategy: migrate.StrategyPrecopy, MigrateDisks: []string{"vdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := limit(t, time.Minute)
			p, srcImage, dstImage := diskPair(ctx, t)
			params.CopyStorage, params.Bandwidth, params.MaxDowntime = migrate.CopyAll, 4<<20, time.Millisecond
			moveWithDisk(ctx, t, p, params)
			wantBytes(t, dstImage, 0x22, 0, 65536)
			wantBytes(t, dstImage, 0x33, 1<<20, 65536)
			wantBytes(t, dstImage, 0x44, 2<<20, 65536)
			wantBytes(t, dstImage, 0x11, 3<<20, diskSize-3<<20)
			wantBytes(t, srcImage, 0x11, 2<<20, 65536) // the source wrote nothing after the switch
		})
	}
}

func TestT3StorageIsLeftAloneWhenPerformFails(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, srcImage, _ := diskPair(ctx, t)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, Bandwidth: 4 << 20, MaxDowntime: time.Millisecond}
	o, err := p.a.Begin(ctx, "guest", params)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := p.b.Prepare(ctx, o, params)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := p.a.Perform(ctx, o, params, ticket)
		done <- err
	}()
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return s.DiskSent != nil && *s.DiskSent > 0 })
	p.dst.kill()
	if err := <-done; err == nil {
		t.Fatal("Perform succeeded without a destination")
	}
	if got := p.state(ctx, p.a); got != migrate.RunRunning {
		t.Errorf("the source is %s", got)
	}
	if nodes, err := p.a.ourNodes(ctx); err != nil || len(nodes) > 0 {
		t.Errorf("left behind: nodes %v, %v", nodes, err)
	}
	if js, err := qmp.QueryJobs(ctx, p.a.c); err != nil || len(js) > 0 {
		t.Errorf("left behind: jobs %v, %v", js, err)
	}
	guestWrites(ctx, t, p.src.qmp(ctx), 0x55, 0, 65536)
	wantBytes(t, srcImage, 0x55, 0, 65536)
}

func TestT3UnlikeDestinationIsRefused(t *testing.T) {
	ctx := limit(t, time.Minute)
	image := guestImage(t, 0)
	src := startQEMU(t, image, withDisk(newImage(t, "src.img", 1))...)
	small := filepath.Join(t.TempDir(), "small.img")
	if err := os.WriteFile(small, make([]byte, diskSize/2), 0o600); err != nil {
		t.Fatal(err)
	}
	dst := startQEMU(t, image, append(withDisk(small), "-incoming", "defer", "-m", "48M", "-smp", "2",
		"-device", "virtio-rng-pci,id=extra", "-machine", "pc")...)
	a, b := src.dial(ctx), dst.dial(ctx)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll}
	o, err := a.Begin(ctx, "guest", params)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Prepare(ctx, o, params)
	wantMentions(t, err, "machine type", "vCPUs", "32 MiB of RAM there, 48 MiB here", "device extra", "disk vdb has")
	s, err := b.State(ctx, "guest")
	if err != nil || s.Job || s.Run != migrate.RunIncoming {
		t.Errorf("the destination after a refusal: %+v, %v", s, err)
	}
}
