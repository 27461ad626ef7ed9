package libvirthost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/testenv"
)

func TestMirrorCap(t *testing.T) {
	for name, c := range map[string]struct {
		p    migrate.Params
		n    int
		want int64
	}{
		"no cap":                        {migrate.Params{}, 2, 0},
		"no disks":                      {migrate.Params{BandwidthDisk: 5}, 0, 0},
		"shared":                        {migrate.Params{BandwidthDisk: 10 << 20, Bandwidth: 1 << 20}, 2, 5 << 20},
		"as RAM":                        {migrate.Params{Bandwidth: 8 << 20}, 2, 4 << 20},
		"less than libvirt can be told": {migrate.Params{BandwidthDisk: 3 << 20}, 4, 1 << 20},
	} {
		if got := mirrorCap(c.p, c.n); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestDiskFix(t *testing.T) {
	for text, want := range map[string]string{
		"operation failed: migration of disk vda failed: No space left on device": "the target of disk vda is full",
		"operation failed: migration of disk vdb failed: Input/output error":      "disk vdb at both ends",
		"operation failed: migration of disk sda failed":                          "more of disk sda",
		"operation failed: something else":                                        "",
	} {
		if got := fixFor(libvirt.Error{Code: uint32(libvirt.ErrOperationFailed), Message: text}); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", text, got)
		}
	}
}

// TestT4DiskCap: the mirror runs at the cap of the disks, and RAM gets its own as soon as the mirror has begun.
func TestT4DiskCap(t *testing.T) {
	ctx := testContext(t)
	lab := theLab.up(t)
	image(t, mustHost(t, lab, "a"), "disk.img", 0xd1)
	image(t, mustHost(t, lab, "b"), "disk.img", 0)
	p := newPair(ctx, t, guestConfig{disk: "disk.img"})
	params := migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, BandwidthDisk: 1<<20 + 1, Bandwidth: 3 << 20, DiskIdle: 30 * time.Second}

	w := p.begin(ctx, params)
	w.prepare(ctx).performing(ctx)
	p.speed(ctx, 1<<20+1)
	var ram struct {
		Return map[string]any
	}
	p.until(ctx, "RAM has a cap of its own", func() bool {
		p.query(ctx, "query-migrate-parameters", &ram)
		return ram.Return["max-bandwidth"] == float64(3<<20)
	})
	s, err := p.a.Stats(ctx, p.name)
	if err != nil || len(s.Disks) != 1 || s.Disks[0].Name != "vda" || s.Disks[0].Total == nil || *s.Disks[0].Sent != 1<<20 || s.Disks[0].Writes != migrate.WritesBackground {
		t.Errorf("figures: %+v, %v", s.Disks, err)
	}
	if err := p.a.Tune(ctx, p.name, migrate.Tuning{BandwidthDisk: 2<<20 + 3}); err != nil {
		t.Error(err)
	}
	p.speed(ctx, 2<<20+3)
	if err := p.a.Cancel(ctx, p.name); err != nil {
		t.Fatal(err)
	}
	if err := <-w.perf; !errors.Is(err, migrate.ErrCancelled) {
		t.Error(err)
	}
	if err := p.b.Finish(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}

// speed waits until the only mirror has a speed.
func (p *pair) speed(ctx context.Context, want int64) {
	p.t.Helper()
	var job struct {
		Return []struct{ Speed int64 }
	}
	p.until(ctx, fmt.Sprintf("the mirror has the speed %d", want), func() bool {
		p.query(ctx, "query-block-jobs", &job)
		return len(job.Return) == 1 && job.Return[0].Speed == want
	})
}

// query asks the source's QEMU.
func (p *pair) query(ctx context.Context, command string, out any) {
	p.t.Helper()
	err := p.a.act(ctx, p.name, func(l *libvirt.Libvirt, d libvirt.Domain) error {
		answer, err := l.QEMUDomainMonitorCommand(d, `{"execute":"`+command+`"}`, 0)
		if err == nil {
			err = json.Unmarshal([]byte(answer), out)
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestT4IdleCopyEnds: a destination that takes nothing any more ends the copy, and the error names the disk.
func TestT4IdleCopyEnds(t *testing.T) {
	ctx := testContext(t)
	lab := theLab.up(t)
	size := 64 << 20
	for _, h := range []string{"a", "b"} {
		grow(t, image(t, mustHost(t, lab, h), "disk.img", 0xd1), size)
	}
	p := newPair(ctx, t, guestConfig{disk: "disk.img"})
	w := p.begin(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, BandwidthDisk: 2 << 20, DiskIdle: time.Second})
	w.prepare(ctx)
	go func() {
		_, err := w.a.Perform(ctx, w.offer, w.params, w.ticket)
		w.perf <- err
	}()
	p.until(ctx, "the disk is on its way", func() bool {
		s, err := p.a.Stats(ctx, p.name)
		return err == nil && len(s.Disks) == 1 && *s.Disks[0].Sent > 0
	})
	p.signal(p.hostB, "STOP")
	err := <-w.perf
	p.signal(p.hostB, "CONT")
	if err == nil || errors.Is(err, migrate.ErrCancelled) || !strings.Contains(err.Error(), "disk vda: its copy moved no byte for 1s") || migrate.FixOf(err) == "" {
		t.Errorf("%v (fix %q)", err, migrate.FixOf(err))
	}
	if err := p.b.Finish(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}

// signal sends the guest's process on a host a signal.
func (p *pair) signal(host *testenv.Host, sig string) {
	p.t.Helper()
	if _, err := host.Output(context.Background(), "sh", "-c", "kill -"+sig+" $(cat /run/libvirt/qemu/"+p.name+".pid)"); err != nil {
		p.t.Error(err)
	}
}

// grow fills a file up to a size with what is no zero.
func grow(t *testing.T, path string, size int) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xd1}, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestT4FullTarget: libvirt ends the migration; the error names the disk and says what to do.
func TestT4FullTarget(t *testing.T) {
	ctx := testContext(t)
	lab := theLab.up(t)
	a, b := mustHost(t, lab, "a"), mustHost(t, lab, "b")
	for _, h := range []*testenv.Host{a, b} {
		p := filepath.Join(h.ImagesDir(), "small")
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(p) })
	}
	image(t, a, "small/disk.img", 0xd1)
	in := func(cmd string) {
		if out, err := b.Output(ctx, "sh", "-c", cmd); err != nil {
			t.Fatalf("%s: %v, %s", cmd, err, out)
		}
	}
	in("mount -t tmpfs -o size=512k none " + images + "/small && truncate -s 1M " + images + "/small/disk.img && chmod 666 " + images + "/small/disk.img")
	t.Cleanup(func() { _, _ = b.Output(context.Background(), "umount", "-l", images+"/small") })
	p := newPair(ctx, t, guestConfig{disk: "small/disk.img"})
	w := p.begin(ctx, migrate.Params{Strategy: migrate.StrategyPrecopy, CopyStorage: migrate.CopyAll, DiskFull: time.Minute})
	w.prepare(ctx)
	_, err := w.a.Perform(ctx, w.offer, w.params, w.ticket)
	if err == nil || !strings.Contains(err.Error(), "No space left on device") || !strings.Contains(migrate.FixOf(err), "the target of disk vda is full") {
		t.Errorf("%v (fix %q)", err, migrate.FixOf(err))
	}
	if err := p.b.Finish(ctx, w.offer, w.params, w.ticket, false); err != nil {
		t.Error(err)
	}
	p.whole(ctx, migrate.SideSource)
}
