package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errStillRuns means that a thread did not stop in time; nothing was done to it.
var errStillRuns = errors.New("the thread does not stop")

// onTracer runs fn on an operating system thread of its own, since the kernel takes ptrace calls from the tracing thread
// only. Unless fn says that it left clean, the thread ends with it: then the kernel lets go of whatever is traced.
func onTracer(fn func() (clean bool, err error)) error {
	done := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread of a process cannot end. While it is taken, another one gets the work.
			over := make(chan struct{})
			go func() {
				defer close(over)
				run()
			}()
			<-over
			runtime.UnlockOSThread()
			return
		}
		clean, err := fn()
		if clean {
			runtime.UnlockOSThread()
		}
		done <- err
	}
	go run()
	return <-done
}

// ptrace makes the calls that x/sys has no typed form for.
func ptrace(request int, tid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// sigset is the kernel's sigset_t: bit i-1 is signal i.
type sigset uint64

const sigsetSize = unsafe.Sizeof(sigset(0))

func getSigmask(tid int) (s sigset, err error) {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGMASK, uintptr(tid), sigsetSize,
		uintptr(unsafe.Pointer(&s)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return s, nil
}

func setSigmask(tid int, s sigset) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SETSIGMASK, uintptr(tid), sigsetSize,
		uintptr(unsafe.Pointer(&s)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// sentByKernel tells whether the signal that the thread is stopped for comes from what the thread itself did: its
// si_code is positive then.
func sentByKernel(tid int) bool {
	var info unix.Siginfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGINFO, uintptr(tid), 0,
		uintptr(unsafe.Pointer(&info)), 0, 0)
	return errno == 0 && info.Code > 0
}

// stop says why a traced thread stopped: the signal, with syscallStop for a system call, and the event.
type stop struct{ signal, event int }

// syscallStop is the signal of a stop at the begin or end of a system call (PTRACE_O_TRACESYSGOOD).
const syscallStop = int(unix.SIGTRAP) | 0x80

// waitStop waits until the thread stops. ESRCH: it ended; ctx's error: it still runs.
func waitStop(ctx context.Context, pid, tid int) (stop, error) {
	pause := 20 * time.Microsecond
	for try := 0; ; try++ {
		s, state, err := pollStop(tid)
		switch {
		case err != nil:
			return stop{}, err
		case state == stateStopped:
			return s, nil
		case state == stateEnded:
			return stop{}, ended(pid, tid)
		}
		if err := ctx.Err(); err != nil {
			return stop{}, err
		}
		if try < 50 { // mostly it takes some microseconds
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		ts := unix.NsecToTimespec(pause.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil) // a signal may cut it short
		pause = min(2*pause, time.Millisecond)
	}
}

type traceState int

const (
	stateRuns traceState = iota + 1
	stateStopped
	stateEnded
)

// pollStop looks whether the thread stopped, and takes the news of it. News of its end are left for its parent.
func pollStop(tid int) (stop, traceState, error) {
	const look = unix.WSTOPPED | unix.WEXITED | unix.WNOHANG | unix.WNOWAIT | unix.WALL
	var info unix.Siginfo
	if err := waitid(tid, &info, look); err != nil {
		if err == unix.ECHILD {
			return stop{}, stateEnded, nil
		}
		return stop{}, 0, os.NewSyscallError("waitid", err)
	}
	switch {
	case info.Signo == 0:
		return stop{}, stateRuns, nil
	case info.Code != cldTrapped && info.Code != cldStopped:
		return stop{}, stateEnded, nil
	}
	info = unix.Siginfo{}
	const take = unix.WSTOPPED | unix.WNOHANG | unix.WALL
	if err := waitid(tid, &info, take); err != nil && err != unix.ECHILD {
		return stop{}, 0, os.NewSyscallError("waitid", err)
	}
	if info.Signo == 0 {
		return stop{}, stateRuns, nil // killed between the two looks
	}
	status := (*childInfo)(unsafe.Pointer(&info)).status
	return stop{signal: int(status & 0xff), event: int(status >> 8)}, stateStopped, nil
}

// childInfo is siginfo_t as waitid fills it (64-bit layout); CLD_TRAPPED and CLD_STOPPED are of asm-generic/siginfo.h.
type childInfo struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
}

const (
	cldTrapped = 4
	cldStopped = 5
)

func waitid(tid int, info *unix.Siginfo, options int) error {
	for {
		err := unix.Waitid(unix.P_PID, tid, info, options, nil)
		if err != unix.EINTR {
			return err
		}
	}
}

// ended takes the news of a thread's end, where they are for the tracer alone, and gives ESRCH. Those of a process that
// is our own child are for whoever started it.
func ended(pid, tid int) error {
	if tid != pid || parentOf(pid) != os.Getpid() {
		var info unix.Siginfo
		_ = waitid(tid, &info, unix.WEXITED|unix.WNOHANG|unix.WALL) // if it is gone, all the better
	}
	return os.NewSyscallError("ptrace", unix.ESRCH)
}

// parentOf gives 0 if it cannot be told.
func parentOf(pid int) (ppid int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := strings.LastIndexByte(string(stat), ')')
	if err != nil || i < 0 {
		return 0
	}
	var state string
	_, _ = fmt.Sscan(string(stat[i+1:]), &state, &ppid) // 0 if it is not there
	return ppid
}
