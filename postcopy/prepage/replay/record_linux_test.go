package replay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/handoff"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage/replay"
	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
)

// BenchmarkRecord makes the traces in testdata: a Linux guest is stopped, all of its RAM is taken from it and kept
// beside, and it runs on while every page comes on demand. The time of a run is the time of the recording, and means
// nothing.
//
//	go test -run '^$' -bench Record -benchtime 1x ./postcopy/prepage/replay
//
// It writes where VMMIGRATE_RECORD says, or to a temporary folder.
func BenchmarkRecord(b *testing.B) {
	need.QEMU(b)
	need.UFFD(b)
	dir := os.Getenv("VMMIGRATE_RECORD")
	if dir == "" {
		dir = b.TempDir()
	}
	for _, workload := range []string{"idle:size=24MiB", "hotset:size=24MiB,rate=3000", "sequential:size=24MiB,rate=4000", "uniform:size=24MiB,rate=3000"} {
		name, _, _ := strings.Cut(workload, ":")
		b.Run(name, func(b *testing.B) {
			for range b.N {
				record(b, workload, filepath.Join(dir, name+".csv"))
			}
		})
	}
}

const guestRAM = 256 << 20

// recording is a guest whose RAM is being taken away.
type recording struct {
	b      *testing.B
	pid    int
	qmp    *qmp.Client
	ram    *os.File
	addr   uint64
	blocks []ram.Block
}

func record(b *testing.B, workload, to string) {
	r := boot(b, workload)
	hot := r.watch(5, 300*time.Millisecond)
	if err := qmp.Stop(b.Context(), r.qmp); err != nil {
		b.Fatal(err)
	}
	missing := ram.NewSet(r.blocks)
	for e, err := range sys.DataExtents(r.ram, 0, guestRAM) {
		if err != nil {
			b.Fatal(err)
		}
		missing[0].SetRange(int(e.Off/4096), int((e.Off+e.Len+4095)/4096))
	}
	kept, err := os.CreateTemp(b.TempDir(), "ram")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = kept.Close() }()
	if _, err := io.Copy(kept, io.NewSectionReader(r.ram, 0, guestRAM)); err != nil {
		b.Fatal(err)
	}
	trace := &replay.Trace{Blocks: r.blocks, Missing: missing, Hot: hot}
	r.refill(kept, trace)
	f, err := os.Create(to)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(trace.Write(f), f.Close()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(trace.Faults)), "faults")
	b.ReportMetric(float64(trace.Missing.Count()), "missing")
}

// boot starts a guest with one processor and waits until its workload runs.
func boot(b *testing.B, workload string) *recording {
	assets, err := guest.Find()
	need.Guest(b, err)
	boot, err := assets.Boot(guest.Config{Name: "record", Addr: netip.MustParsePrefix("10.0.2.15/24"), Workload: workload, Seed: 1})
	if err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "vmmigrate-record-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("disk"), make([]byte, 8<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("qemu-system-x86_64", append(boot.Args(), "-machine", "q35,memory-backend=ram", "-accel", guest.TCG, "-cpu", guest.CPU(guest.TCG), "-m", fmt.Sprint(guestRAM>>20),
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,share=on,mem-path=%s", guestRAM, at("ram")),
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot", "-name", "record,debug-threads=on",
		"-chardev", "file,id=con,path="+at("console"), "-serial", "chardev:con", "-qmp", "unix:"+at("qmp")+",server=on,wait=off",
		"-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n",
		"-blockdev", "driver=file,node-name=d,filename="+at("disk"), "-device", "virtio-blk-pci,drive=d")...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	r := &recording{b: b, pid: cmd.Process.Pid, blocks: []ram.Block{{Name: "ram", Size: guestRAM, PageSize: 4096}}}
	r.until("the guest's oracle listens", func() bool {
		text, _ := os.ReadFile(at("console"))
		return strings.Contains(string(text), "vmmigrate-guest: ready")
	})
	if r.qmp, err = qmp.Dial(b.Context(), "unix", at("qmp")); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.qmp.Close() })
	if r.ram, err = os.OpenFile(at("ram"), os.O_RDWR, 0); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.ram.Close() })
	maps, err := sys.Maps(r.pid)
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range maps {
		if m.Path == at("ram") {
			r.addr = m.Start
		}
	}
	return r
}

