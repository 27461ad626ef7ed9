package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// remote is one thread of another process that we hold stopped, to make system calls in its name. All its methods run on
// the tracing thread.
type remote struct {
	pid, tid int
	insn     uint64 // where the process has an instruction that makes a system call
	ctx      context.Context

	regs   unix.PtraceRegs // as we found them
	mask   sigset          // as we found it
	dirty  bool            // the thread has registers of ours
	armed  bool            // its filter of system calls is in force
	held   []unix.Signal   // signals that came at a bad moment, to be sent again
	filter bool            // tests only: leave the filter in force
}

// run seizes the thread, lets fn use it, and puts everything back. clean tells that the thread is no longer traced.
func (r *remote) run(ctx context.Context, fn func(*remote) error) (clean bool, err error) {
	r.ctx = ctx
	if err := r.seize(); err != nil {
		return true, err
	}
	if err := r.halt(); err != nil {
		return false, err
	}
	if err := r.prepare(); err != nil {
		return r.letGo(err)
	}
	return r.letGo(fn(r))
}

// seize starts to trace the thread, which goes on running. A filter of system calls (seccomp) that kills whoever makes
// a call that it does not know would kill the guest for our call: where we may (CAP_SYS_ADMIN), it is suspended for this
// thread while we hold it.
func (r *remote) seize() error {
	r.armed = filtered(r.pid, r.tid)
	if r.armed && !r.filter {
		const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_SUSPEND_SECCOMP
		if ptrace(unix.PTRACE_SEIZE, r.tid, 0, options) == nil {
			r.armed = false
			return nil
		}
	}
	return os.NewSyscallError("ptrace", ptrace(unix.PTRACE_SEIZE, r.tid, 0, unix.PTRACE_O_TRACESYSGOOD))
}

// filtered tells whether the thread has a filter of system calls.
func filtered(pid, tid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
	return err == nil && strings.Contains(string(status), "\nSeccomp:\t2")
}

// halt stops the thread before its next instruction. Signals that come first are delivered.
func (r *remote) halt() error {
	ctx, cancel := context.WithTimeout(r.ctx, stopPatience)
	defer cancel()
	if err := unix.PtraceInterrupt(r.tid); err != nil {
		return os.NewSyscallError("ptrace", err)
	}
	for {
		s, err := waitStop(ctx, r.pid, r.tid)
		if err != nil && r.ctx.Err() == nil && ctx.Err() != nil {
			return errStillRuns
		}
		if err != nil {
			return err
		}
		if s.event == unix.PTRACE_EVENT_STOP { // ours, or that of a process that is stopped anyway
			return nil
		}
		if err := unix.PtraceCont(r.tid, s.deliver()); err != nil {
			return os.NewSyscallError("ptrace", err)
		}
	}
}

// deliver is the signal to resume the thread with, so that it gets what it was stopped for.
func (s stop) deliver() int {
	if s.event != 0 || s.signal == syscallStop {
		return 0
	}
	return s.signal
}

// prepare notes what has to be put back, and blocks signals: those that arrive from now on wait. Signals that stand for
// a fault of the thread itself stay open, since the kernel resets their handlers if they come while blocked.
func (r *remote) prepare() (err error) {
	if err := unix.PtraceGetRegs(r.tid, &r.regs); err != nil {
		return os.NewSyscallError("ptrace", err)
	}
	if err := callable(&r.regs); err != nil {
		return err
	}
	if r.mask, err = getSigmask(r.tid); err != nil {
		return os.NewSyscallError("ptrace", err)
	}
	block := ^sigset(0)
	for _, s := range faultSignals() {
		block &^= 1 << (s - 1)
	}
	return os.NewSyscallError("ptrace", setSigmask(r.tid, block|r.mask))
}

func faultSignals() []unix.Signal {
	return []unix.Signal{unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS}
}

