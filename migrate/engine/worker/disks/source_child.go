package disks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// child is a qemu-nbd that reads an image for us. It is started when somebody connects, and again when it has died. It ends
// with us.
type child struct {
	args []string
	dir  string // private, for its socket

	mu   sync.Mutex
	cmd  *exec.Cmd
	said *bytes.Buffer // what it complains of; to be read after it has ended
	gone chan struct{} // closed when it has ended
}

// childTime is how long a qemu-nbd may take to open an image.
const childTime = 30 * time.Second

// newChild prepares a qemu-nbd with these arguments behind those that all have.
func newChild(args ...string) (*child, error) {
	dir, err := os.MkdirTemp("", "vmmigrate-") // 0700
	if err != nil {
		return nil, err
	}
	c := &child{dir: dir}
	c.args = append([]string{"--read-only", "--persistent", "--shared=0", "--socket=" + c.socket(), "--export-name=" + childExport}, args...)
	return c, nil
}

// childExport is what qemu-nbd calls the image.
const childExport = "image"

func (c *child) socket() string { return filepath.Join(c.dir, "nbd") }

// dial connects to it, and starts it first if it does not run.
func (c *child) dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, stop := context.WithTimeout(ctx, childTime)
	defer stop()
	if c.gone == nil || ended(c.gone) {
		if err := c.start(); err != nil {
			return nil, err
		}
	}
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket())
		if err == nil {
			return conn, nil
		}
		select {
		case <-c.gone:
			return nil, fmt.Errorf("qemu-nbd: %s", strings.TrimSpace(strings.ToValidUTF8(c.said.String(), "?")))
		case <-ctx.Done():
			return nil, fmt.Errorf("qemu-nbd does not listen: %w", errors.Join(ctx.Err(), err))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// start is called with mu held.
func (c *child) start() error {
	if err := os.Remove(c.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.Command("qemu-nbd", c.args...)
	cmd.Env = toolEnv()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should the thread end before us, it is started anew
	said := &bytes.Buffer{}
	cmd.Stderr = &bounded{b: said, room: 4096}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = &storage.Error{Op: "run", Path: "qemu-nbd", Err: fmt.Errorf("%w: %w", storage.ErrNoTool, err), Fix: "install qemu-utils (qemu-nbd) there"}
		}
		return err
	}
	gone := make(chan struct{})
	c.cmd, c.said, c.gone = cmd, said, gone
	go func() { // ends with the process, which close kills
		_ = cmd.Wait() // that it has ended is all that matters
		close(gone)
	}()
	return nil
}

// close ends it.
func (c *child) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		_ = c.cmd.Process.Kill() // it may have ended
		<-c.gone
	}
	return os.RemoveAll(c.dir)
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	b    *bytes.Buffer
	room int
}

func (w *bounded) Write(p []byte) (int, error) {
	n := min(len(p), w.room)
	w.room -= n
	w.b.Write(p[:n])
	return len(p), nil
}
