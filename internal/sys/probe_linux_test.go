package sys

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sound checks that an answer says what it has to.
func sound(t *testing.T, name string, p Probe) {
	t.Helper()
	if p.Presence < Present || p.Presence > Unknown || (p.Presence == Absent) != (p.Remedy != "") || p.Presence != Present && p.Reason == "" {
		t.Errorf("%s: %+v", name, p)
	}
}

func probes() map[string]func() Probe {
	return map[string]func() Probe{"userfault": ProbeUserfault, "wp async": ProbeWPAsync, "pagemap": ProbePagemapScan,
		"soft-dirty": ProbeSoftDirty, "shmem": ProbeMissingShmem, "hugetlbfs": ProbeMissingHugetlbfs,
		"minor": ProbeMinorShmem, "poison": ProbePoison, "inject": ProbeInject}
}

func TestProbesAnswer(t *testing.T) {
	for name, ask := range probes() {
		sound(t, name, ask())
	}
}

// What the probes say is what the tests of the kernel's behaviour find: nothing is present that then fails.
func TestT1ProbesAreTrue(t *testing.T) {
	for name, p := range map[string]Probe{"wp async": ProbeWPAsync(), "scan": ProbePagemapScan()} {
		if p.Presence != Present {
			t.Skipf("%s: %s; remedy: %s", name, p.Reason, p.Remedy)
		}
	}
	a, p := tracked(t, "shm", 2)
	a.wantHarvest(p, "first", 0, 1)
	config, err := exec.Command("zcat", "/proc/config.gz").Output()
	if err == nil {
		has := strings.Contains(string(config), "\nCONFIG_MEM_SOFT_DIRTY=y\n")
		if got := ProbeSoftDirty(); (got.Presence == Present) != has {
			t.Errorf("soft-dirty: %+v, the kernel's configuration says %t", got, has)
		}
	}
}

func TestProbesKeepNothing(t *testing.T) {
	for _, ask := range probes() {
		ask() // the first time a program asks, the runtime may open something
	}
	before, err := os.ReadDir("/proc/self/fd")
	for _, ask := range probes() {
		ask()
	}
	after, err2 := os.ReadDir("/proc/self/fd")
	if err != nil || err2 != nil || len(after) != len(before) {
		t.Errorf("%d descriptors before, %d after, %v, %v", len(before), len(after), err, err2)
	}
}

func TestFeatureVerdict(t *testing.T) {
	for _, tc := range []struct {
		got  Features
		err  error
		want Presence
	}{
		{FeatureWPAsync | FeatureMove, nil, Present}, {FeatureMove, nil, Absent}, {0, nil, Absent},
		{0, unix.ENOSYS, Absent}, {0, unix.EPERM, Unknown}, {0, unix.EMFILE, Unknown},
	} {
		p := featureVerdict(tc.got, tc.err, FeatureWPAsync, "it", "boot")
		sound(t, "features", p)
		if p.Presence != tc.want {
			t.Errorf("%#x, %v: %+v, want %d", tc.got, tc.err, p, tc.want)
		}
	}
}

func TestScanVerdict(t *testing.T) {
	for _, tc := range []struct {
		n    int
		err  error
		want Presence
	}{{1, nil, Present}, {0, nil, Unknown}, {0, unix.ENOTTY, Absent}, {0, unix.EACCES, Unknown}} {
		p := scanVerdict(tc.n, tc.err)
		sound(t, "scan", p)
		if p.Presence != tc.want {
			t.Errorf("%d, %v: %+v, want %d", tc.n, tc.err, p, tc.want)
		}
	}
}

func TestInjectVerdict(t *testing.T) {
	for _, tc := range []struct {
		traced, fetched error
		may             bool
		yama            string
		want            Presence
	}{
		{unix.ESRCH, unix.EBADF, true, "0", Present},
		{unix.ESRCH, unix.EBADF, true, "1", Present},
		{unix.ESRCH, unix.EBADF, true, "2", Present},
		{unix.ESRCH, unix.EBADF, true, "3", Absent},
		{unix.ESRCH, unix.EBADF, false, "0", Present},
		{unix.ESRCH, unix.EBADF, false, "1", Absent},
		{unix.ESRCH, unix.EBADF, false, "2", Absent},
		{unix.EPERM, unix.EBADF, true, "0", Absent},
		{nil, unix.EBADF, true, "0", Absent},
		{unix.ESRCH, unix.EPERM, true, "0", Absent},
		{unix.ESRCH, unix.ENOSYS, true, "0", Absent},
	} {
		p := injectVerdict(tc.traced, tc.fetched, tc.may, tc.yama)
		sound(t, "inject", p)
		if p.Presence != tc.want {
			t.Errorf("%+v: %+v", tc, p)
		}
	}
	if p := injectVerdict(unix.ESRCH, unix.EBADF, false, "0"); p.Reason == "" {
		t.Error("nothing says that other users' processes are out of reach")
	}
}

// A user without rights gets the features, since they are the kernel's, and is told what he may not.
func TestT1ProbesOfAnotherUser(t *testing.T) {
	if os.Getenv("SYS_TEST_CHILD") == "probes" {
		ok := ProbeWPAsync().Presence != Unknown && ProbeMissingShmem().Presence == Present
		p := ProbeInject()
		if ok = ok && (p.Presence == Absent || p.Reason != ""); !ok {
			os.Exit(3)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to start a child as another user; remedy: run the tests as root")
	}
	cmd := exec.Command(copyOfTest(t), "-test.run=TestT1ProbesOfAnotherUser")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "SYS_TEST_CHILD=probes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if errors.Is(ptrace(unix.PTRACE_SEIZE, 1<<31-1, 0, 0), unix.ESRCH) && ProbeInject().Presence != Present {
		t.Errorf("root may not inject: %+v", ProbeInject())
	}
}
