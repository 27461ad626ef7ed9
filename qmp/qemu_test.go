package qmp_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// qemuProcess is a QEMU process of a test, with two monitors: one that it connects to us
// when it is up, so that nobody has to poll for it, and one that we may dial.
type qemuProcess struct {
	t    testing.TB
	cmd  *exec.Cmd
	dir  string
	path string // of the second monitor
	conn net.Conn
}

// startQEMU starts a paused machine of 64 MiB without devices, plus args.
func startQEMU(t testing.TB, args ...string) *qemuProcess {
	t.Helper()
	need.QEMU(t)
	dir, err := os.MkdirTemp("", "qmptest") // t.TempDir's names can exceed a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "call.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	q := &qemuProcess{t: t, dir: dir, path: filepath.Join(dir, "qmp.sock")}
	base := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "64", "-S",
		"-chardev", "socket,id=m0,path=" + l.Addr().String(), "-mon", "chardev=m0,mode=control",
		"-chardev", "socket,id=m1,server=on,wait=off,path=" + q.path, "-mon", "chardev=m1,mode=control",
	}
	q.cmd = exec.Command("qemu-system-x86_64", append(base, args...)...)
	q.start(l)
	return q
}

// start runs the process, takes its call and sees to its end.
func (q *qemuProcess) start(l net.Listener) {
	q.t.Helper()
	var output bytes.Buffer
	q.cmd.Stdout, q.cmd.Stderr = &output, &output
	if err := q.cmd.Start(); err != nil {
		q.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = q.cmd.Wait() // killed at the end, mostly
		_ = l.Close()    // lets Accept return when QEMU did not even start
		close(exited)
	}()
	q.t.Cleanup(func() {
		_ = q.cmd.Process.Kill()
		<-exited
		if q.t.Failed() {
			q.t.Logf("QEMU said: %s", output.String())
		}
	})
	conn, err := l.Accept()
	if err != nil {
		<-exited
		q.t.Fatalf("QEMU did not start: %v: %s", q.cmd.ProcessState, output.String())
	}
	q.conn = conn
}

// client talks to the first monitor. It may be called once.
func (q *qemuProcess) client(opts ...qmp.Option) *qmp.Client {
	q.t.Helper()
	return connect(q.t, q.conn, opts...)
}

// dial talks to the second monitor.
func (q *qemuProcess) dial(opts ...qmp.Option) *qmp.Client {
	q.t.Helper()
	return dial(q.t, q.path, opts...)
}

// signal sends the process a signal. One that stops it has done so when this returns: all of its threads stand still.
func (q *qemuProcess) signal(s syscall.Signal) {
	q.t.Helper()
	if err := q.cmd.Process.Signal(s); err != nil {
		q.t.Fatal(err)
	}
	if s != syscall.SIGSTOP {
		return
	}
	if _, err := syscall.Wait4(q.cmd.Process.Pid, nil, syscall.WUNTRACED, nil); err != nil {
		q.t.Fatal(err)
	}
}

// file makes a file of that many zero bytes.
func (q *qemuProcess) file(name string, size int64) string {
	q.t.Helper()
	path := filepath.Join(q.dir, name)
	f, err := os.Create(path)
	if err != nil {
		q.t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		q.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		q.t.Fatal(err)
	}
	return path
}
