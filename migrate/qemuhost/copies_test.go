package qemuhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// performing starts a migration of the pair's disks up to the running Perform.
func (p *pair) performing(ctx context.Context, params migrate.Params) (done chan error) {
	p.t.Helper()
	o, err := p.a.Begin(ctx, "guest", params)
	if err != nil {
		p.t.Fatal(err)
	}
	t, err := p.b.Prepare(ctx, o, params)
	if err != nil {
		p.t.Fatal(err)
	}
	done = make(chan error, 1)
	go func() {
		_, err := p.a.Perform(ctx, o, params, t)
		done <- err
	}()
	return done
}

// TestT3DiskCap: the mirror runs at the cap of the disks, whatever that of RAM is, and follows a new one.
func TestT3DiskCap(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, _, _ := diskPair(ctx, t)
	done := p.performing(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, Bandwidth: 1 << 40, BandwidthDisk: 256 << 10})
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return len(s.Disks) == 1 })
	probe := p.src.qmp(ctx)
	speed := func() int64 {
		js, err := qmp.QueryBlockJobs(ctx, probe)
		if err != nil || len(js) != 1 {
			t.Fatalf("jobs: %v, %v", js, err)
		}
		return js[0].Speed
	}
	if got := speed(); got != 256<<10 {
		t.Errorf("the mirror's speed is %d", got)
	}
	if err := p.a.Tune(ctx, "guest", migrate.Tuning{BandwidthDisk: 300 << 10}); err != nil {
		t.Fatal(err)
	}
	if got := speed(); got != 300<<10 {
		t.Errorf("the mirror's speed is %d after a change", got)
	}
	if err := p.a.Cancel(ctx, "guest"); err != nil {
		t.Fatal(err)
	}
	wantIs(t, <-done, migrate.ErrCancelled)
}

// smallFS makes a file system that has room for so many bytes.
func smallFS(t *testing.T, size int) string {
	t.Helper()
	need.Netns(t) // of a root user
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fullPair is a pair whose guest has a disk for which the destination has too little room. The function makes room. The source's
// image is full up to data.
func fullPair(ctx context.Context, t *testing.T, data int) (p *pair, dst string, free func()) {
	t.Helper()
	srcImage := newImage(t, "src.img", 0x11)
	if err := errors.Join(os.Truncate(srcImage, int64(data)), os.Truncate(srcImage, diskSize)); err != nil {
		t.Fatal(err)
	}
	dir := smallFS(t, diskSize)
	dst, ballast := filepath.Join(dir, "dst.img"), filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, diskSize/2), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(dst)
	if err == nil {
		err = f.Truncate(diskSize)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	image := guestImage(t, 20000)
	p = &pair{t: t, src: startQEMU(t, image, withDisk(srcImage)...),
		dst: startQEMU(t, image, "-blockdev", "driver=file,node-name=data-file,discard=unmap,filename="+dst,
			"-blockdev", "driver=raw,node-name=data,file=data-file,discard=unmap", "-device", "virtio-blk-pci,id=vdb,drive=data", "-incoming", "defer", "-S")}
	p.a, p.b = p.src.dial(ctx), p.dst.dial(ctx)
	await(ctx, t, "the guest boots", p.src.booted)
	return p, dst, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

// TestT3FullTargetWaits: the copy pauses and the guest does not; it goes on when there is room.
func TestT3FullTargetWaits(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, dst, free := fullPair(ctx, t, diskSize)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, DiskFull: time.Minute, DiskIdle: time.Minute}
	done := p.performing(ctx, params)
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return len(s.Disks) == 1 && s.Disks[0].Waits != "" })
	s, err := p.a.Stats(ctx, "guest")
	if err != nil || !strings.Contains(s.Disks[0].Waits, "MiB there") {
		t.Errorf("%+v, %v", s, err)
	}
	if got := p.state(ctx, p.a); got != migrate.RunRunning {
		t.Errorf("the guest is %s while its disk waits for room", got)
	}
	free()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantBytes(t, dst, 0x11, 0, diskSize)
	if s, err := p.a.Stats(ctx, "guest"); err != nil || s.Disks[0].Waits != "" || *s.Disks[0].Sent < diskSize {
		t.Errorf("afterwards: %+v, %v", s, err)
	}
}

// TestT3FullTargetHoldsTheSwitch: room that is lacking only once the disk was in step keeps the guest from being switched over,
// however little RAM is left.
func TestT3FullTargetHoldsTheSwitch(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, dst, free := fullPair(ctx, t, 2<<20)
	done := p.performing(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, DiskFull: time.Minute,
		Bandwidth: 4 << 20, MaxDowntime: time.Millisecond})
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return s.Status == "active" && len(s.Disks) == 1 && s.Disks[0].InStep })
	guestWrites(ctx, t, p.src.qmp(ctx), 0x77, 2<<20, 6<<20)
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return s.Disks[0].Waits != "" })
	if err := p.a.Tune(ctx, "guest", migrate.Tuning{Bandwidth: 1 << 40, MaxDowntime: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	sent := int64(0)
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { // within as many pages QEMU would have switched long ago
		if s.RAMSent == nil {
			return false // it has ended: Perform says why
		}
		if sent == 0 {
			sent = *s.RAMSent
		}
		return *s.RAMSent > sent+20<<12
	})
	if got := p.state(ctx, p.a); got != migrate.RunRunning {
		t.Errorf("the guest is %s while its disk waits for room", got)
	}
	free()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantBytes(t, dst, 0x11, 0, 2<<20)
	wantBytes(t, dst, 0x77, 2<<20, 6<<20)
}

