package owner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Identity is a process that cannot be mistaken for a later one with its number.
type Identity struct {
	PID int `json:"pid"`
	// Start is when it started, in clock ticks since the machine did.
	Start uint64 `json:"start_ticks"`
	// Boot is the machine's boot ID.
	Boot string `json:"boot_id"`
}

// Of identifies the process pid. The error wraps os.ErrNotExist (or ESRCH) if there
// is none.
func Of(pid int) (Identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	start, err := startTime(stat)
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return Identity{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}

// Self identifies the calling process as the owner of /proc counts it, which is
// not what a process in a PID namespace of its own calls itself.
func Self() (Identity, error) {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return Identity{}, fmt.Errorf("identify own process: %w", err)
	}
	pid, err := strconv.Atoi(self)
	if err != nil {
		return Identity{}, fmt.Errorf("identify own process: %w", err)
	}
	return Of(pid)
}

// startTime reads field 22 of /proc/PID/stat. The name in field 2 may hold
// anything, parentheses too, so fields are counted from the last one.
func startTime(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("no process name in its status")
	}
	fields := strings.Fields(string(stat[end+1:]))
	const index = 22 - 3
	if len(fields) <= index {
		return 0, errors.New("too few fields in its status")
	}
	return strconv.ParseUint(fields[index], 10, 64)
}

// Alive reports whether that very process exists and has not ended.
func (id Identity) Alive() bool {
	fd, err := id.open()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	ended, err := wait(fd, 0)
	return err == nil && !ended
}

// errGone says that the process is not there any more.
var errGone = errors.New("the process is gone")

// open returns a pidfd of that very process.
func (id Identity) open() (int, error) {
	if id.PID <= 0 {
		return -1, errGone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, errGone
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	// Checked after the pidfd is held: now the number cannot change hands.
	now, err := Of(id.PID)
	if err != nil || now != id {
		unix.Close(fd)
		return -1, errGone
	}
	return fd, nil
}

// Kill ends the process and waits until it, and with it everything in its PID
// namespace, is gone. A process that is gone already is no error.
func (id Identity) Kill(ctx context.Context) error {
	fd, err := id.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", id.PID, err)
	}
	return id.await(ctx, fd)
}

// Wait returns when the process has ended, by itself or not.
func (id Identity) Wait(ctx context.Context) error {
	fd, err := id.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return id.await(ctx, fd)
}

// waitStep is how often a wait looks whether it shall go on.
const waitStep = 100 * time.Millisecond

func (id Identity) await(ctx context.Context, fd int) error {
	for {
		ended, err := wait(fd, waitStep)
		if err != nil {
			return fmt.Errorf("wait for process %d: %w", id.PID, err)
		}
		if ended {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for process %d: %w", id.PID, context.Cause(ctx))
		}
	}
	// If it was started by this process, it stays in the list until collected.
	_, _ = unix.Wait4(id.PID, nil, unix.WNOHANG, nil)
	return nil
}

// wait reports whether the process of the pidfd ended within the time.
func wait(fd int, limit time.Duration) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(limit.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}

// Find lists the processes that call themselves argv0 with dir as the first
// argument, other than the calling one.
func Find(argv0, dir string) ([]Identity, error) {
	lists, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	want := []byte(argv0 + "\x00" + dir + "\x00")
	var found []Identity
	for _, list := range lists {
		line, err := os.ReadFile(list)
		if err != nil || !bytes.HasPrefix(line, want) {
			continue // gone meanwhile, or another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(list)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if id, err := Of(pid); err == nil {
			found = append(found, id)
		}
	}
	return found, nil
}
