package netns

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// OfProcess is the path of the network namespace of a process.
func OfProcess(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// disposable runs fn on a thread that ends afterwards.
func disposable(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread outlives its goroutines. Hold it, so that the next
			// goroutine is given another one.
			done <- disposable(fn)
			runtime.UnlockOSThread()
			return
		}
		done <- fn() // locked for good: the thread ends with the goroutine
	}()
	return <-done
}

// Do runs fn in the network namespace at path. fn must not start goroutines that
// rely on being there; what it creates by direct calls (sockets, devices) is.
func Do(path string, fn func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	return DoFile(ns, fn)
}

// DoFile is Do for a namespace that is already open.
func DoFile(ns *os.File, fn func() error) error {
	return disposable(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
		}
		return fn()
	})
}

// New makes an empty network namespace, which lives until the file is closed and
// nothing else is in it.
func New() (*os.File, error) {
	var ns *os.File
	err := disposable(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net") // whatever this thread is called in /proc
		return err
	})
	return ns, err
}

// entered are the namespaces that Start changes into. The mount namespace is
// last, since with it /proc/PID is no longer the one that the caller knows.
var entered = []struct {
	name string
	flag int
}{
	{"net", unix.CLONE_NEWNET},
	{"uts", unix.CLONE_NEWUTS},
	{"ipc", unix.CLONE_NEWIPC},
	{"pid", unix.CLONE_NEWPID},
	{"mnt", unix.CLONE_NEWNS},
}

// Start starts cmd inside the network, UTS, IPC, PID and mount namespaces of the
// process pid. cmd is the caller's to wait for, as after exec.Cmd.Start; its
// program and directory are looked up inside.
func Start(pid int, cmd *exec.Cmd) error {
	files := make([]*os.File, 0, len(entered))
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, e := range entered {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, e.name))
		if err != nil {
			return fmt.Errorf("open namespace of process %d: %w", pid, err)
		}
		files = append(files, f)
	}
	return disposable(func() error {
		// A thread that shares its root and directory with others cannot change
		// its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the shared directory: %w", err)
		}
		for i, e := range entered {
			if err := unix.Setns(int(files[i].Fd()), e.flag); err != nil {
				return fmt.Errorf("enter %s namespace of process %d: %w", e.name, pid, err)
			}
		}
		return cmd.Start()
	})
}
