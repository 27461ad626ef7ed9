package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

// onThread injects into a certain thread of the kid.
func (k *kid) onThread(tid int, fn func(*remote) error) error {
	return k.onFiltered(context.Background(), tid, false, fn)
}

func (k *kid) onFiltered(ctx context.Context, tid int, filter bool, fn func(*remote) error) error {
	k.t.Helper()
	insn, err := findSyscall(k.pid)
	if err != nil {
		k.t.Fatal(err)
	}
	return onTracer(func() (bool, error) {
		return (&remote{pid: k.pid, tid: tid, insn: insn, filter: filter}).run(ctx, fn)
	})
}

// until waits for a state of a thread that the kernel announces to nobody.
func (k *kid) until(tid int, what string, ok func(thread, int) bool) {
	k.t.Helper()
	untilThread(k.t, k.pid, tid, what, ok)
}

func untilThread(t testing.TB, pid, tid int, what string, ok func(thread, int) bool) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/task/%d", pid, tid)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		text, _ := os.ReadFile(dir + "/syscall")
		if th, alive := threadAt(dir, tid, pid); alive && ok(th, parseCall(string(text))) {
			return
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	t.Fatalf("thread %d is not %s", tid, what)
}

// asleep waits until the order's thread sleeps in a certain system call.
func (o *order) asleep(call int) *order {
	o.k.t.Helper()
	o.k.until(o.started, fmt.Sprintf("asleep in system call %d", call), func(th thread, got int) bool {
		return th.state == 'S' && (got == call || got == unix.SYS_RESTART_SYSCALL)
	})
	return o
}

// sleeper is a thread that sleeps in the kernel, with what ends the sleep and what comes of it.
type sleeper struct {
	name   string
	order  *order
	end    func()
	result string
}

// sleepers starts one of each way to sleep without a limit of time.
func sleepers(k *kid) []sleeper {
	k.t.Helper()
	r1, w1 := k.pipe()
	r2, w2 := k.pipe()
	feed := func(w int) func() { return func() { k.start("pipewrite %d", w).want("8 0") } }
	return []sleeper{
		{"ppoll", k.start("ppoll %d -1", r1).asleep(unix.SYS_PPOLL), feed(w1), "1 0"},
		{"read", k.start("readfd %d", r2).asleep(unix.SYS_READ), feed(w2), "8 0"},
		{"futex", k.start("futex -1").asleep(unix.SYS_FUTEX), func() { k.start("futexwake").want("1 0") }, "0 0"},
	}
}

func (k *kid) pipe() (r, w int) {
	k.t.Helper()
	if _, err := fmt.Sscan(k.do("pipe"), &r, &w); err != nil {
		k.t.Fatal(err)
	}
	return r, w
}

// A thread that slept in the kernel goes on sleeping there: it is not woken, not ended early and not told of a signal.
func TestT1InjectionLeavesSleepersAsleep(t *testing.T) {
	k := newKid(t)
	r, _ := k.pipe()
	nothing := func() {}
	all := append(sleepers(k),
		sleeper{"nanosleep", k.start("nanosleep 800").asleep(unix.SYS_NANOSLEEP), nothing, "0 0"},
		sleeper{"ppoll with a limit", k.start("ppoll %d 800", r).asleep(unix.SYS_PPOLL), nothing, "0 0"})
	for _, s := range all {
		for range 3 {
			err := k.onThread(s.order.started, func(r *remote) error {
				pid, err := r.call("getpid", unix.SYS_GETPID)
				tid, err2 := r.call("gettid", unix.SYS_GETTID)
				if int(pid) != k.pid || int(tid) != s.order.started {
					t.Errorf("%s: we are %d, %d there; want %d, %d", s.name, pid, tid, k.pid, s.order.started)
				}
				return errors.Join(err, err2)
			})
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
		}
	}
	for _, s := range all {
		s.end()
		if got := s.order.wait(); got != s.result {
			t.Errorf("%s: %q, want %q", s.name, got, s.result)
		}
	}
}

// A thread that waits for a page is stopped all the same, and waits anew afterwards: its fault is reported again.
func TestT1InjectionIntoAThreadThatWaitsForAPage(t *testing.T) {
	a, u := missing(t, "shm", 4, 0)
	r := a.read(1)
	a.fault(u, 1)
	if err := a.k.onThread(r.started, getpid); err != nil {
		t.Fatal(err)
	}
	a.fault(u, 1)
	r.still("the page is missing")
	a.place(u, 1, 5)
	r.want("5")
}

