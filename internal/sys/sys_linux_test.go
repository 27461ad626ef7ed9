package sys

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

func TestOpenInRootStaysInside(t *testing.T) {
	root := t.TempDir()
	for name, target := range map[string]string{"abs": "/inside", "rel": "../../../../inside"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "inside"), []byte("yes"), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/inside", "inside", "abs", "/rel", "/../inside"} {
		f, err := OpenInRoot(root, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		b := make([]byte, 8)
		n, _ := f.Read(b)
		if string(b[:n]) != "yes" {
			t.Errorf("%s holds %q", path, b[:n])
		}
		_ = f.Close()
	}
	if _, err := OpenInRoot(root, "/etc/passwd"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file outside the root: %v, want not exist", err)
	}
	info, err := StatInRoot(root, "/abs")
	if err != nil || info.Mode&0o777 != 0o640 || info.Size != 3 || !info.Regular() {
		t.Errorf("stat: %+v, %v", info, err)
	}
	direct, err := StatInRoot("/", filepath.Join(root, "inside"))
	if err != nil || !info.Same(direct) || (FileInfo{}).Same(FileInfo{}) {
		t.Errorf("one file: %+v and %+v, %v", info, direct, err)
	}
	if dir, err := StatInRoot(root, "/"); err != nil || info.Same(dir) || dir.Regular() {
		t.Errorf("the folder %+v is taken for the file, %v", dir, err)
	}
}

func TestFilesystemInRoot(t *testing.T) {
	if got, err := FilesystemInRoot("/", "/proc"); err != nil || got != "type 0x9fa0" {
		t.Errorf("/proc is %q, %v", got, err)
	}
	if _, err := FilesystemInRoot("/", "/no/such/place"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent path: %v", err)
	}
}

func TestPeerOf(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	p, err := PeerOf(c.(*net.UnixConn))
	if err != nil || p.PID != os.Getpid() || int(p.UID) != os.Geteuid() {
		t.Errorf("peer %+v, %v; want ourselves (%d)", p, err, os.Getpid())
	}
}

func TestUserfaultVerdict(t *testing.T) {
	dev := errors.New("no device")
	for errno, want := range map[unix.Errno]Presence{0: Present, unix.ENOSYS: Absent, unix.EPERM: Absent, unix.EMFILE: Unknown} {
		got := userfaultVerdict(errno, dev)
		if got.Presence != want || (want == Absent) != (got.Remedy != "") {
			t.Errorf("errno %d: %+v, want presence %d", errno, got, want)
		}
	}
}

// The superuser of a machine with userfaultfd gets one; a user without rights is told that he does not.
func TestT1UserfaultByUser(t *testing.T) {
	if os.Getenv("SYS_TEST_CHILD") == "uffd" {
		os.Exit(10 + int(ProbeUserfault().Presence))
	}
	need.UFFD(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to start a child as another user; remedy: run the tests as root")
	}
	allowed, _ := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd")
	nobody := Absent
	dev, err := StatInRoot("/", userfaultDevice)
	if string(allowed) == "1\n" || err == nil && dev.Allows(65534, []uint32{65534}, 6) {
		nobody = Present
	}
	exe := copyOfTest(t)
	for uid, want := range map[uint32]Presence{0: Present, 65534: nobody} {
		cmd := exec.Command(exe, "-test.run=TestT1UserfaultByUser")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "SYS_TEST_CHILD=uffd")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		_ = cmd.Run() // the exit status is the answer
		if got := cmd.ProcessState.ExitCode() - 10; got != int(want) {
			t.Errorf("uid %d: presence %d, want %d", uid, got, want)
		}
	}
}

// copyOfTest puts the test binary where other users may run it.
func copyOfTest(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sys-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(to, exe, 0o755)); err != nil {
		t.Fatal(err)
	}
	return to
}

// Inside another namespace we are in it, and afterwards every thread is where it was; a child that dies with the thread
// that started it survives.
func TestT2InNetns(t *testing.T) {
	need.Netns(t)
	holder := exec.Command("sleep", "600")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() }) // that it was killed is no news
	ns := "/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns/net"
	want, err := os.Readlink(ns)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil || ours == want {
		t.Fatalf("our namespace %s, the holder's %s, %v", ours, want, err)
	}
	for range 50 {
		var inside string
		if err := InNetns(ns, func() { inside, _ = os.Readlink("/proc/thread-self/ns/net") }); err != nil || inside != want {
			t.Fatalf("inside %s, want %s, %v", inside, want, err)
		}
	}
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads %v, %v", threads, err)
	}
	for _, th := range threads {
		if got, err := os.Readlink(th); err == nil && got != ours {
			t.Errorf("thread %s is left in %s", th, got)
		}
	}
	if err := InNetns("/no/such/ns", func() { t.Error("fn ran without its namespace") }); err == nil {
		t.Error("no error for a namespace that does not exist")
	}
}
