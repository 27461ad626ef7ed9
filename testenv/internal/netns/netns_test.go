package netns

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inode identifies the network namespace of the calling thread.
func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestT2DoLeavesTheCallerWhereItWas(t *testing.T) {
	need.Netns(t)
	before := inode(t, "/proc/thread-self/ns/net")
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for range 50 {
		err := DoFile(ns, func() error {
			links, err := net.Interfaces()
			if err != nil {
				return err
			}
			if len(links) != 1 || links[0].Name != "lo" {
				t.Errorf("devices of an empty namespace: %v", links)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if now := inode(t, "/proc/thread-self/ns/net"); now != before {
			t.Fatal("the caller's thread is in another namespace")
		}
	}
	if now := inode(t, "/proc/self/ns/net"); now != before {
		t.Fatal("the main thread is in another namespace")
	}
	if err := Do("/proc/0/ns/net", func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a namespace that is not there: %v", err)
	}
}

func TestT2SocketStaysInItsNamespace(t *testing.T) {
	need.Netns(t)
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var l net.Listener
	err = DoFile(ns, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener answers outside its namespace")
	}
}

func TestT2StartEntersEveryNamespace(t *testing.T) {
	need.Netns(t)
	target := exec.Command("cat")
	target.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
	}
	stdin, err := target.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Start(); err != nil {
		t.Fatal(err)
	}
	defer target.Wait()
	defer stdin.Close()

	list := "readlink /proc/thread-self/ns/net /proc/thread-self/ns/uts /proc/thread-self/ns/ipc /proc/thread-self/ns/pid /proc/thread-self/ns/mnt; echo $$; pwd"
	inside := exec.Command("sh", "-c", list)
	inside.Dir = "/usr"
	var out, errs bytes.Buffer
	inside.Stdout, inside.Stderr = &out, &errs
	if err := Start(target.Process.Pid, inside); err != nil {
		t.Fatal(err)
	}
	if err := inside.Wait(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	lines := strings.Fields(out.String())
	if len(lines) != 7 {
		t.Fatalf("output %q", out.String())
	}
	for i, name := range []string{"net", "uts", "ipc", "pid", "mnt"} {
		mine, _ := os.Readlink("/proc/self/ns/" + name)
		if lines[i] == mine {
			t.Errorf("the command ran in our own %s namespace", name)
		}
	}
	if lines[5] == "1" || len(lines[5]) > 2 || lines[6] != "/usr" {
		t.Errorf("pid %s and directory %s inside", lines[5], lines[6])
	}
}

func TestT2StartReportsExit(t *testing.T) {
	need.Netns(t)
	cmd := exec.Command("sh", "-c", "exit 7")
	if err := Start(os.Getpid(), cmd); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit: %v", err)
	}
}
