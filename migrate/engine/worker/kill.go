package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killTime is how long an agent may take to let go of QEMU's threads before it is killed.
const killTime = 10 * time.Second

// killIdle ends an agent, but never while it has a thread of QEMU in hand: the thread would run on with registers that are not
// its own, and take the guest with it. So the agent is frozen first, and killed if it traces nothing then. A qemu of 0 is any.
func killIdle(ctx context.Context, agent, qemu int) error {
	ctx, stop := context.WithTimeout(ctx, killTime)
	defer stop()
	for {
		busy, err := killFrozen(ctx, agent, qemu)
		if err != nil || !busy {
			return err
		}
		if err := nap(ctx); err != nil {
			return fmt.Errorf("agent %d holds a thread of QEMU, and killing it would kill the guest: %w", agent, err)
		}
	}
}

// killFrozen freezes an agent and kills it, or lets it go on if it is busy with QEMU.
func killFrozen(ctx context.Context, agent, qemu int) (busy bool, err error) {
	if err := signal(agent, syscall.SIGSTOP); err != nil {
		return false, err
	}
	for frozen := false; !frozen && err == nil; {
		if frozen, err = allStopped(agent); !frozen && err == nil {
			err = nap(ctx)
		}
	}
	if err == nil {
		busy, err = busyWith(agent, qemu)
	}
	if busy || err != nil {
		return busy, errors.Join(err, signal(agent, syscall.SIGCONT))
	}
	return false, signal(agent, syscall.SIGKILL)
}

// signal takes a process that is gone for one that was reached.
func signal(pid int, s syscall.Signal) error {
	if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

func nap(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Millisecond):
		return nil
	}
}

// allStopped tells whether no thread of a process runs. One that is gone does not.
func allStopped(pid int) (bool, error) {
	return eachThread(pid, func(status map[string]string) bool {
		return strings.ContainsAny(status["State"][:min(1, len(status["State"]))], "TtZX")
	})
}

// busyWith tells whether an agent has a thread of a process in hand; 0 is any process.
func busyWith(agent, pid int) (bool, error) {
	if pid != 0 {
		return traces(agent, pid)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, nerr := strconv.Atoi(filepath.Base(dir))
		busy, terr := traces(agent, pid)
		if err = errors.Join(err, nerr, terr); busy || err != nil {
			return busy, err
		}
	}
	return false, err
}

// traces tells whether any thread of an agent traces a thread of a process. What the kernel calls TracerPid is the number of the
// thread that traces, not of its process.
func traces(agent, pid int) (bool, error) {
	var failed error
	none, err := eachThread(pid, func(status map[string]string) bool {
		tracer := status["TracerPid"]
		if tracer == "" || tracer == "0" {
			return true
		}
		_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%s", agent, tracer))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = err
		}
		return err != nil
	})
	return !none, errors.Join(err, failed)
}

// eachThread tells whether what is said of all threads of a process is so. A thread that ends meanwhile is left out.
func eachThread(pid int, is func(status map[string]string) bool) (bool, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return false, err
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return false, err
		}
		status := map[string]string{}
		for line := range bytes.Lines(raw) {
			key, value, _ := strings.Cut(string(line), ":")
			status[key] = strings.TrimSpace(value)
		}
		if !is(status) {
			return false, nil
		}
	}
	return true, nil
}
