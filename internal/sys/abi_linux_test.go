package sys

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioc is the arithmetic of asm-generic/ioctl.h.
func ioc(dir, kind, nr uint64, size uintptr) uint64 { return dir<<30 | uint64(size)<<16 | kind<<8 | nr }

const (
	iocRead  = 2
	iocWrite = 1
)

func TestIoctlNumbers(t *testing.T) {
	for _, tc := range []struct {
		name      string
		got, want uint64
	}{
		{"USERFAULTFD_IOC_NEW", userfaultNew, ioc(0, 0xaa, 0, 0)},
		{"UFFDIO_API", uffdioAPI, ioc(iocRead|iocWrite, 0xaa, 0x3f, unsafe.Sizeof(uffdAPIArg{}))},
		{"UFFDIO_REGISTER", uffdioRegister, ioc(iocRead|iocWrite, 0xaa, 0, unsafe.Sizeof(uffdRegister{}))},
		{"UFFDIO_UNREGISTER", uffdioUnregister, ioc(iocRead, 0xaa, 1, unsafe.Sizeof(uffdRange{}))},
		{"UFFDIO_WAKE", uffdioWake, ioc(iocRead, 0xaa, 2, unsafe.Sizeof(uffdRange{}))},
		{"UFFDIO_COPY", uffdioCopy, ioc(iocRead|iocWrite, 0xaa, 3, unsafe.Sizeof(uffdCopyArg{}))},
		{"UFFDIO_ZEROPAGE", uffdioZeropage, ioc(iocRead|iocWrite, 0xaa, 4, unsafe.Sizeof(uffdFillArg{}))},
		{"UFFDIO_WRITEPROTECT", uffdioWriteprotect, ioc(iocRead|iocWrite, 0xaa, 6, unsafe.Sizeof(uffdProtectArg{}))},
		{"UFFDIO_CONTINUE", uffdioContinue, ioc(iocRead|iocWrite, 0xaa, 7, unsafe.Sizeof(uffdFillArg{}))},
		{"UFFDIO_POISON", uffdioPoison, ioc(iocRead|iocWrite, 0xaa, 8, unsafe.Sizeof(uffdFillArg{}))},
		{"PAGEMAP_SCAN", pagemapScan, ioc(iocRead|iocWrite, 'f', 16, unsafe.Sizeof(scanArg{}))},
	} {
		if tc.got != tc.want {
			t.Errorf("%s is %#x, want %#x", tc.name, tc.got, tc.want)
		}
	}
}

func TestLayouts(t *testing.T) {
	for _, tc := range []struct {
		name      string
		got, want uintptr
	}{
		{"uffdio_copy", unsafe.Sizeof(uffdCopyArg{}), 40},
		{"uffdio_copy.copy", unsafe.Offsetof(uffdCopyArg{}.copied), 32},
		{"uffdio_zeropage", unsafe.Sizeof(uffdFillArg{}), 32},
		{"uffdio_zeropage.zeropage", unsafe.Offsetof(uffdFillArg{}.done), 24},
		{"pm_scan_arg", unsafe.Sizeof(scanArg{}), 96},
		{"pm_scan_arg.walk_end", unsafe.Offsetof(scanArg{}.walkEnd), 32},
		{"pm_scan_arg.category_inverted", unsafe.Offsetof(scanArg{}.inverted), 64},
		{"pm_scan_arg.return_mask", unsafe.Offsetof(scanArg{}.returnedMask), 88},
		{"page_region", unsafe.Sizeof(PageRegion{}), 24},
		{"siginfo_t", unsafe.Sizeof(unix.Siginfo{}), 128},
		{"siginfo_t.si_status", unsafe.Offsetof(childInfo{}.status), 24},
		{"sigset_t of the kernel", sigsetSize, 8},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, tc.got, tc.want)
		}
	}
}

