package sys

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kid reads lines "ID VERB ARGS…" and does each on a thread of its own, so that one may wait for a page while others
// go on. It says "ID tid TID" when it starts and "ID ok RESULT" when it is done. No page that the test watches is
// touched by anything else: no garbage is collected, nobody is preempted.
type kidState struct {
	mu   sync.Mutex
	out  io.Writer
	maps map[string][]byte
	fds  map[string]int
	halt atomic.Bool
}

func runKid(in io.Reader, out io.Writer) {
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(12)
	k := &kidState{out: out, maps: map[string][]byte{}, fds: map[string]int{}}
	usr := make(chan os.Signal, 16)
	signal.Notify(usr, unix.SIGUSR1, unix.SIGTRAP, unix.SIGSYS)
	go func() {
		for s := range usr {
			k.say("signal %d", s)
		}
	}()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		f := strings.Fields(lines.Text())
		go k.serve(f[0], f[1], f[2:])
	}
}

func (k *kidState) say(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fmt.Fprintf(k.out, format+"\n", args...)
}

func (k *kidState) serve(id, verb string, args []string) {
	runtime.LockOSThread()
	k.say("%s tid %d", id, unix.Gettid())
	defer func() {
		if r := recover(); r != nil {
			k.say("%s ok panic: %v", id, r)
		}
	}()
	k.say("%s ok %s", id, k.do(verb, args))
}

func (k *kidState) mapping(name string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.maps[name]
}

func (k *kidState) fd(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fds[name]
}

func (k *kidState) keep(name string, b []byte, fd int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.maps[name], k.fds[name] = b, fd
	return fmt.Sprintf("%d %d", uintptr(unsafe.Pointer(&b[0])), fd)
}

func number(s string) int {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		panic(err)
	}
	return int(n)
}

// do is one verb. All sizes and offsets are bytes.
func (k *kidState) do(verb string, a []string) string {
	switch verb {
	case "map": // NAME anon|shm|huge SIZE
		return k.create(a[0], a[1], number(a[2]))
	case "alias": // NEW OLD
		b, err := unix.Mmap(k.fd(a[1]), 0, len(k.mapping(a[1])), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return err.Error()
		}
		return k.keep(a[0], b, k.fd(a[1]))
	case "uffd": // usermode?
		u, err := NewUserFault(a[0] == "1")
		if err != nil {
			return err.Error()
		}
		return strconv.Itoa(u.FD())
	case "write": // NAME OFF VALUE: one byte
		k.mapping(a[0])[number(a[1])] = byte(number(a[2]))
	case "stripes": // NAME STEP: one byte each
		for b, i := k.mapping(a[0]), 0; i < len(b); i += number(a[1]) {
			b[i]++
		}
	case "read": // NAME OFF
		return strconv.Itoa(int(k.mapping(a[0])[number(a[1])]))
	case "spin": // adds up until "halt": does the sum come out right?
		var sum, n uint64
		for !k.halt.Load() {
			n++
			sum += n
		}
		return fmt.Sprint(n > 0, sum == n*(n+1)/2)
	case "halt":
		k.halt.Store(true)
	case "device": // MODE: has a node of its own in the place of the machine's
		return result0(ownDevice(uint32(number(a[0]))))
	case "readinto": // NAME OFF LEN: the kernel writes zeros there
		return k.readZeros(k.mapping(a[0])[number(a[1]):][:number(a[2])])
	case "copyout": // NAME OFF LEN: the kernel reads there
		return copyOut(k.mapping(a[0])[number(a[1]):][:number(a[2])])
	case "close":
		return result0(unix.Close(number(a[0])))
	case "fork":
		return k.fork(k.mapping(a[0]), number(a[1]))
	default:
		return k.doMapped(verb, a)
	}
	return "done"
}

func (k *kidState) doMapped(verb string, a []string) string {
	switch verb {
	case "dontneed": // NAME OFF LEN
		return result0(unix.Madvise(k.mapping(a[0])[number(a[1]):][:number(a[2])], unix.MADV_DONTNEED))
	case "remove":
		return result0(unix.Madvise(k.mapping(a[0])[number(a[1]):][:number(a[2])], unix.MADV_REMOVE))
	case "munmap": // NAME
		return result0(unix.Munmap(k.mapping(a[0])))
	case "mremap": // NAME: moves it to another place
		return k.move(a[0])
	}
	return doBlocking(verb, a)
}

// move moves a mapping to an address that is free, since it was reserved.
func (k *kidState) move(name string) string {
	b := k.mapping(name)
	to, err := unix.Mmap(-1, 0, len(b), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err.Error()
	}
	_, err = unix.MremapPtr(unsafe.Pointer(&b[0]), uintptr(len(b)), unsafe.Pointer(&to[0]), uintptr(len(b)),
		unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED)
	if err != nil {
		return err.Error()
	}
	return k.keep(name, to, k.fd(name))
}

func result0(err error) string {
	if err != nil {
		return err.Error()
	}
	return "done"
}