// But not one that waits for it inside the kernel, as a vCPU may: nothing happens to that one, another is asked.
func TestT1InjectionPassesByWhoCannotStop(t *testing.T) {
	a, u := missing(t, "shm", 4, 0)
	r := a.k.start("readinto %s %d 4096", a.name, a.page)
	a.fault(u, 1)
	if err := a.k.onThread(r.started, getpid); !errors.Is(err, errStillRuns) {
		t.Errorf("%v, want that it does not stop", err)
	}
	if pid, err := InjectSyscall(t.Context(), a.k.pid, unix.SYS_GETPID); err != nil || int(pid) != a.k.pid {
		t.Errorf("%d, %v; want %d", pid, err, a.k.pid)
	}
	r.still("the page is missing")
	if _, err := u.Copy(a.at(1), a.full(5), true); err != nil {
		t.Error(err)
	}
	r.want("4096 <nil>")
	if err := a.k.onThread(r.started, getpid); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Errorf("it is still traced: %v", err)
	}
}

// A futex wait with a limit of time is resumed by the kernel's own restart block, which the injection must not lose.
func TestT1InjectionKeepsTheRestOfATime(t *testing.T) {
	k := newKid(t)
	o := k.start("futex 300").asleep(unix.SYS_FUTEX)
	if err := k.onThread(o.started, getpid); err != nil {
		t.Fatal(err)
	}
	o.want(fmt.Sprintf("-1 %d", unix.ETIMEDOUT))
}

func getpid(r *remote) error { _, err := r.call("getpid", unix.SYS_GETPID); return err }

// A thread that runs is stopped between two instructions, with all it has in its registers.
func TestT1InjectionIntoARunningThread(t *testing.T) {
	k := newKid(t)
	o := k.start("spin")
	for range 50 {
		if err := k.onThread(o.started, getpid); err != nil {
			t.Fatal(err)
		}
	}
	k.must("halt")
	o.want("true true")
}

// A signal that arrives while we hold the thread is handled when we let it go; the call it slept in ends as it would
// have without us: read(2) goes on (SA_RESTART), ppoll(2) is interrupted.
func TestT1SignalsAreNotLost(t *testing.T) {
	k := newKid(t)
	for _, s := range sleepers(k) {
		want, ok := map[string]string{"read": "8 0", "ppoll": "-1 4"}[s.name]
		if !ok {
			continue
		}
		err := k.onThread(s.order.started, func(r *remote) error {
			if err := unix.Tgkill(k.pid, r.tid, unix.SIGUSR1); err != nil {
				return err
			}
			return getpid(r)
		})
		if err != nil {
			t.Fatal(err)
		}
		k.wantSignal(unix.SIGUSR1)
		s.end()
		if got := s.order.wait(); got != want {
			t.Errorf("%s: %q, want %q", s.name, got, want)
		}
	}
}

func (k *kid) wantSignal(want unix.Signal) {
	k.t.Helper()
	select {
	case got := <-k.signals:
		if got != fmt.Sprint(int(want)) {
			k.t.Errorf("signal %s, want %d", got, want)
		}
	case <-time.After(patience):
		k.t.Errorf("signal %d is lost", want)
	}
}

// One of the signals that cannot be blocked for the time, since they may stand for a fault.
func TestT1FaultSignalsSentByOthersAreNotLost(t *testing.T) {
	k := newKid(t)
	o := k.start("nanosleep 100").asleep(unix.SYS_NANOSLEEP)
	err := k.onThread(o.started, func(r *remote) error {
		if err := unix.Tgkill(k.pid, r.tid, unix.SIGTRAP); err != nil {
			return err
		}
		return getpid(r)
	})
	if err != nil {
		t.Fatal(err)
	}
	k.wantSignal(unix.SIGTRAP)
	o.wait() // interrupted or not, as the handler has it
}

