package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
)

// diskBench is a lab with a guest that has two disks: one in qcow2, partly full when it starts, and a raw one.
type diskBench struct {
	*bench
	lab   *testenv.Lab
	files []string // the images' names, of vda and vdb
	forms []string
	// grain is the least that the drivers' copying adds to a raw image, in bytes.
	grain int64
}

// diskGuest starts that guest: small, or in a long run the one that migrations of disks are judged by.
func diskGuest() []string {
	disks := []string{"--disk", "64MiB,format=qcow2,used=20MiB", "--disk", "16MiB"}
	if os.Getenv(roundsEnv) != "" {
		disks = []string{"--disk", "1GiB,format=qcow2,used=300MiB", "--disk", "256MiB"}
	}
	return append([]string{"--backing", "shared", "--accel", testenv.AccelTCG, "--memory", sharedMemory, "--workload", "blockio:size=1GiB,rate=60"}, disks...)
}

// newDiskBench has that guest in the lab of all tests.
func newDiskBench(t *testing.T) *diskBench {
	t.Helper()
	x := newSharedBench(t)
	x.shared(sharedKind{guest: diskGuest()})
	// libvirt's own copying leaves it to QEMU by how much a mirror goes.
	return &diskBench{bench: x, lab: theLab.lab, files: []string{guestName + ".qcow2", guestName + "@vdb.img"}, forms: []string{"qcow2", "raw"}, grain: 64 << 10}
}

// newBareBench has it in a lab without libvirt.
func newBareBench(t *testing.T) *diskBench {
	t.Helper()
	need.QEMU(t)
	need.Netns(t)
	need.UFFD(t)
	_, err := guest.Find()
	need.Guest(t, err)
	dir, err := os.MkdirTemp("/var/tmp", "e2e") // the paths of sockets have to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	mountSmall(t, filepath.Join(dir, "small"))
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	up, err := testenv.Up(ctx, testenv.Config{Name: "lab", Dir: dir, Bare: true, Bound: true})
	t.Cleanup(func() {
		if up != nil {
			err = up.Down(context.Background())
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	x := &bench{t: t, hosts: map[string]*testenv.Host{}, state: t.TempDir(), guest: diskGuest(), dir: dir, bare: up}
	x.env = append(os.Environ(), testenv.DirEnv+"="+dir, "VMMIGRATE_STATE_DIR="+x.state)
	for _, h := range up.Hosts() {
		x.hosts[h.Name()] = h
	}
	x.keepLogs(t)
	x.ok(append([]string{"lab", "guest", guestName}, x.guest...)...)
	return &diskBench{bench: x, lab: up, files: []string{guestName + ".qcow2", guestName + "@vdb.img"}, forms: []string{"qcow2", "raw"}, grain: 4 << 10}
}

// of gives the bench to a subtest.
func (d *diskBench) of(t *testing.T) *diskBench {
	e := *d
	e.bench = d.in(t)
	return &e
}

// move is the command that moves the guest with its disks from one host to the other.
func (d *diskBench) move(engine, strategy, from string, more ...string) []string {
	d.t.Helper()
	args := []string{"migrate"}
	if d.bare != nil {
		var there struct {
			URI        string `json:"uri"`
			MigrateURI string `json:"migrate_uri"`
		}
		if err := json.Unmarshal([]byte(d.ok("lab", "await", guestName, other(from), "-o", "json")), &there); err != nil {
			d.t.Fatal(err)
		}
		args = append(args, "-c", d.monitor(from), guestName, there.URI, there.MigrateURI)
	} else {
		args = append(args, "-c", d.uris[from], guestName, d.uris[other(from)], "--persistent", "--undefinesource")
	}
	return append(append(args, "--engine", engine, "--strategy", strategy, "--copy-storage-all", "--progress", "json", "-o", "json"), more...)
}

// monitor is the URI of the guest's QEMU on a host without libvirt.
func (d *diskBench) monitor(host string) string {
	d.t.Helper()
	g, err := d.lab.Guest(d.t.Context(), guestName)
	if err != nil {
		d.t.Fatal(err)
	}
	return g.URI(d.hosts[host])
}

// resume lets a guest run that a migration has left at a standstill.
func (d *diskBench) resume(host string) {
	d.t.Helper()
	if d.bare == nil {
		d.virsh(host, "resume", guestName)
		return
	}
	ctx, stop := context.WithTimeout(d.t.Context(), patience)
	defer stop()
	g, err := d.lab.Guest(ctx, guestName)
	if err == nil {
		err = g.Resume(ctx, d.hosts[host])
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// wellAt fails unless the guest runs on that host alone and all of its memory and of each disk is as it should be.
func (d *diskBench) wellAt(host string) testenv.Verdict {
	d.t.Helper()
	code, out := d.run("lab", "verify", guestName, "-o", "json")
	var v testenv.Verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	if code != exitDone || !v.OK || v.Host != host {
		d.t.Fatalf("lab verify: exit code %d, well is %v, on %q, want %s\n%s", code, v.OK, v.Host, host, out)
	}
	names := []string{}
	for _, k := range v.Report.Disks {
		names = append(names, k.Name)
		if !k.OK || k.Blocks == 0 {
			d.t.Errorf("disk %+v", k)
		}
	}
	if !slices.Equal(names, []string{"vda", "vdb"}) || v.Report.Disks[0].Filled == 0 {
		d.t.Errorf("the guest tells of disks %q, %d blocks filled", names, v.Report.Disks[0].Filled)
	}
	d.at(host)
	return v
}

// image is where the lab has a disk on a host.
func (d *diskBench) image(host string, disk int) string {
	return filepath.Join(d.hosts[host].ImagesDir(), d.files[disk])
}

// alike fails unless each disk at the destination is the source's, of sound format, and takes hardly more space. The guest
// stands still.
func (d *diskBench) alike(from string) {
	d.t.Helper()
	for i, format := range d.forms {
		src, dst := d.image(from, i), d.image(other(from), i)
		d.img("compare", "-U", "-f", format, "-F", format, src, dst)
		if format == "qcow2" {
			d.img("check", "-q", "-U", "-f", format, dst)
		}
		had, has := allocated(d.t, src), allocated(d.t, dst)
		d.t.Logf("%s: %d KiB allocated, at the source %d KiB", d.files[i], has>>10, had>>10)
		if format == "raw" {
			had = grained(d.t, src, d.grain)
		}
		const slack = 64 << 10 // the file system's own blocks are counted, too
		if has*100 > had*105+slack*100 {
			d.t.Errorf("%s takes %d bytes at the destination, %d at the source", d.files[i], has, had)
		}
	}
}

func (d *diskBench) img(args ...string) {
	d.t.Helper()
	if out, err := exec.CommandContext(d.t.Context(), "qemu-img", args...).CombinedOutput(); err != nil {
		d.t.Errorf("qemu-img %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// allocated is what a file takes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// grained is what a file with holes takes where each piece of data is rounded to the grain.
func grained(t *testing.T, path string, grain int64) (sum int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, last := int64(0), int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return sum
		}
		hole, err2 := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		from, to := max(data/grain*grain, last), (hole+grain-1)/grain*grain
		sum += max(to-from, 0)
		at, last = hole, max(to, last)
	}
}

func (d *diskBench) String() string {
	if d.bare != nil {
		return "bare QEMU"
	}
	return fmt.Sprint("libvirt, grain ", d.grain)
}
