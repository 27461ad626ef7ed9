package pair

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
	"github.com/vmmigrate/vmmigrate/testenv/internal/hugepages"
)

// Options say what both machines are like; the zero value is good.
type Options struct {
	// Accel is "tcg" or "kvm"; empty is tcg. Ask need.KVM before kvm.
	Accel string
	// CPUs is how many processors they have; 0 is 1.
	CPUs int
	// Memory is their RAM in bytes, whole MiB for each block; 0 is 64 MiB.
	Memory int64
	// Blocks is 1 or 2 RAM blocks of the same size; 0 is 1. One block is "ram",
	// two are the memory of two NUMA nodes, "ram-node0" and "ram-node1".
	Blocks int
	// HugePages puts RAM on pages of 2 MiB, which are borrowed from the machine.
	HugePages bool
	// Guest is what the guest does; a zero range means all of the RAM but for the
	// first and the last MiB.
	Guest bareguest.Config
	// Args are more arguments for both.
	Args []string
}

const mib = 1 << 20

// filled puts in the defaults.
func (o Options) filled() Options {
	if o.Accel == "" {
		o.Accel = "tcg"
	}
	if o.Memory == 0 {
		o.Memory = 64 * mib
	}
	o.CPUs, o.Blocks = max(o.CPUs, 1), max(o.Blocks, 1)
	if o.Guest.Start == 0 && o.Guest.End == 0 {
		o.Guest.Start, o.Guest.End = mib, uint32(o.Memory-mib)
	}
	return o
}

// blocks are the names of the RAM blocks, in the order of the guest's memory.
func (o Options) blocks() []string {
	if o.Blocks == 1 {
		return []string{"ram"}
	}
	names := make([]string, o.Blocks)
	for i := range names {
		names[i] = fmt.Sprintf("ram-node%d", i)
	}
	return names
}

// Pair is two machines.
type Pair struct {
	// Source runs the guest, Dest waits.
	Source, Dest *Machine
	// Options are those of New, with the defaults filled in.
	Options Options
}

// New starts both machines and returns when the source's guest has written each of
// its pages at least once. The test fails if it cannot. Ask need.QEMU first.
func New(t testing.TB, o Options) *Pair {
	t.Helper()
	p := &Pair{Options: o.filled()}
	// Not t.TempDir, which has the test's name: QEMU takes its commas for its own, and
	// paths of sockets are short.
	dir := folder(t, "")
	image := filepath.Join(dir, "image")
	guest := p.Options.Guest
	guest.Report = 1 // so that the second letter says that all is written
	if o.Guest.Report != 0 {
		guest.Report = o.Guest.Report
	}
	if err := bareguest.Write(image, guest); err != nil {
		t.Fatal(err)
	}
	if p.Options.HugePages {
		borrow(t, 2*p.Options.Memory/hugepages.Size)
	}
	p.Source = launch(t, p.Options, dir, "source", image)
	p.Source.Hear(t, "AB")
	p.Dest = launch(t, p.Options, dir, "dest", image, "-incoming", "defer")
	return p
}

// borrow gets huge pages for the time of the test.
func borrow(t testing.TB, pages int64) {
	t.Helper()
	if !hugepages.Supported() {
		t.Skip("this kernel has no huge pages of 2 MiB (CONFIG_HUGETLBFS)")
	}
	ledger := hugepages.In(t.TempDir())
	if err := ledger.Borrow(int(pages)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ledger.ReturnAll(); err != nil {
			t.Error(err)
		}
	})
}

// prefix begins the names of folders.
const prefix = "vmmigrate-pair-"

// folder makes a folder in dir, or where such folders are, for the time of the test.
// It is locked meanwhile, so that others can tell it from one that was left behind.
func folder(t testing.TB, dir string) string {
	t.Helper()
	if dir == "" {
		dir = os.TempDir()
	}
	sweep(dir)
	made, err := os.MkdirTemp(dir, prefix)
	if err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(made)
	if err == nil {
		err = unix.Flock(int(held.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(os.RemoveAll(made), held.Close()); err != nil {
			t.Error(err)
		}
	})
	return made
}

// newFolder is how old a folder has to be before it can have been left behind: its
// owner may not have locked it yet.
const newFolder = time.Minute

// sweep removes the folders in dir that tests left when they were killed. What cannot
// be removed stays: it is not ours to complain about.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
	for _, path := range left {
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) < newFolder {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(path)
		}
		f.Close()
	}
}