// A signal that is there before us is delivered first.
func TestT1PendingSignalsGoFirst(t *testing.T) {
	k := newKid(t)
	o := k.start("spin")
	for range 20 {
		if err := unix.Tgkill(k.pid, o.started, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if err := k.onThread(o.started, getpid); err != nil {
			t.Fatal(err)
		}
		k.wantSignal(unix.SIGUSR1)
	}
	k.must("halt")
	o.want("true true")
}

// A signal that comes between the two steps of stopping a thread is delivered before it stops for us.
func TestT1SignalsBeforeTheStopAreDelivered(t *testing.T) {
	k := newKid(t)
	o := k.start("spin")
	insn, err := findSyscall(k.pid)
	if err != nil {
		t.Fatal(err)
	}
	err = onTracer(func() (bool, error) {
		r := &remote{pid: k.pid, tid: o.started, insn: insn, ctx: t.Context()}
		if err := errors.Join(r.seize(), unix.Tgkill(k.pid, r.tid, unix.SIGUSR1)); err != nil {
			return false, err
		}
		k.until(r.tid, "stopped for the signal", func(th thread, _ int) bool { return th.state == 't' })
		if err := errors.Join(r.halt(), r.prepare()); err != nil {
			return false, err
		}
		return r.letGo(getpid(r))
	})
	if err != nil {
		t.Fatal(err)
	}
	k.wantSignal(unix.SIGUSR1)
	k.must("halt")
	o.want("true true")
}

// A process that is stopped, before or while we are at it, is stopped afterwards, and goes on when it is told to.
func TestT1StoppedProcessesStayStopped(t *testing.T) {
	for _, when := range []string{"before", "meanwhile", "to the thread"} {
		t.Run(when, func(t *testing.T) {
			k := newKid(t)
			o := k.start("nanosleep 50").asleep(unix.SYS_NANOSLEEP)
			halt := func() error { return unix.Kill(k.pid, unix.SIGSTOP) }
			if when == "before" {
				if err := halt(); err != nil {
					t.Fatal(err)
				}
				k.until(o.started, "stopped", stoppedState)
			}
			err := k.onThread(o.started, func(r *remote) error {
				switch when {
				case "meanwhile":
					_ = halt()
				case "to the thread":
					_ = unix.Tgkill(k.pid, r.tid, unix.SIGSTOP)
				}
				return errors.Join(getpid(r), getpid(r))
			})
			if err != nil {
				t.Fatal(err)
			}
			k.until(o.started, "stopped", stoppedState)
			k.until(k.pid, "stopped", stoppedState)
			o.still("the process is stopped")
			if err := unix.Kill(k.pid, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			o.want("0 0")
		})
	}
}

func stoppedState(th thread, _ int) bool { return th.state == 'T' }

func TestT1EndedMeanwhile(t *testing.T) {
	for _, when := range []string{"before the call", "in the call", "after the call"} {
		t.Run(when, func(t *testing.T) {
			k := newKid(t)
			o := k.start("nanosleep 60000").asleep(unix.SYS_NANOSLEEP)
			err := k.onThread(o.started, func(r *remote) error {
				end := func() { _ = k.cmd.Process.Kill() }
				switch when {
				case "before the call":
					end()
				case "in the call":
					_, err := r.call("kill", unix.SYS_KILL, uintptr(k.pid), uintptr(unix.SIGKILL))
					return err
				default:
					defer end()
				}
				return getpid(r)
			})
			if !errors.Is(err, unix.ESRCH) {
				t.Errorf("%v, want ESRCH", err)
			}
			var refused *RemoteError
			if errors.As(err, &refused) {
				t.Errorf("%v is taken for an answer", err)
			}
			if s, err := k.cmd.Process.Wait(); err != nil || s.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
				t.Errorf("its end is not there for its parent: %v, %v", s, err)
			}
		})
	}
}

// When time is up during a call that sleeps, the call is cut short and the thread goes on with its own business.
func TestT1TimeIsUpDuringTheCall(t *testing.T) {
	k := newKid(t)
	o := k.start("nanosleep 100").asleep(unix.SYS_NANOSLEEP)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- k.onFiltered(ctx, o.started, false, func(r *remote) error {
			_, err := r.call("ppoll", unix.SYS_PPOLL, 0, 0, 0, 0)
			return err
		})
	}()
	// A thread whose tracer lets it run sleeps in the call.
	k.until(o.started, "asleep in ppoll", func(th thread, call int) bool { return th.state == 'S' && call == unix.SYS_PPOLL })
	cancel()
	err := <-done
	var refused *RemoteError
	if !errors.As(err, &refused) || refused.Errno != unix.EINTR {
		t.Errorf("%v, want EINTR of the call", err)
	}
	o.want("0 0")
}

