package sys

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProbeWPAsync tells whether the kernel can remember what a process writes (FeatureWPAsync with pages that are not there
// yet, on shared memory too), as the tracker uffd-wp needs.
func ProbeWPAsync() Probe {
	return probeFeatures(FeatureWPAsync|FeatureWPUnpopulated|FeatureWPHugetlbfsShmem,
		"asynchronous write-protection", "boot a kernel of 6.7 or newer with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP")
}

// ProbeMissingShmem tells whether faults of missing pages are reported for tmpfs and memfd.
func ProbeMissingShmem() Probe {
	return probeFeatures(FeatureMissingShmem, "missing pages of tmpfs and memfd",
		"boot a kernel of 4.11 or newer with CONFIG_USERFAULTFD and CONFIG_SHMEM")
}

// ProbeMissingHugetlbfs tells whether faults of missing pages are reported for hugetlbfs.
func ProbeMissingHugetlbfs() Probe {
	return probeFeatures(FeatureMissingHugetlbfs|FeatureMinorHugetlbfs, "missing pages of hugetlbfs",
		"boot a kernel of 5.13 or newer with CONFIG_USERFAULTFD and CONFIG_HUGETLBFS")
}

// ProbeMinorShmem tells whether faults of pages that are in the file, but not mapped, are reported for tmpfs and memfd.
func ProbeMinorShmem() Probe {
	return probeFeatures(FeatureMinorShmem, "minor faults of tmpfs and memfd",
		"boot a kernel of 5.14 or newer with CONFIG_USERFAULTFD")
}

// ProbePoison tells whether pages can be marked as broken.
func ProbePoison() Probe {
	return probeFeatures(FeaturePoison, "poisoned pages", "boot a kernel of 6.6 or newer with CONFIG_USERFAULTFD")
}

// probeFeatures opens a userfaultfd of the kind that needs no privilege: what it may do is another question.
func probeFeatures(want Features, what, remedy string) Probe {
	u, err := NewUserFault(true)
	if err != nil {
		return featureVerdict(0, err, want, what, remedy)
	}
	defer func() { _ = u.Close() }() // it was only asked
	got, err := u.API(0)
	return featureVerdict(got, err, want, what, remedy)
}

// featureVerdict judges what the kernel said of its features.
func featureVerdict(got Features, err error, want Features, what, remedy string) Probe {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return Probe{Absent, "the kernel has no userfaultfd", remedy}
	case err != nil: // a filter of system calls, or no descriptors left: that says nothing about the kernel
		return Probe{Presence: Unknown, Reason: err.Error()}
	case !got.Has(want):
		return Probe{Absent, fmt.Sprintf("the kernel does not know %s (features %#x)", what, uint64(got)), remedy}
	}
	return Probe{Presence: Present}
}

// ProbePagemapScan looks at a page of our own with PAGEMAP_SCAN.
func ProbePagemapScan() Probe {
	var n int
	err := withPage(func(page []byte, p *Pagemap) error {
		start := uint64(uintptr(unsafe.Pointer(&page[0])))
		var out [1]PageRegion
		var err error
		n, _, err = p.Scan(start, start+uint64(len(page)), ScanOptions{Category: PagePresent, Return: PagePresent}, out[:])
		return err
	})
	return scanVerdict(n, err)
}

func scanVerdict(n int, err error) Probe {
	switch {
	case errors.Is(err, unix.ENOTTY):
		return Probe{Absent, "the kernel has no PAGEMAP_SCAN", "boot a kernel of 6.7 or newer"}
	case err != nil:
		return Probe{Presence: Unknown, Reason: err.Error()}
	case n != 1:
		return Probe{Presence: Unknown, Reason: "PAGEMAP_SCAN does not find a page that is there"}
	}
	return Probe{Presence: Present}
}

// ProbeSoftDirty looks whether a page that was just written is marked so.
func ProbeSoftDirty() Probe {
	var dirty [1]bool
	err := withPage(func(page []byte, p *Pagemap) error {
		return p.SoftDirty(uint64(uintptr(unsafe.Pointer(&page[0]))), dirty[:])
	})
	switch {
	case err != nil:
		return Probe{Presence: Unknown, Reason: err.Error()}
	case !dirty[0]:
		return Probe{Absent, "the kernel does not mark pages that were written",
			"boot a kernel with CONFIG_MEM_SOFT_DIRTY (Debian's, Ubuntu's and Fedora's have it)"}
	}
	return Probe{Presence: Present}
}

// withPage runs fn with a page that was just written and the pagemap of ourselves.
func withPage(fn func(page []byte, p *Pagemap) error) error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer func() { _ = unix.Munmap(page) }() // nobody else knows of it
	page[0] = 1
	p, err := OpenPagemap(os.Getpid())
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // only read
	return fn(page, p)
}

// capSysPtrace is CAP_SYS_PTRACE of linux/capability.h, as a bit.
const capSysPtrace = 1 << 19

// ProbeInject tells whether this process may make a system call inside the processes of other users: whether it has
// CAP_SYS_PTRACE, what Yama says of it, and whether a filter of system calls forbids it. Nobody is traced.
func ProbeInject() Probe {
	if code, _ := syscallCode(); len(code) == 0 {
		return Probe{Absent, "system calls are injected on amd64 and arm64 only, not on " + runtime.GOARCH, "run it on one of those"}
	}
	// ESRCH, since there is no such process: the call itself is permitted. And so with a descriptor that is none.
	const nobody = 1<<31 - 1
	traced := ptrace(unix.PTRACE_SEIZE, nobody, 0, 0)
	_, fetched := unix.PidfdGetfd(-1, 0, 0)
	caps, err := effectiveCaps()
	if err != nil {
		return Probe{Presence: Unknown, Reason: err.Error()}
	}
	yama, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		yama = []byte("0") // a kernel without Yama
	}
	return injectVerdict(traced, fetched, caps&capSysPtrace != 0, strings.TrimSpace(string(yama)))
}

// injectVerdict judges the answers; the values of yama are those of the kernel's Yama.rst.
func injectVerdict(traced, fetched error, may bool, yama string) Probe {
	switch {
	case !errors.Is(traced, unix.ESRCH):
		return Probe{Absent, fmt.Sprintf("ptrace is not permitted here (%v)", traced), "run it outside the container, or with a seccomp profile that allows ptrace"}
	case errors.Is(fetched, unix.ENOSYS):
		return Probe{Absent, "the kernel has no pidfd_getfd", "boot a kernel of 5.6 or newer"}
	case !errors.Is(fetched, unix.EBADF):
		return Probe{Absent, fmt.Sprintf("pidfd_getfd is not permitted here (%v)", fetched), "run it outside the container, or with a seccomp profile that allows pidfd_getfd"}
	case yama == "3":
		return Probe{Absent, "Yama forbids all tracing until the next boot", "set kernel.yama.ptrace_scope=2 or less in sysctl.d and boot"}
	case may:
		return Probe{Presence: Present}
	case yama == "0":
		return Probe{Presence: Present, Reason: "without CAP_SYS_PTRACE: processes of the same user only"}
	}
	return Probe{Absent, "no CAP_SYS_PTRACE, and Yama forbids tracing without it", "run it as root or with CAP_SYS_PTRACE"}
}

// effectiveCaps reads our capabilities: those of the process, which are the same for all its threads here.
func effectiveCaps() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(status), "\nCapEff:\t")
	hex, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(hex, 16, 64)
	if !ok || err != nil {
		return 0, errors.New("the kernel does not tell our capabilities")
	}
	return caps, nil
}
