package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
)

const nobody = 65534

// stranger is a helper of another user, and is killed at the test's end.
func stranger(t *testing.T, life ...string) *exec.Cmd {
	t.Helper()
	cmd := helper(life...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.Dir = "/"
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	return startHelper(t, cmd)
}

// The name of a lock is free to everybody. Who has it and is not one of us is named, and not killed for it.
func TestT2ALockOfAStranger(t *testing.T) {
	need.Netns(t)
	cmd := stranger(t, "listen", lockName(migrate.SideSource, os.Getpid()))
	ctx, stop := context.WithTimeout(t.Context(), 2*leaveTime)
	defer stop()
	began := time.Now()
	k, err := takeLock(ctx, migrate.SideSource, os.Getpid(), true)
	if err == nil {
		_ = k.release()
		t.Fatal("taken")
	}
	if want := fmt.Sprintf("process %d of user %d", cmd.Process.Pid, nobody); !strings.Contains(err.Error(), want) || time.Since(began) >= leaveTime {
		t.Errorf("after %v: %v, want %s", time.Since(began), err, want)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger: %v", err)
	}
}

// An agent leaves a guest for another agent, and for nobody else who knocks.
func TestT2ALockIsGivenUpForAgents(t *testing.T) {
	need.Netns(t)
	k, err := takeLock(t.Context(), migrate.SideDestination, os.Getpid(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.release() }()
	name := lockName(migrate.SideDestination, os.Getpid())
	stranger(t, "dial", name) // it is there before ours
	probe, err := net.Dial("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	<-k.wanted
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.held) != 1 {
		t.Errorf("%d are held on to, want ours alone", len(k.held))
	}
}

// QEMU's stream is taken from, and given to, QEMU and the superuser, whatever the mode of its socket.
func TestT2TheStreamOfAStranger(t *testing.T) {
	need.Netns(t)
	dir, err := os.MkdirTemp("", "stream") // paths of sockets have to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := listenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o777)); err != nil {
		t.Fatal(err)
	}
	stranger(t, "dial", path)
	ours, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if _, err := ours.Write([]byte("ours")); err != nil {
		t.Fatal(err)
	}
	c, err := acceptFrom(l, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got [4]byte
	if _, err := io.ReadFull(c, got[:]); err != nil || string(got[:]) != "ours" {
		t.Errorf("the first that is let in says %q, %v", got, err)
	}
	cmd := stranger(t, "dial", path)
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := trusted(theirs, 1); !errors.Is(err, errStranger) {
		t.Errorf("a stranger: %v", err)
	}
	if err := trusted(theirs, cmd.Process.Pid); err != nil {
		t.Errorf("QEMU of another user: %v", err)
	}
}
