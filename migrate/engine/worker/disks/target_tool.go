package disks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// toolTarget is an image that qemu-nbd writes, a child of ours, which ends with the one connection that it has.
type toolTarget struct {
	*nbd.Client
	scribe *scribe
}

// Times for qemu-nbd: a disk may be slow, and one that ends has to write what it kept.
const (
	toolPatience = time.Minute
	toolEnds     = time.Minute
	toolWaits    = 15 * time.Second // for the lock of one that is ending
	toolLooks    = 100 * time.Millisecond
)

// openByTool opens an image by qemu-nbd. When an agent was killed its qemu-nbd still ends: that is waited for.
func openByTool(ctx context.Context, path, format string) (target, int64, error) {
	wait, stop := context.WithTimeout(ctx, toolWaits)
	defer stop()
	for {
		t, err := tryTool(ctx, path, format)
		if err == nil {
			return t, t.Size(), nil
		}
		if !errors.Is(err, storage.ErrInUse) {
			return nil, 0, err
		}
		select {
		case <-wait.Done():
			return nil, 0, err
		case <-time.After(toolLooks):
		}
	}
}

func tryTool(ctx context.Context, path, format string) (*toolTarget, error) {
	lis, conn, err := socketPair(ctx)
	if err != nil {
		return nil, err
	}
	c, err := startTool(lis, "--export-name=image", "--format="+format, "--cache=writeback", "--discard=unmap", "--detect-zeroes=unmap", path)
	if err = errors.Join(err, lis.Close()); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	client, err := nbd.Open(ctx, nbd.ClientConfig{Dial: once(conn, c), Export: "image", Patience: toolPatience, Rejoin: time.Millisecond})
	if err != nil {
		_ = conn.Close() // it ends for want of a client, and says why it did before
		err = c.said(err)
		_ = c.end(ctx) // it has said why
		return nil, err
	}
	return &toolTarget{client, c}, nil
}

// socketPair gives a socket to listen on and a connection to it. Nobody else ever finds it.
func socketPair(ctx context.Context) (lis *os.File, conn net.Conn, err error) {
	dir, err := os.MkdirTemp("", "vmmigrate-disk-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an empty folder
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close() //nolint:errcheck // the file is another descriptor
	var d net.Dialer
	if conn, err = d.DialContext(ctx, "unix", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if lis, err = l.File(); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return lis, conn, nil
}

// once gives a connection the first time; there is no other.
func once(conn net.Conn, c *scribe) func(context.Context) (net.Conn, error) {
	var mu sync.Mutex
	return func(context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if conn == nil {
			return nil, c.said(errors.New("qemu-nbd has ended"))
		}
		one := conn
		conn = nil
		return one, nil
	}
}

// scribe is a qemu-nbd of ours, which is told to end when this one does.
type scribe struct {
	cmd   *exec.Cmd
	words words
	ended chan struct{}
	err   error // to be read after ended is closed
}

// startTool starts qemu-nbd with a socket to listen on, which it takes as systemd would give it. The thread that starts it
// stays until it has ended: the kernel tells a child of the death of the thread, not of the process.
func startTool(lis *os.File, args ...string) (*scribe, error) {
	args = append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec qemu-nbd "$@"`, "qemu-nbd"}, args...)
	c := &scribe{cmd: exec.Command("sh", args...), ended: make(chan struct{})}
	c.cmd.Env = toolEnv()
	c.cmd.ExtraFiles = []*os.File{lis}
	c.cmd.Stderr = &c.words
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("run qemu-nbd: %w", err)
	}
	return c, nil
}

// toolEnv is the environment for qemu-nbd: errors are told by their words, and the memory of a request is kept for the next, which
// glibc would give back to the kernel and have it cleared anew each time.
func toolEnv() []string {
	return append(os.Environ(), "LC_ALL=C", "MALLOC_MMAP_THRESHOLD_=33554432", "MALLOC_TRIM_THRESHOLD_=67108864")
}

// said gives what qemu-nbd had to say of an error, if it has ended.
func (c *scribe) said(err error) error {
	select {
	case <-c.ended:
	case <-time.After(toolLooks): // it may be about to
	}
	text := strings.TrimSpace(c.words.String())
	switch {
	case text == "":
		return fmt.Errorf("qemu-nbd: %w", err)
	case strings.Contains(text, `" lock`):
		return fmt.Errorf("%s: %w", text, storage.ErrInUse)
	case strings.Contains(text, "not found"):
		return fmt.Errorf("%s: %w", text, exec.ErrNotFound)
	}
	return errors.New(text)
}

// end waits for the process to end, which it does when its connection is closed, and helps if it does not.
func (c *scribe) end(ctx context.Context) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), toolEnds)
	defer stop()
	asked := time.After(time.Second)
	for {
		select {
		case <-c.ended:
			if c.err != nil {
				return fmt.Errorf("qemu-nbd: %w: %s", c.err, strings.TrimSpace(c.words.String()))
			}
			return nil
		case <-asked:
			_ = c.cmd.Process.Signal(syscall.SIGTERM) // unless it has just ended
		case <-ctx.Done():
			_ = c.cmd.Process.Kill() // the same
			<-c.ended
			return errors.New("qemu-nbd did not end by itself")
		}
	}
}

// words keeps the beginning of what a process says.
type words struct {
	mu sync.Mutex
	b  strings.Builder
}

// maxWords is how much is kept.
const maxWords = 4096

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Write(p[:min(len(p), maxWords-w.b.Len())])
	return len(p), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func (t *toolTarget) write(ctx context.Context, p []byte, off int64) error {
	return t.WriteAt(ctx, p, off)
}

func (t *toolTarget) zero(ctx context.Context, off, length int64) error {
	return t.WriteZeroes(ctx, off, length, true)
}

func (t *toolTarget) flush(ctx context.Context) error { return t.Flush(ctx) }

// Extents implements nbd.Extenter.
func (t *toolTarget) Extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	return t.BlockStatus(ctx, nbd.BaseAllocation, off, length)
}

func (t *toolTarget) close(ctx context.Context) error {
	return errors.Join(t.Client.Close(), t.scribe.end(ctx))
}
