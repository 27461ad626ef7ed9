package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// holdLimit bounds how long the threads of a process may take to stop. One that sleeps in the kernel where nothing wakes it
// does not.
const holdLimit = time.Second

// held runs fn while all threads of the process stand still. They are stopped by ptrace, so that they run on if we die; no
// signal is sent, and those that arrive meanwhile are delivered. If one does not stop in time, all run on and fn does not
// run.
func held(ctx context.Context, pid int, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	return onThread(func() error {
		h := &holder{pid: pid, threads: map[int]bool{}}
		defer h.release()
		if err := h.stopAll(ctx); err != nil {
			return err
		}
		return fn()
	})
}

// onThread runs fn on a thread of its own that ends afterwards: only the thread that traces may let go, and what it forgot
// is let go when it ends. The first thread of a process never does, so it is kept busy meanwhile if it is taken.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err := onThread(fn)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// holder are the threads that one of ours traces; true once one stands still.
type holder struct {
	pid     int
	threads map[int]bool
}

// stopAll goes on until there is no thread that it did not know: one that still runs may make more.
func (h *holder) stopAll(ctx context.Context) error {
	for {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", h.pid))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		fresh := 0
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if _, known := h.threads[tid]; known || err != nil {
				continue
			}
			fresh++
			if err := h.seize(tid); err != nil {
				return fmt.Errorf("hold thread %d: %w", tid, err)
			}
		}
		if fresh == 0 {
			return nil
		}
		for tid, still := range h.threads {
			if still {
				continue
			}
			if err := h.await(ctx, tid); err != nil {
				return fmt.Errorf("hold thread %d: %w", tid, err)
			}
		}
	}
}

// seize asks a thread to stop. One that is gone counts as standing still.
func (h *holder) seize(tid int) error {
	err := unix.PtraceSeize(tid)
	if err == nil {
		h.threads[tid] = false
		err = unix.PtraceInterrupt(tid)
	}
	if errors.Is(err, unix.ESRCH) {
		h.threads[tid] = true
		return nil
	}
	return err
}

// await waits for a thread that was asked to stop. A signal on its way to it stops it, too, in place of us: it gets the
// signal and is asked again.
func (h *holder) await(ctx context.Context, tid int) error {
	for pause := 10 * time.Microsecond; ; {
		var status unix.WaitStatus
		got, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD), err == nil && got == tid && !status.Stopped():
			h.threads[tid] = true // it ended
			return nil
		case err != nil:
			return err
		case got == 0:
			if err := ctx.Err(); err != nil {
				return err
			}
			time.Sleep(pause)
			pause = min(2*pause, time.Millisecond)
		case uint32(status)>>16 == unix.PTRACE_EVENT_STOP:
			h.threads[tid] = true
			return nil
		default:
			if err := errors.Join(unix.PtraceInterrupt(tid), unix.PtraceCont(tid, int(status.StopSignal()))); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
}

// release lets all threads run on. One that was not seen to stop yet cannot be let go by name; it is when our thread ends.
func (h *holder) release() {
	for tid, still := range h.threads {
		if still {
			_ = unix.PtraceDetach(tid) // it may have ended
		}
	}
}
