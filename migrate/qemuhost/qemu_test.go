package qemuhost

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
)

// testQEMU is a QEMU process of a test, with one QMP socket for the driver, one for the test itself and
// one to spare.
type testQEMU struct {
	t      *testing.T
	cmd    *exec.Cmd
	uri    string
	socket string
	probe  string
	third  string // one more, for a second driver
	stderr syncBuffer
	booted chan struct{} // closed when the guest has gone over its memory once
	ended  chan struct{} // closed when the process has ended
}

// syncBuffer is a bytes.Buffer for a writer and a reader at once.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// guestEnd is where the memory ends that the guest writes to; it begins at 1 MiB.
const guestEnd = 13 << 20

// guestImage writes the program of a guest that writes to so many pages a second; 0 is as many as it can.
func guestImage(t *testing.T, rate uint32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "guest.bin")
	if err := bareguest.Write(path, bareguest.Config{Start: 1 << 20, End: guestEnd, Rate: rate, Report: 1}); err != nil {
		t.Fatal(err)
	}
	return path
}

// startQEMU starts a QEMU called guest with the guest's image, and whatever else is asked for.
func startQEMU(t *testing.T, image string, extra ...string) *testQEMU {
	t.Helper()
	need.QEMU(t)
	dir := t.TempDir()
	q := &testQEMU{t: t, socket: filepath.Join(dir, "qmp"), probe: filepath.Join(dir, "probe"), third: filepath.Join(dir, "third"),
		booted: make(chan struct{}), ended: make(chan struct{})}
	q.uri = Scheme + "://" + q.socket
	serial := q.serve(filepath.Join(dir, "serial"))
	if !slices.Contains(extra, "-accel") {
		extra = append([]string{"-accel", "tcg"}, extra...)
	}
	q.cmd = exec.Command("qemu-system-x86_64", slices.Concat(bareguest.Args(image), []string{
		"-machine", "q35", "-cpu", "qemu64", "-m", "32M", "-name", "guest",
		"-qmp", "unix:" + q.socket + ",server=on,wait=off", "-qmp", "unix:" + q.probe + ",server=on,wait=off",
		"-qmp", "unix:" + q.third + ",server=on,wait=off",
		"-chardev", "socket,id=serial,path=" + serial, "-serial", "chardev:serial",
	}, extra)...)
	q.cmd.Stderr = &q.stderr
	if err := q.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(q.ended)
		_ = q.cmd.Wait() // a killed process is no failure of the test
	}()
	t.Cleanup(q.kill)
	return q
}

// serve reads the guest's serial port and closes booted at the first B.
func (q *testQEMU) serve(path string) string {
	l, err := net.Listen("unix", path)
	if err != nil {
		q.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		var once sync.Once
		buf := make([]byte, 512)
		for {
			n, err := c.Read(buf)
			if bytes.IndexByte(buf[:n], 'B') >= 0 {
				once.Do(func() { close(q.booted) })
			}
			if err != nil {
				return
			}
		}
	})
	q.t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return path
}

// kill ends the process as a crash would.
func (q *testQEMU) kill() {
	_ = q.cmd.Process.Kill() // it may have ended
	<-q.ended
	if q.t.Failed() && q.stderr.String() != "" {
		q.t.Logf("QEMU %d said: %s", q.cmd.Process.Pid, q.stderr.String())
	}
}

// freeze stops all threads of QEMU: the signal alone leaves some running for a moment.
func (q *testQEMU) freeze() {
	q.t.Helper()
	if err := q.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		q.t.Fatal(err)
	}
	if _, err := syscall.Wait4(q.cmd.Process.Pid, nil, syscall.WUNTRACED, nil); err != nil {
		q.t.Fatal(err)
	}
}

// dial connects the driver.
func (q *testQEMU) dial(ctx context.Context) *Host {
	q.t.Helper()
	h := whenListening(ctx, q, func() (*Host, error) {
		return Dial(ctx, q.uri, Options{Poll: 20 * time.Millisecond, Stuck: time.Second, Grace: 20 * time.Second, Judge: 500 * time.Millisecond})
	})
	q.t.Cleanup(func() { _ = h.Close() })
	return h
}

// qmp connects the test itself, beside the driver.
func (q *testQEMU) qmp(ctx context.Context) *qmp.Client {
	q.t.Helper()
	c := whenListening(ctx, q, func() (*qmp.Client, error) { return qmp.Dial(ctx, "unix", q.probe) })
	q.t.Cleanup(func() { _ = c.Close() })
	return c
}

// whenListening dials until a QEMU that has just been started listens.
func whenListening[T any](ctx context.Context, q *testQEMU, dial func() (T, error)) T {
	q.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := dial()
		if err == nil {
			return c
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			q.t.Fatalf("%v (%s)", err, q.stderr.String())
		}
		select {
		case <-tick.C:
		case <-q.ended:
			q.t.Fatalf("QEMU ended: %s", q.stderr.String())
		case <-ctx.Done():
			q.t.Fatalf("QEMU does not listen: %v", err)
		}
	}
}

// verify stops the guest, looks at its memory and lets it run again if it ran.
func (q *testQEMU) verify(ctx context.Context, c *qmp.Client) error {
	st, err := qmp.QueryStatus(ctx, c)
	if err != nil {
		return err
	}
	if err := qmp.Stop(ctx, c); err != nil {
		return err
	}
	path := filepath.Join(q.t.TempDir(), "ram")
	err = c.Execute(ctx, "pmemsave", map[string]any{"val": 0, "size": guestEnd, "filename": path}, nil)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if _, err := bareguest.CheckRAM(bytes.NewReader(b)); err != nil {
		return err
	}
	if st.Running {
		return qmp.Cont(ctx, c)
	}
	return nil
}

// limit is a context that ends before the test binary's own limit, and with the test.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// await waits for a channel.
func await(ctx context.Context, t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-ctx.Done():
		t.Fatalf("%s: %v", what, ctx.Err())
	}
}