// TestT3FullTargetGivesUp: nobody makes room, so the guest stays and the error says for which disk there was none.
func TestT3FullTargetGivesUp(t *testing.T) {
	for name, wait := range map[string]time.Duration{"after a while": time.Second, "at once": 0} {
		t.Run(name, func(t *testing.T) {
			ctx := limit(t, time.Minute)
			p, _, _ := fullPair(ctx, t, diskSize)
			done := p.performing(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, DiskFull: wait})
			wantMentions(t, <-done, "disk vdb", "No space left on device", "destination")
			p.well(ctx)
		})
	}
}

// well fails unless the guest runs at the source, whole, and nothing of a migration is left there.
func (p *pair) well(ctx context.Context) {
	p.t.Helper()
	if got := p.state(ctx, p.a); got != migrate.RunRunning {
		p.t.Errorf("the source is %s", got)
	}
	probe := p.src.qmp(ctx)
	if js, err := qmp.QueryJobs(ctx, probe); err != nil || len(js) > 0 {
		p.t.Errorf("left behind: jobs %v, %v", js, err)
	}
	if err := p.src.verify(ctx, probe); err != nil {
		p.t.Error(err)
	}
}

// TestT3DiskErrors: an I/O error ends the copy, and the error names the disk and the side.
func TestT3DiskErrors(t *testing.T) {
	broken := func(image, event string) []string {
		return []string{"-blockdev", "driver=file,node-name=data-file,filename=" + image,
			"-blockdev", fmt.Sprintf(`{"driver":"blkdebug","node-name":"data-bad","image":"data-file","inject-error":[{"event":"none","iotype":%q,"errno":5,"sector":8192}]}`, event),
			"-blockdev", "driver=raw,node-name=data,file=data-bad", "-device", "virtio-blk-pci,id=vdb,drive=data"}
	}
	for name, c := range map[string]struct {
		src, dst func(image string) []string
		want     []string
	}{
		"the source cannot be read": {func(i string) []string { return broken(i, "read") }, withDisk,
			[]string{"disk vdb", "read at the source", "Input/output error"}},
		"the destination cannot be written": {withDisk, func(i string) []string { return broken(i, "write") },
			[]string{"disk vdb", "written at the destination", "Input/output error"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := limit(t, time.Minute)
			image := guestImage(t, 20000)
			p := &pair{t: t, src: startQEMU(t, image, c.src(newImage(t, "src.img", 0x11))...),
				dst: startQEMU(t, image, append(c.dst(newImage(t, "dst.img", 0)), "-incoming", "defer", "-S")...)}
			p.a, p.b = p.src.dial(ctx), p.dst.dial(ctx)
			await(ctx, t, "the guest boots", p.src.booted)
			done := p.performing(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, DiskFull: time.Minute})
			wantMentions(t, <-done, c.want...)
			p.well(ctx)
		})
	}
}

// TestT3OutrunCopyBlocksWrites: a guest that writes as fast as the mirror copies has its writes wait, and the copy ends.
func TestT3OutrunCopyBlocksWrites(t *testing.T) {
	ctx := limit(t, 2*time.Minute)
	p, _, dst := diskPair(ctx, t)
	done := p.performing(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, BandwidthDisk: 1 << 20,
		Bandwidth: 4 << 20, MaxDowntime: time.Millisecond})
	src, written := p.src.qmp(ctx), make(chan struct{})
	stop, leave := context.WithCancel(ctx)
	go func() {
		defer close(written)
		for i := 0; stop.Err() == nil; i++ {
			guestWrites(ctx, t, src, byte(1+i%250), i%8<<20, 512<<10)
		}
	}()
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return len(s.Disks) == 1 && s.Disks[0].Writes == migrate.WritesBlocking })
	s, err := p.a.Stats(ctx, "guest")
	if err != nil || !strings.Contains(s.Disks[0].Advice, "wait for the destination from now on") {
		t.Errorf("%+v, %v", s.Disks, err)
	}
	if err := p.a.Tune(ctx, "guest", migrate.Tuning{BandwidthDisk: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return s.Disks[0].InStep })
	leave()
	<-written
	guestWrites(ctx, t, src, 0x77, 0, 65536)
	if err := p.a.Tune(ctx, "guest", migrate.Tuning{Bandwidth: 1 << 40, MaxDowntime: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantBytes(t, dst, 0x77, 0, 65536)
}

// TestT3IdleCopyEnds: a destination that takes nothing any more ends the copy, and the error names the disk.
func TestT3IdleCopyEnds(t *testing.T) {
	ctx := limit(t, time.Minute)
	p, _, _ := diskPair(ctx, t)
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, BandwidthDisk: 256 << 10, DiskIdle: time.Second}
	done := p.performing(ctx, params)
	waitStats(ctx, t, p.a, done, func(s migrate.Stats) bool { return len(s.Disks) == 1 && *s.Disks[0].Sent > 0 })
	p.dst.freeze()
	if err := p.a.Tune(ctx, "guest", migrate.Tuning{BandwidthDisk: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	wantMentions(t, <-done, "disk vdb", "moved no byte for 1s")
	p.well(ctx)
}
