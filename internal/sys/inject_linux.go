package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stopPatience is how long one thread may take to stop before another one is asked: a thread can sleep in the kernel
// where nothing interrupts it.
const stopPatience = time.Second

// InjectUserFault creates a userfaultfd inside a process, for that process's memory, and gives a copy of it. The
// descriptor stays open in the process too, as remoteFD: when our copy is closed, or we die, faults wait and are not
// lost (AdoptUserFaults, InjectClose). API was not called yet.
//
// Where userfaultfd(2) is refused inside the process, /dev/userfaultfd is tried, as the process itself sees and may open
// it. A *RemoteError that wraps EPERM or EACCES means that both were refused. Everything else is as with InjectSyscall.
func InjectUserFault(ctx context.Context, pid int) (u *UserFault, remoteFD int, err error) {
	return InjectUserFaultMode(ctx, pid, false)
}

// InjectUserFaultMode is InjectUserFault for a userfaultfd that may be for user mode only: enough for FeatureWPAsync, and
// permitted to any process where vm.unprivileged_userfaultfd is 0.
func InjectUserFaultMode(ctx context.Context, pid int, userModeOnly bool) (u *UserFault, remoteFD int, err error) {
	pidfd, err := openPidfd(pid)
	if err != nil {
		return nil, -1, fmt.Errorf("create a userfaultfd in process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(pidfd) }() // only asked
	var fd int64
	err = inject(ctx, pid, func(r *remote) (err error) {
		fd, err = r.userFault(userFaultFlags(userModeOnly))
		return err
	})
	if err != nil {
		return nil, -1, fmt.Errorf("create a userfaultfd in process %d: %w", pid, err)
	}
	u, err = fetchUserFault(pidfd, int(fd))
	if err != nil {
		err = fmt.Errorf("fetch the userfaultfd of process %d: %w", pid, err)
		return nil, -1, errors.Join(err, InjectClose(ctx, pid, int(fd)))
	}
	return u, int(fd), nil
}

// InjectClose closes a descriptor of a process. It looks first that it still is a userfaultfd, since a process may have
// closed it itself and used the number again; then it is EBADF.
func InjectClose(ctx context.Context, pid int, remoteFD int) error {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, remoteFD))
	if err == nil && link != userfaultLink {
		err = unix.EBADF
	}
	if err == nil {
		_, err = InjectSyscall(ctx, pid, unix.SYS_CLOSE, uintptr(remoteFD))
	}
	if err != nil {
		return fmt.Errorf("close userfaultfd %d of process %d: %w", remoteFD, pid, err)
	}
	return nil
}

// InjectSyscall makes one system call, with six arguments at most, inside a process, on the thread that is missed least,
// and gives what it returned. Pointers among the arguments are the process's. The thread is stopped for a fraction of
// a millisecond and then goes on with what it did: a call that it slept in is resumed as after any signal without
// a handler, and signals that arrive meanwhile are delivered afterwards.
//
// A call that fails inside is a *RemoteError. ESRCH: the process is gone, or ended meanwhile; EPERM: we may not trace it
// (another user's and no CAP_SYS_PTRACE, Yama, or a debugger is there first); ENOEXEC: it is no 64-bit process of this
// machine. When ctx ends before the thread stopped, nothing was done. When it ends during the call, the call is
// interrupted, and the answer awaited: a thread is never left with our registers in it.
func InjectSyscall(ctx context.Context, pid int, nr uintptr, args ...uintptr) (ret int64, err error) {
	if len(args) > 6 {
		return 0, os.NewSyscallError("inject", unix.EINVAL)
	}
	err = inject(ctx, pid, func(r *remote) (err error) {
		ret, err = r.call(fmt.Sprintf("system call %d", nr), nr, args...)
		return err
	})
	return ret, err
}

// inject runs fn with one thread of the process in hand, the quietest that stops in time.
func inject(ctx context.Context, pid int, fn func(*remote) error) error {
	threads, err := threadsOf(pid)
	if err != nil {
		return err
	}
	insn, err := findSyscall(pid)
	if err != nil {
		return err
	}
	for _, t := range byQuiet(threads) {
		err = onTracer(func() (clean bool, err error) {
			r := &remote{pid: pid, tid: t.tid, insn: insn}
			return r.run(ctx, fn)
		})
		if !errors.Is(err, errStillRuns) || ctx.Err() != nil {
			return err
		}
	}
	if err == nil {
		err = os.NewSyscallError("ptrace", unix.ESRCH) // no thread is alive
	}
	return err
}

// threadsOf lists the threads of a process in the order of their creation, as the kernel does. What ends while it looks
// is left out.
func threadsOf(pid int) ([]thread, error) {
	name := fmt.Sprintf("/proc/%d/task", pid)
	dir, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &os.PathError{Op: "list threads", Path: name, Err: unix.ESRCH}
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // only read
	tids, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []thread
	for _, s := range tids {
		tid, err := strconv.Atoi(s)
		if err != nil {
			continue
		}
		if t, ok := threadAt(name+"/"+s, tid, pid); ok {
			out = append(out, t)
		}
	}
	return out, nil
}

func threadAt(dir string, tid, pid int) (thread, bool) {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return thread{}, false
	}
	state, ok := parseState(string(stat))
	comm, _ := os.ReadFile(dir + "/comm") // without a name it is one of many
	text, err := os.ReadFile(dir + "/syscall")
	call := -1 // a kernel may be built without that file
	if err == nil {
		call = parseCall(string(text))
	}
	return thread{tid: tid, comm: strings.TrimSuffix(string(comm), "\n"), state: state, leader: tid == pid,
		inIoctl: call == unix.SYS_IOCTL}, ok
}