// until waits for what no event tells.
func (r *recording) until(what string, so func() bool) {
	r.b.Helper()
	ctx, cancel := context.WithTimeout(r.b.Context(), 2*time.Minute)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			r.b.Fatalf("waited in vain until %s", what)
		case <-poll.C:
		}
	}
}

// watch lists the pages that the guest writes, the last first, from some looks at it.
func (r *recording) watch(looks int, each time.Duration) []prepage.Ref {
	u, there, err := sys.InjectUserFault(r.b.Context(), r.pid)
	if err != nil {
		r.b.Fatal(err)
	}
	_, err = u.API(sys.FeatureWPAsync | sys.FeatureWPUnpopulated | sys.FeatureWPHugetlbfsShmem)
	if err = errors.Join(err, u.Register(r.addr, guestRAM, sys.WriteProtect)); err != nil {
		r.b.Fatal(err)
	}
	pm, err := sys.OpenPagemap(r.pid)
	if err != nil {
		r.b.Fatal(err)
	}
	last := make([]int, guestRAM/4096)
	regions := make([]sys.PageRegion, 1<<16)
	for look := range looks + 1 {
		n, _, err := pm.Scan(r.addr, r.addr+guestRAM, sys.WrittenPages(), regions)
		if err != nil {
			r.b.Fatal(err)
		}
		for _, region := range regions[:n] {
			for at := region.Start; at < region.End; at += 4096 {
				last[(at-r.addr)/4096] = look // look 0 is the arming, and tells nothing
			}
		}
		r.wait(each)
	}
	if err := errors.Join(pm.Close(), u.Unregister(r.addr, guestRAM), u.Close(), sys.InjectClose(r.b.Context(), r.pid, there)); err != nil {
		r.b.Fatal(err)
	}
	var hot []prepage.Ref
	for page, look := range last {
		if look > 0 {
			hot = append(hot, prepage.Ref{Page: page})
		}
	}
	slices.SortStableFunc(hot, func(a, b prepage.Ref) int { return last[b.Page] - last[a.Page] })
	return hot
}

func (r *recording) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.b.Context().Done():
	}
}

// faults collects what the pager tells.
type faults struct {
	start time.Duration
	list  []replay.Fault
}

func (f *faults) Fault(block, page int, at time.Duration) {
	if len(f.list) == 0 {
		f.start = at
	}
	f.list = append(f.list, replay.Fault{At: at - f.start, Ref: prepage.Ref{Block: block, Page: page}})
}

// refill takes all of the guest's RAM, lets it run and brings on demand what it touches.
func (r *recording) refill(kept *os.File, trace *replay.Trace) {
	u, _, err := sys.InjectUserFault(r.b.Context(), r.pid)
	if err != nil {
		r.b.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	if err := fault.Arm(u, false, fault.Range{Start: r.addr, Length: guestRAM}); err != nil {
		r.b.Fatal(err)
	}
	if err := sys.PunchHole(r.ram, 0, guestRAM); err != nil {
		r.b.Fatal(err)
	}
	src, err := fault.New(u)
	if err != nil {
		r.b.Fatal(err)
	}
	plan, err := prepage.New("none", trace.Blocks, trace.Missing, nil)
	if err != nil {
		r.b.Fatal(err)
	}
	file := &handoff.File{From: kept, Regions: []handoff.Region{{Addr: r.addr, Size: guestRAM, PageSize: 4096}}}
	heard := &faults{}
	p, err := postcopy.New(postcopy.Config{Blocks: trace.Blocks, Addrs: []uint64{r.addr}, Faults: src, Demand: file, Bulk: file,
		Missing: trace.Missing, Prepager: plan, Trace: heard})
	if err != nil {
		r.b.Fatal(err)
	}
	run := make(chan error, 1)
	go func() { run <- p.Run(r.b.Context()) }()
	if err := qmp.Cont(r.b.Context(), r.qmp); err != nil {
		r.b.Fatal(err)
	}
	r.wait(4 * time.Second)
	p.Drain()
	if err := errors.Join(<-run, p.Close(), src.Close()); err != nil {
		r.b.Fatal(err)
	}
	trace.Faults, trace.Cost = heard.list, p.Stats().Remote.P50
}
