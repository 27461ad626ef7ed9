package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// faults: what befalls disks while they are copied costs the migration and nothing else. The guest stays where it is, all of
// its writes are kept, and once the cause is gone the same command moves it.
func (d *diskBench) faults(t *testing.T) {
	long := os.Getenv(roundsEnv) != ""
	for _, f := range []struct {
		name string
		long bool
		do   func(*diskBench, string)
	}{
		{"source unreadable, native", false, func(d *diskBench, from string) { d.unreadable("native", from) }},
		{"source unreadable, nbd", true, func(d *diskBench, from string) { d.unreadable("nbd", from) }},
		{"destination full, native", false, func(d *diskBench, from string) { d.full("native", from) }},
		{"destination full, nbd", true, func(d *diskBench, from string) { d.full("nbd", from) }},
		{"destination full, after", false, (*diskBench).fullAfter},
		{"destination stays full, after", true, (*diskBench).staysFullAfter},
		{"cut at 30 %, native", true, func(d *diskBench, from string) { d.cutAt("native", from, 0.3) }},
		{"cut at 80 %, native", true, func(d *diskBench, from string) { d.cutAt("native", from, 0.8) }},
		{"cut at 30 %, nbd", true, func(d *diskBench, from string) { d.cutAt("nbd", from, 0.3) }},
		{"cut at 80 %, nbd", true, func(d *diskBench, from string) { d.cutAt("nbd", from, 0.8) }},
	} {
		if f.long && !long {
			continue
		}
		ok := t.Run(f.name, func(t *testing.T) {
			e := d.of(t)
			e.guard()
			f.do(e, e.where())
		})
		if !ok {
			break // what follows needs the guest
		}
	}
	d.ok(d.move("native", "precopy", d.where())...)
	d.verify()
}

// stays fails unless the migration ended with the guest at the source, with a report that names the disk.
func (d *diskBench) stays(p *proc, from, says string) migrate.Report {
	d.t.Helper()
	p.ends(exitSource)
	r := p.report()
	if r.Outcome != migrate.OutcomeFailed || r.Owner != migrate.OwnerSource || r.Error == nil || !strings.Contains(r.Error.Cause, says) {
		d.t.Errorf("outcome %s, owner %s, error %+v, which should name %q", r.Outcome, r.Owner, r.Error, says)
	}
	if got := d.where(); got != from {
		d.t.Fatalf("the guest runs on %s, want %s", got, from)
	}
	return r
}

// work sets what the guest does.
func (d *diskBench) work(spec string) {
	d.t.Helper()
	ctx, stop := context.WithTimeout(d.t.Context(), patience)
	defer stop()
	g, err := d.lab.Guest(ctx, guestName)
	if err != nil {
		d.t.Fatal(err)
	}
	o, err := g.Oracle(ctx)
	if err != nil {
		d.t.Fatal(err)
	}
	defer o.Close()
	if err := o.SetWorkload(ctx, spec); err != nil {
		d.t.Fatal(err)
	}
}

// unreadable moves a guest whose disk cannot be read at one place, which the guest itself has no need of.
func (d *diskBench) unreadable(engine, from string) {
	d.t.Helper()
	d.work("blockio:size=1MiB,rate=60")
	d.ok("lab", "break", guestName, "vda", "3200KiB")
	d.stays(d.start(nil, d.move(engine, "precopy", from)...), from, "vda")
	d.ok("lab", "mend", guestName, "vda")
	d.work("blockio:size=1GiB,rate=60")
	d.wellAt(from)
}

// mountSize is that of a file system with room for the first disk and for what else is kept beside it while it is on its way.
func mountSize() string {
	if os.Getenv(roundsEnv) != "" {
		return "1600MiB"
	}
	return "320MiB"
}

// fillMount leaves hardly any room on a host's file system.
func (d *diskBench) fillMount(host, dir string) {
	d.t.Helper()
	d.ok("lab", "exec", host, "--", "sh", "-c", "fallocate -l $(($(df -B1 --output=avail "+dir+" | tail -1) - 4194304)) "+dir+"/other")
}

// full moves it to a file system that is full before all is there, although there was room when it was looked at.
func (d *diskBench) full(engine, from string) {
	d.t.Helper()
	const dir = "/run/small"
	to := other(from)
	d.ok("lab", "mount", to, dir, mountSize())
	defer d.ok("lab", "exec", to, "--", "umount", "-l", dir)
	marker := d.marker()
	p := d.start([]string{migrate.ParkEnv + "=before-copy@" + marker}, d.move(engine, "precopy", from, "--disk", "vda="+dir+"/vda.qcow2")...)
	p.parked(d.bench, marker)
	d.fillMount(to, dir)
	if err := os.Remove(marker); err != nil {
		d.t.Fatal(err)
	}
	r := d.stays(p, from, "vda")
	if !strings.Contains(strings.ToLower(r.Error.Cause+r.Error.Fix), "space") {
		d.t.Errorf("nothing is said of the space: %+v", r.Error)
	}
	d.wellAt(from)
}