// call makes one system call on the thread.
func (r *remote) call(name string, nr uintptr, args ...uintptr) (int64, error) {
	regs := r.regs
	setCall(&regs, r.insn, nr, args)
	r.dirty = true
	if err := unix.PtraceSetRegs(r.tid, &regs); err != nil {
		return 0, os.NewSyscallError("ptrace", err)
	}
	for range 2 { // to the begin of the call, and to its end
		if err := r.toSyscallStop(); err != nil {
			return 0, err
		}
	}
	if err := unix.PtraceGetRegs(r.tid, &regs); err != nil {
		return 0, os.NewSyscallError("ptrace", err)
	}
	ret := result(&regs)
	if r.armed && pending(r.pid, r.tid, unix.SIGSYS) {
		ret = -int64(unix.EPERM) // the filter did not let the call through, and would end the process for it
	}
	switch {
	case ret <= -512 && ret >= -516: // interrupted, since ctx ended
		return 0, &RemoteError{Call: name, Errno: unix.EINTR}
	case ret < 0 && ret >= -4095:
		return 0, &RemoteError{Call: name, Errno: unix.Errno(-ret)}
	}
	return ret, nil
}

// toSyscallStop lets the thread run to the next begin or end of a system call. When ctx ends it hurries the call, and
// waits on: it must not go on with our registers.
func (r *remote) toSyscallStop() error {
	ctx, signal := r.ctx, 0
	for {
		if err := unix.PtraceSyscall(r.tid, signal); err != nil {
			return os.NewSyscallError("ptrace", err)
		}
		s, err := waitStop(ctx, r.pid, r.tid)
		if err != nil && ctx.Err() != nil && ctx.Err() == err {
			ctx = context.WithoutCancel(ctx)
			_ = unix.PtraceInterrupt(r.tid) // at worst the call takes its time
			s, err = waitStop(ctx, r.pid, r.tid)
		}
		switch {
		case err != nil:
			return err
		case s.signal == syscallStop:
			return nil
		}
		if signal, err = r.sift(s); err != nil {
			return err
		}
	}
}

// sift decides about a stop for another reason while the thread has our registers: which signal to resume it with.
func (r *remote) sift(s stop) (signal int, err error) {
	sig := unix.Signal(s.deliver())
	switch {
	case sig == 0:
		return 0, nil
	case sig == unix.SIGSTOP: // it stops the whole process, and us not
		return int(sig), nil
	case sig == unix.SIGSYS && sentByKernel(r.tid):
		return 0, nil // the filter's, for a call before
	case sentByKernel(r.tid):
		return 0, fmt.Errorf("the process faults at the system call: %w", &RemoteError{Call: sig.String(), Errno: unix.EFAULT})
	}
	r.held = append(r.held, sig)
	return 0, nil
}

// letGo puts back what prepare noted and stops tracing. err is passed on, with what went wrong here.
func (r *remote) letGo(err error) (clean bool, _ error) {
	back := r.putBack()
	if back == nil {
		back = unix.PtraceDetach(r.tid)
	}
	for _, s := range r.held {
		_ = unix.Tgkill(r.pid, r.tid, s) // an end of the process is reported by the detach
	}
	switch {
	case back == nil:
		return true, err
	case errors.Is(back, unix.ESRCH) && errors.Is(err, unix.ESRCH):
		return false, err // told already
	}
	return false, errors.Join(err, fmt.Errorf("let thread %d go: %w", r.tid, back))
}

// putBack restores the registers and has the thread stop once more on its way out of the kernel. There the kernel itself
// decides what becomes of the system call that the thread was in when we came: it looks at the registers, which say
// "interrupted", and starts the call again, resumes it, or ends it with EINTR for the sake of a handler.
func (r *remote) putBack() error {
	if r.dirty {
		if err := unix.PtraceSetRegs(r.tid, &r.regs); err != nil {
			return err
		}
		if err := r.comeToRest(); err != nil {
			return err
		}
	}
	return setSigmask(r.tid, r.mask)
}