func TestT1TimeIsUpBefore(t *testing.T) {
	k := newKid(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := InjectSyscall(ctx, k.pid, unix.SYS_GETPID); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled, or done at once", err)
	}
	k.start("nanosleep 1").want("0 0")
}

func TestT1InjectSyscall(t *testing.T) {
	k := newKid(t)
	if got, err := InjectSyscall(t.Context(), k.pid, unix.SYS_GETPID); err != nil || int(got) != k.pid {
		t.Errorf("%d, %v; want %d", got, err, k.pid)
	}
	_, err := InjectSyscall(t.Context(), k.pid, unix.SYS_CLOSE, 9999)
	var refused *RemoteError
	if !errors.As(err, &refused) || refused.Errno != unix.EBADF || !errors.Is(err, unix.EBADF) {
		t.Errorf("%v, want EBADF", err)
	}
	for _, args := range [][]uintptr{make([]uintptr, 7)} {
		if _, err := InjectSyscall(t.Context(), k.pid, unix.SYS_GETPID, args...); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%v, want EINVAL", err)
		}
	}
	_ = k.cmd.Process.Kill()
	_, _ = k.cmd.Process.Wait() // that it was killed is no news
	if _, err := InjectSyscall(t.Context(), k.pid, unix.SYS_GETPID); !errors.Is(err, unix.ESRCH) {
		t.Errorf("after its end: %v, want ESRCH", err)
	}
}

// Whom another tracer holds is refused, and left to it.
func TestT1TracedByAnother(t *testing.T) {
	k := newKid(t)
	o := k.start("nanosleep 100").asleep(unix.SYS_NANOSLEEP)
	err := k.onThread(o.started, func(*remote) error {
		err := k.onThread(o.started, getpid)
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%v, want EPERM", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	o.want("0 0")
}

func TestT1InjectUserFault(t *testing.T) {
	need.UFFD(t)
	k := newKid(t)
	a := k.newArea("shm", 4)
	u, n, err := InjectUserFault(t.Context(), k.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }() // again is fine
	if _, err := u.API(FeatureMissingShmem); err != nil {
		t.Fatal(err)
	}
	if err := u.Register(a.addr, a.size, Missing); err != nil {
		t.Fatal(err)
	}
	r := a.read(1)
	a.fault(u, 1)
	a.place(u, 1, 7)
	r.want("7")
	if err := errors.Join(u.Close(), InjectClose(t.Context(), k.pid, n)); err != nil {
		t.Fatal(err)
	}
	a.read(2).want("0")
	if got, err := AdoptUserFaults(k.pid); len(got) != 0 || err != nil {
		t.Errorf("%+v, %v; want none", got, err)
	}
	if err := InjectClose(t.Context(), k.pid, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("closing what is no userfaultfd: %v, want EBADF", err)
	}
	if err := InjectClose(t.Context(), k.pid, n); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("closing what is closed: %v, want not exist", err)
	}
}

// A process of another user may not make the call itself; then it is the device's permissions that count.
func TestT1InjectByDevice(t *testing.T) {
	need.UFFD(t)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to start a child as another user; remedy: run the tests as root")
	}
	if allowed, _ := os.ReadFile("/proc/sys/vm/unprivileged_userfaultfd"); strings.TrimSpace(string(allowed)) == "1" {
		t.Skip("needs userfaultfd to be refused; remedy: sysctl vm.unprivileged_userfaultfd=0")
	}
	if _, err := os.Stat(userfaultDevice); err != nil {
		t.Skipf("needs %s: %v; remedy: boot a kernel of 6.1 or newer", userfaultDevice, err)
	}
	for mode, refuse := range map[int]bool{0o600: true, 0o666: false} {
		k := startKid(t, &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
		k.must("device %d", mode)
		k.must("drop 65534")
		a := k.newArea("shm", 4)
		r, w := k.pipe()
		o := k.start("readfd %d", r).asleep(unix.SYS_READ)
		u, _, err := InjectUserFault(t.Context(), k.pid)
		var refused *RemoteError
		if refuse && (!errors.As(err, &refused) || !errors.Is(err, unix.EPERM) || !errors.Is(err, unix.EACCES)) {
			t.Errorf("%v, want EPERM of the call and EACCES of the device", err)
		}
		if refuse {
			if u, _, err = InjectUserFaultMode(t.Context(), k.pid, true); err != nil {
				t.Fatalf("for user mode only: %v", err)
			}
			_ = u.Close() // it was only to be got
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = u.Close() }) // the kid is gone by then
		if _, err := u.API(FeatureMissingShmem); err != nil {
			t.Fatal(err)
		}
		if err := u.Register(a.addr, a.size, Missing); err != nil {
			t.Fatal(err)
		}
		in := k.start("readinto %s 0 4096", a.name)
		a.fault(u, 0)
		a.place(u, 0, 1)
		in.want("4096 <nil>")
		k.start("pipewrite %d", w).want("8 0")
		o.want("8 0")
		if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", k.pid)); err != nil {
			t.Error(err)
		} else {
			for _, fd := range fds {
				if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", k.pid, fd.Name())); to == userfaultDevice {
					t.Error("the device is still open in the process")
				}
			}
		}
	}
}