// headerNames are what our constants are called in the kernel's headers. A header older than a name says nothing of it.
func headerNames() map[string]uint64 {
	return map[string]uint64{
		"USERFAULTFD_IOC_NEW": userfaultNew, "UFFD_API": uffdAPIVersion, "UFFD_USER_MODE_ONLY": uffdUserModeOnly,
		"UFFDIO_API": uffdioAPI, "UFFDIO_REGISTER": uffdioRegister, "UFFDIO_UNREGISTER": uffdioUnregister,
		"UFFDIO_WAKE": uffdioWake, "UFFDIO_COPY": uffdioCopy, "UFFDIO_ZEROPAGE": uffdioZeropage,
		"UFFDIO_WRITEPROTECT": uffdioWriteprotect, "UFFDIO_CONTINUE": uffdioContinue, "UFFDIO_POISON": uffdioPoison,
		"UFFDIO_COPY_MODE_DONTWAKE": modeDontWake, "UFFDIO_ZEROPAGE_MODE_DONTWAKE": modeDontWake,
		"UFFDIO_CONTINUE_MODE_DONTWAKE": modeDontWake, "UFFDIO_POISON_MODE_DONTWAKE": modeDontWake,
		"UFFDIO_WRITEPROTECT_MODE_WP": wpModeWP, "UFFDIO_WRITEPROTECT_MODE_DONTWAKE": wpDontWake,
		"UFFDIO_REGISTER_MODE_MISSING": uint64(Missing), "UFFDIO_REGISTER_MODE_WP": uint64(WriteProtect),
		"UFFDIO_REGISTER_MODE_MINOR": uint64(Minor),
		"UFFD_EVENT_PAGEFAULT":       uint64(EventPageFault), "UFFD_EVENT_FORK": uint64(EventFork),
		"UFFD_EVENT_REMAP": uint64(EventRemap), "UFFD_EVENT_REMOVE": uint64(EventRemove),
		"UFFD_EVENT_UNMAP": uint64(EventUnmap), "UFFD_PAGEFAULT_FLAG_WRITE": FaultWrite,
		"UFFD_PAGEFAULT_FLAG_WP": FaultWriteProtect, "UFFD_PAGEFAULT_FLAG_MINOR": FaultMinor,
		"UFFD_FEATURE_PAGEFAULT_FLAG_WP": uint64(FeaturePagefaultFlagWP), "UFFD_FEATURE_EVENT_FORK": uint64(FeatureEventFork),
		"UFFD_FEATURE_EVENT_REMAP": uint64(FeatureEventRemap), "UFFD_FEATURE_EVENT_REMOVE": uint64(FeatureEventRemove),
		"UFFD_FEATURE_MISSING_HUGETLBFS": uint64(FeatureMissingHugetlbfs), "UFFD_FEATURE_MISSING_SHMEM": uint64(FeatureMissingShmem),
		"UFFD_FEATURE_EVENT_UNMAP": uint64(FeatureEventUnmap), "UFFD_FEATURE_SIGBUS": uint64(FeatureSigbus),
		"UFFD_FEATURE_THREAD_ID": uint64(FeatureThreadID), "UFFD_FEATURE_MINOR_HUGETLBFS": uint64(FeatureMinorHugetlbfs),
		"UFFD_FEATURE_MINOR_SHMEM": uint64(FeatureMinorShmem), "UFFD_FEATURE_EXACT_ADDRESS": uint64(FeatureExactAddress),
		"UFFD_FEATURE_WP_HUGETLBFS_SHMEM": uint64(FeatureWPHugetlbfsShmem), "UFFD_FEATURE_WP_UNPOPULATED": uint64(FeatureWPUnpopulated),
		"UFFD_FEATURE_POISON": uint64(FeaturePoison), "UFFD_FEATURE_WP_ASYNC": uint64(FeatureWPAsync),
		"UFFD_FEATURE_MOVE": uint64(FeatureMove), "PAGEMAP_SCAN": pagemapScan,
		"PM_SCAN_WP_MATCHING": scanWPMatching, "PM_SCAN_CHECK_WPASYNC": scanCheckWPAsync,
		"PAGE_IS_WPALLOWED": PageWPAllowed, "PAGE_IS_WRITTEN": PageWritten, "PAGE_IS_FILE": PageFile,
		"PAGE_IS_PRESENT": PagePresent, "PAGE_IS_SWAPPED": PageSwapped, "PAGE_IS_PFNZERO": PagePFNZero,
		"PAGE_IS_HUGE": PageHuge, "PAGE_IS_SOFT_DIRTY": PageSoftDirty,
		"PTRACE_EVENT_STOP": unix.PTRACE_EVENT_STOP, "CLD_TRAPPED": cldTrapped, "CLD_STOPPED": cldStopped,
		"sizeof(struct uffd_msg)": messageSize,
	}
}

// What the C compiler makes of the kernel's headers is what we wrote down.
func TestHeadersAgree(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if _, noHeader := os.Stat("/usr/include/linux/userfaultfd.h"); err != nil || noHeader != nil {
		t.Skip("needs a C compiler and the kernel's headers; remedy: apt install gcc linux-libc-dev")
	}
	var prog strings.Builder
	prog.WriteString("#include <stdio.h>\n#include <signal.h>\n#include <linux/ioctl.h>\n#include <linux/userfaultfd.h>\n" +
		"#include <linux/fs.h>\n#include <linux/ptrace.h>\nint main(void) {\n")
	for name := range headerNames() {
		guard := "#ifdef " + name
		if strings.HasPrefix(name, "sizeof") {
			guard = "#if 1"
		} else if strings.HasPrefix(name, "CLD_") {
			guard = "#if 1 /* names of an enum */"
		}
		fmt.Fprintf(&prog, "%s\nprintf(\"%s=%%llx\\n\", (unsigned long long)(unsigned long)(%s));\n#endif\n", guard, name, name)
	}
	prog.WriteString("return 0; }\n")
	dir := t.TempDir()
	src, exe := filepath.Join(dir, "abi.c"), filepath.Join(dir, "abi")
	if err := os.WriteFile(src, []byte(prog.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-o", exe, src).CombinedOutput(); err != nil {
		t.Skipf("the C compiler does not work: %v: %s; remedy: apt install gcc libc6-dev", err, out)
	}
	out, err := exec.Command(exe).Output()
	if err != nil {
		t.Fatal(err)
	}
	compareHeader(t, string(out))
}

func compareHeader(t *testing.T, out string) {
	seen := 0
	for line := range strings.Lines(out) {
		name, hex, _ := strings.Cut(strings.TrimSpace(line), "=")
		var got uint64
		if _, err := fmt.Sscanf(hex, "%x", &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		seen++
		if want := headerNames()[name]; got != want {
			t.Errorf("%s is %#x in the headers and %#x here", name, got, want)
		}
	}
	if seen < 30 {
		t.Errorf("the headers tell of %d names only: %s", seen, out)
	}
}