// comeToRest takes the thread, which has its own registers again, from wherever it is stopped to a stop of ours.
func (r *remote) comeToRest() error {
	ctx := context.WithoutCancel(r.ctx)
	signal := 0
	if r.armed && pending(r.pid, r.tid, unix.SIGSYS) {
		if err := r.dropFilterSignal(ctx); err != nil {
			return err
		}
	}
	for {
		if err := unix.PtraceInterrupt(r.tid); err != nil {
			return err
		}
		if err := unix.PtraceCont(r.tid, signal); err != nil {
			return err
		}
		s, err := waitStop(ctx, r.pid, r.tid)
		if err != nil {
			return err
		}
		if s.event == unix.PTRACE_EVENT_STOP {
			return nil
		}
		signal = s.deliver()
	}
}

// dropFilterSignal takes the signal that a filter of system calls sent for our call.
func (r *remote) dropFilterSignal(ctx context.Context) error {
	for signal := 0; ; {
		if err := unix.PtraceCont(r.tid, signal); err != nil {
			return err
		}
		s, err := waitStop(ctx, r.pid, r.tid)
		if err != nil {
			return err
		}
		if s.event == 0 && s.signal == int(unix.SIGSYS) && sentByKernel(r.tid) {
			return nil
		}
		signal = s.deliver()
	}
}

// pending tells whether a signal waits for this thread.
func pending(pid, tid int, sig unix.Signal) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(status), "\nSigPnd:\t")
	var set uint64
	if _, err := fmt.Sscanf(rest, "%x", &set); !ok || err != nil {
		return false
	}
	return set>>(sig-1)&1 == 1
}

// userFault opens a userfaultfd on the thread, by the system call or by the device.
func (r *remote) userFault(flags uintptr) (int64, error) {
	fd, err := r.call("userfaultfd", unix.SYS_USERFAULTFD, flags)
	var refused *RemoteError
	if !errors.As(err, &refused) || !slices.Contains([]unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS}, refused.Errno) {
		return fd, err
	}
	fd, devErr := r.userFaultByDevice(flags)
	if devErr != nil {
		return 0, errors.Join(err, devErr)
	}
	return fd, nil
}

// userFaultByDevice opens the device inside the process: a userfaultfd belongs to the memory of who asks for it.
func (r *remote) userFaultByDevice(flags uintptr) (fd int64, err error) {
	path, undo, err := r.lend(append([]byte(userfaultDevice), 0))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, undo()) }()
	const atCwd = ^uintptr(99) // AT_FDCWD, -100
	dev, err := r.call("open "+userfaultDevice, unix.SYS_OPENAT, atCwd, path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	fd, err = r.call("USERFAULTFD_IOC_NEW", unix.SYS_IOCTL, uintptr(dev), userfaultNew, flags)
	_, closeErr := r.call("close "+userfaultDevice, unix.SYS_CLOSE, uintptr(dev))
	return fd, errors.Join(err, closeErr)
}

// redZone is how much below the stack pointer a thread may use without moving it (System V ABI of amd64; more than
// arm64 has).
const redZone = 128

// lend puts some bytes on the stack of the thread, below what it uses; undo puts back what was there.
func (r *remote) lend(b []byte) (addr uintptr, undo func() error, err error) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", r.pid), os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	at := (stackPointer(&r.regs) - redZone - uint64(len(b))) &^ 15
	old := make([]byte, len(b))
	_, err = mem.ReadAt(old, int64(at))
	if err == nil {
		_, err = mem.WriteAt(b, int64(at))
	}
	if err != nil {
		_ = mem.Close() // only looked at
		return 0, nil, err
	}
	return uintptr(at), func() error {
		_, err := mem.WriteAt(old, int64(at))
		return errors.Join(err, mem.Close())
	}, nil
}