// cutAt pulls the cable when that part of the disks has been copied.
func (d *diskBench) cutAt(engine, from string, part float64) {
	d.t.Helper()
	d.shape(from, slowLink)
	p := d.start(nil, d.move(engine, "precopy", from, "--disk-idle", "5s")...)
	d.until("that part of the disks is copied", func() bool { return d.copied(from) >= part })
	d.cut(from)
	r := d.stays(p, from, "")
	d.t.Logf("ended: %+v", r.Error)
	// QEMU would wait for what it has sent to be answered, and libvirt for QEMU, were the connections not closed.
	if job := d.virsh(from, "domjobinfo", guestName); !strings.Contains(job, "None") {
		d.t.Errorf("the migration has ended, and libvirt's job has not:\n%s", job)
	}
	d.mend(from)
	d.shape(from, "unlimited")
	d.wellAt(from)
	d.ok(d.move(engine, "precopy", from)...) // at once, as it is told
	d.wellAt(other(from))
}

// copied is how much of the disks QEMU's mirrors have copied; 0 before they begin.
func (d *diskBench) copied(from string) float64 {
	d.t.Helper()
	out, err := exec.CommandContext(d.t.Context(), "virsh", "-q", "-c", d.uris[from], "qemu-monitor-command", guestName, `{"execute":"query-block-jobs"}`).Output()
	if err != nil {
		return 0 // it is busy
	}
	var r struct {
		Return []struct{ Len, Offset float64 }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		d.t.Fatal(err)
	}
	var done, total float64
	for _, j := range r.Return {
		done, total = done+j.Offset, total+j.Len
	}
	return done / max(total, 1)
}

// overlay: a guest whose disk is an overlay moves with that alone onto the base that the destination has.
func (d *diskBench) overlay(t *testing.T) {
	from := d.where()
	to := other(from)
	const top = "/var/lib/libvirt/images/" + guestName + ".top"
	d.virsh(from, "snapshot-create-as", guestName, "s", "--disk-only", "--no-metadata", "--diskspec", "vda,file="+top, "--diskspec", "vdb,snapshot=no")
	base := d.image(from, 0)
	if out, err := exec.CommandContext(t.Context(), "cp", "--sparse=always", base, d.image(to, 0)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.work("blockio:size=16MiB,rate=60")
	engines := []string{"native"}
	if os.Getenv(roundsEnv) != "" {
		engines = append(engines, "nbd")
	}
	for _, engine := range engines {
		args := d.move(engine, "precopy", from, "--migrate-disks", "vda,vdb")
		for i := range args {
			if args[i] == "--copy-storage-all" {
				args[i] = "--copy-storage-inc"
			}
		}
		d.start(nil, args...).ends(exitDone)
		if got := d.diskOf(to); got != top {
			t.Errorf("the disk is %s, want %s", got, top)
		}
		has := allocated(t, filepath.Join(d.hosts[to].ImagesDir(), filepath.Base(top)))
		if all := allocated(t, base); has > all {
			t.Errorf("the overlay takes %d bytes at the destination, its base %d", has, all)
		}
		d.wellAt(to)
		from, to = to, from
	}
}

// device: a disk's image may be a device of the destination.
func (d *diskBench) device(t *testing.T) {
	from, size := d.where(), int64(64<<20)
	if os.Getenv(roundsEnv) != "" {
		size = 1 << 30
	}
	dev := loopDevice(t, size)
	t.Cleanup(func() { d.run("lab", "remove", guestName) }) // it has the device open
	for _, step := range []struct{ engine, to string }{
		{"nbd", "vda=" + dev + ",format=raw"}, {"native", "vda=" + d.hostImage("back.qcow2") + ",format=qcow2"},
	} {
		if step.engine == "native" && os.Getenv(roundsEnv) == "" {
			break
		}
		d.start(nil, d.move(step.engine, "precopy", from, "--disk", step.to)...).ends(exitDone)
		from = other(from)
		if want, _, _ := strings.Cut(strings.TrimPrefix(step.to, "vda="), ","); d.diskOf(from) != want {
			t.Errorf("the disk is %s, want %s", d.diskOf(from), want)
		}
		d.wellAt(from)
	}
}

// hostImage is the path of an image as a host sees it.
func (d *diskBench) hostImage(name string) string { return "/var/lib/libvirt/images/" + name }

// loopDevice is a block device of that size.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	if err := unix.Access("/dev/loop-control", unix.W_OK); err != nil {
		t.Skipf("no loop devices: %v; load the module loop", err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return dev
}