// A filter of system calls that refuses, traps or kills: where we may, it is suspended for our call. Where not, refusing
// and trapping are told apart from other errors, and the process lives.
func TestT1FiltersOfSystemCalls(t *testing.T) {
	need.UFFD(t)
	actions := map[string]uint32{"errno": unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), "trap": unix.SECCOMP_RET_TRAP, "kill": unix.SECCOMP_RET_KILL_PROCESS}
	for name, action := range actions {
		t.Run(name, func(t *testing.T) {
			k := newKid(t)
			r, w := k.pipe()
			o := k.start("filter %d %d", action, r).asleep(unix.SYS_READ)
			open := func(r *remote) error {
				fd, err := r.call("userfaultfd", unix.SYS_USERFAULTFD, userFaultFlags(false))
				if err == nil {
					_, err = r.call("close", unix.SYS_CLOSE, uintptr(fd))
				}
				return err
			}
			if err := k.onThread(o.started, open); err != nil {
				t.Errorf("with the filter suspended: %v", err)
			}
			if name != "kill" {
				err := k.onFiltered(t.Context(), o.started, true, open)
				var refused *RemoteError
				if !errors.As(err, &refused) || refused.Errno != unix.EPERM {
					t.Errorf("with the filter in force: %v, want EPERM of the call", err)
				}
			}
			k.start("pipewrite %d", w).want("8 0")
			o.want("8 0")
		})
	}
}

// Injections one after the other, and several at once into different threads, into a process that is busy.
func TestT1ManyInjections(t *testing.T) {
	k := newKid(t)
	sleeping := sleepers(k)
	spin := k.start("spin")
	done := make(chan error, len(sleeping))
	for _, s := range sleeping {
		go func() {
			var err error
			for range 50 {
				err = errors.Join(err, k.onThread(s.order.started, getpid))
			}
			done <- err
		}()
	}
	for range sleeping {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, s := range sleeping {
		s.end()
		if got := s.order.wait(); got != s.result {
			t.Errorf("%s: %q, want %q", s.name, got, s.result)
		}
	}
	k.must("halt")
	spin.want("true true")
}

// sleepingProcess is one that is not written in Go, has one thread and sleeps.
func sleepingProcess(t testing.TB) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // that it was killed is no news
	pid = cmd.Process.Pid
	untilThread(t, pid, pid, "asleep", func(th thread, call int) bool { return th.state == 'S' && call == unix.SYS_CLOCK_NANOSLEEP })
	return pid
}

func TestT1InjectIntoOneThread(t *testing.T) {
	need.UFFD(t)
	pid := sleepingProcess(t)
	for range 20 {
		u, n, err := InjectUserFault(t.Context(), pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(u.Close(), InjectClose(t.Context(), pid, n)); err != nil {
			t.Fatal(err)
		}
	}
	untilThread(t, pid, pid, "asleep", func(th thread, call int) bool { return th.state == 'S' && call == unix.SYS_RESTART_SYSCALL })
}