func (k *kidState) create(name, kind string, size int) string {
	if kind == "anon" {
		b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err.Error()
		}
		return k.keep(name, b, -1)
	}
	f, err := Memfd(name, int64(size), kind == "huge")
	if err != nil {
		return err.Error()
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		return err.Error()
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err.Error()
	}
	return k.keep(name, b, fd)
}

func (k *kidState) readZeros(b []byte) string {
	f, err := os.Open("/dev/zero")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }() // only read
	n, err := unix.Read(int(f.Fd()), b)
	return fmt.Sprintf("%d %v", n, err)
}

func copyOut(b []byte) string {
	fd, err := unix.MemfdCreate("out", 0)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = unix.Close(fd) }() // it was only written
	n, err := unix.Write(fd, b)
	return fmt.Sprintf("%d %v", n, err)
}

// ownDevice needs a mount namespace of our own.
func ownDevice(mode uint32) error {
	dir, err := os.MkdirTemp("", "sys-test-dev")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the mount holds what is needed
	var st unix.Stat_t
	node := dir + "/node"
	if err := unix.Stat(userfaultDevice, &st); err != nil {
		return err
	}
	if err := unix.Mknod(node, unix.S_IFCHR|mode, int(st.Rdev)); err != nil {
		return err
	}
	return errors.Join(unix.Chmod(node, mode), unix.Mount(node, userfaultDevice, "", unix.MS_BIND, ""))
}

// fork makes a child that writes one byte and ends, and gives its exit status.
func (k *kidState) fork(b []byte, off int) string {
	pid := rawFork(b, off)
	var ws unix.WaitStatus
	_, err := unix.Wait4(int(pid), &ws, 0, nil)
	return fmt.Sprintf("%d %v", ws.ExitStatus(), err)
}

// rawFork must not grow the stack or call the runtime in the child: only this thread is in it.
//
//go:norace
//go:nosplit
func rawFork(b []byte, off int) uintptr {
	pid, _, _ := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if pid == 0 {
		b[off] = 42
		for {
			_, _, _ = syscall.RawSyscall6(syscall.SYS_EXIT_GROUP, uintptr(b[off]), 0, 0, 0, 0, 0)
		}
	}
	return pid
}

// doBlocking makes one call that sleeps, without the library's own repetition, and tells its result and errno, and
// whether it came back before its time.
func doBlocking(verb string, a []string) string {
	var r uintptr
	var errno syscall.Errno
	start := time.Now()
	var least time.Duration
	switch verb {
	case "nanosleep": // MS
		least = time.Duration(number(a[0])) * time.Millisecond
		ts := unix.NsecToTimespec(least.Nanoseconds())
		r, _, errno = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
	case "ppoll": // FD MS, -1 for no limit
		p := unix.PollFd{Fd: int32(number(a[0])), Events: unix.POLLIN}
		var ts *unix.Timespec
		if ms := number(a[1]); ms >= 0 {
			least = time.Duration(ms) * time.Millisecond
			t := unix.NsecToTimespec(least.Nanoseconds())
			ts = &t
		}
		r, _, errno = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	case "readfd": // FD
		var b [8]byte
		r, _, errno = unix.RawSyscall(unix.SYS_READ, uintptr(number(a[0])), uintptr(unsafe.Pointer(&b[0])), 8)
	case "futex": // MS, -1 for no limit: FUTEX_WAIT | FUTEX_PRIVATE_FLAG
		var word uint32
		futexWord = &word
		var ts *unix.Timespec
		if ms := number(a[0]); ms >= 0 {
			least = time.Duration(ms) * time.Millisecond
			t := unix.NsecToTimespec(least.Nanoseconds())
			ts = &t
		}
		r, _, errno = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 128, 0, uintptr(unsafe.Pointer(ts)), 0, 0)
	case "futexwake":
		r, _, errno = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(futexWord)), 128|1, 1, 0, 0, 0)
	case "filter": // ACTION: what becomes of userfaultfd(2) on this thread, which then sleeps
		if err := filterUserfaultfd(uint32(number(a[0]))); err != nil {
			return err.Error()
		}
		var b [8]byte
		r, _, errno = unix.RawSyscall(unix.SYS_READ, uintptr(number(a[1])), uintptr(unsafe.Pointer(&b[0])), 8)
	case "pipe":
		var p [2]int
		err := unix.Pipe2(p[:], 0)
		return fmt.Sprintf("%d %d %v", p[0], p[1], err)
	case "pipewrite": // FD
		r, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(number(a[0])), uintptr(unsafe.Pointer(unsafe.StringData("12345678"))), 8)
	case "drop": // UID: the whole process becomes that user
		return result0(syscall.Setuid(number(a[0])))
	default:
		return "unknown verb " + verb
	}
	early := ""
	if time.Since(start) < least && int(r) == 0 {
		early = " early"
	}
	return fmt.Sprintf("%d %d%s", int(r), errno, early)
}

// futexWord is what the kid's one futex sleeper sleeps on.
var futexWord *uint32

// filterUserfaultfd installs a filter of system calls for this thread: userfaultfd(2) gets the action, all else passes.
func filterUserfaultfd(action uint32) error {
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_USERFAULTFD, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: action},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return errno
	}
	return nil
}
