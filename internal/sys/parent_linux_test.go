package sys

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that has to happen.
const patience = 20 * time.Second

// kid is the test's end of a kid.
type kid struct {
	t   *testing.T
	cmd *exec.Cmd
	pid int
	in  io.WriteCloser

	mu      sync.Mutex
	next    int
	orders  map[string]*order
	signals chan string
}

// order is something the kid was told to do.
type order struct {
	k       *kid
	verb    string
	tid     chan int
	done    chan string
	started int
}

func newKid(t *testing.T) *kid {
	t.Helper()
	return startKid(t, nil)
}

func startKid(t *testing.T, attr *syscall.SysProcAttr) *kid {
	t.Helper()
	if p := ProbeInject(); p.Presence == Absent { // for what a kid holds is fetched as a tracer would
		t.Skipf("needs ptrace: %s; remedy: %s", p.Reason, p.Remedy)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if attr != nil {
		exe = copyOfTest(t) // another user may not go where the tests are built
	}
	k := &kid{t: t, cmd: exec.Command(exe), orders: map[string]*order{}, signals: make(chan string, 16)}
	k.cmd.Env = append(os.Environ(), kidEnv+"=1", "GODEBUG=asyncpreemptoff=1")
	k.cmd.Stderr = os.Stderr
	k.cmd.SysProcAttr = attr
	k.cmd.Dir = "/"
	if k.in, err = k.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k.pid = k.cmd.Process.Pid
	heard := make(chan struct{})
	go func() { defer close(heard); k.listen(out) }()
	t.Cleanup(func() {
		_ = k.cmd.Process.Kill() // it may wait for a page for ever
		<-heard
		_ = k.cmd.Wait() // that it was killed is no news
	})
	return k
}

func (k *kid) listen(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		id, rest, _ := strings.Cut(lines.Text(), " ")
		what, rest, _ := strings.Cut(rest, " ")
		k.mu.Lock()
		o := k.orders[id]
		k.mu.Unlock()
		switch {
		case id == "signal":
			k.signals <- what
		case what == "tid":
			n, _ := strconv.Atoi(rest)
			o.tid <- n
		default:
			o.done <- rest
		}
	}
}

// start tells the kid to do something and waits until it has a thread for it.
func (k *kid) start(format string, args ...any) *order {
	k.t.Helper()
	k.mu.Lock()
	k.next++
	id, text := strconv.Itoa(k.next), fmt.Sprintf(format, args...)
	o := &order{k: k, verb: text, tid: make(chan int, 1), done: make(chan string, 1)}
	k.orders[id] = o
	_, err := fmt.Fprintln(k.in, id, text)
	k.mu.Unlock()
	if err != nil {
		k.t.Fatal(err)
	}
	select {
	case o.started = <-o.tid:
	case <-time.After(patience):
		k.t.Fatalf("the kid does not start to %s", text)
	}
	return o
}

// wait gives the result.
func (o *order) wait() string {
	o.k.t.Helper()
	select {
	case got := <-o.done:
		return got
	case <-time.After(patience):
		o.k.t.Fatalf("the kid still waits in %s", o.verb)
		return ""
	}
}

// want waits for a certain result.
func (o *order) want(result string) {
	o.k.t.Helper()
	if got := o.wait(); got != result {
		o.k.t.Fatalf("%s: %q, want %q", o.verb, got, result)
	}
}

// still checks that it is under way.
func (o *order) still(why string) {
	o.k.t.Helper()
	select {
	case got := <-o.done:
		o.k.t.Fatalf("%s: %q, but %s", o.verb, got, why)
	default:
	}
}

func (k *kid) do(format string, args ...any) string {
	k.t.Helper()
	return k.start(format, args...).wait()
}

// must does it and wants the plain "done".
func (k *kid) must(format string, args ...any) {
	k.t.Helper()
	k.start(format, args...).want("done")
}

// area is memory of the kid.
type area struct {
	k    *kid
	name string
	addr uint64
	size uint64
	fd   int
	page uint64
}

// newArea maps memory in the kid: anon, shm or huge.
func (k *kid) newArea(kind string, pages int) *area {
	k.t.Helper()
	page := uint64(os.Getpagesize())
	if kind == "huge" {
		page = 2 << 20
	}
	a := &area{k: k, name: kind + strconv.Itoa(k.next), page: page, size: uint64(pages) * page}
	got := k.do("map %s %s %d", a.name, kind, a.size)
	if _, err := fmt.Sscan(got, &a.addr, &a.fd); err != nil {
		k.t.Fatalf("map %s: %s", kind, got)
	}
	return a
}

// at is the address of page i.
func (a *area) at(i int) uint64 { return a.addr + uint64(i)*a.page }

// write has the kid write a byte to page i.
func (a *area) write(i, value int) *order {
	a.k.t.Helper()
	return a.k.start("write %s %d %d", a.name, uint64(i)*a.page, value)
}

// read has the kid read the first byte of page i.
func (a *area) read(i int) *order {
	a.k.t.Helper()
	return a.k.start("read %s %d", a.name, uint64(i)*a.page)
}

// file opens the file behind it.
func (a *area) file() *os.File {
	a.k.t.Helper()
	f, off, err := OpenMapped(a.k.pid, a.addr, true)
	if err != nil || off != 0 {
		a.k.t.Fatalf("open the file of %s: offset %d, %v", a.name, off, err)
	}
	a.k.t.Cleanup(func() { _ = f.Close() }) // nothing is lost with it
	return f
}

// fault opens a userfaultfd inside the kid, without injection, and opens the conversation.
func (k *kid) fault(userModeOnly bool, want Features) (*UserFault, int) {
	k.t.Helper()
	mode := 0
	if userModeOnly {
		mode = 1
	}
	n, err := strconv.Atoi(k.do("uffd %d", mode))
	if err != nil {
		k.t.Fatal(err)
	}
	pidfd, err := openPidfd(k.pid)
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = unix.Close(pidfd) }() // only asked
	u, err := fetchUserFault(pidfd, n)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = u.Close() }) // again is fine
	got, err := u.API(want)
	if errors.Is(err, unix.EINVAL) {
		k.t.Skipf("the kernel lacks features of %#x; remedy: boot a newer one", want)
	}
	if err != nil || !got.Has(want) {
		k.t.Fatalf("features %#x, want %#x, %v", got, want, err)
	}
	return u, n
}

// watch is fault and Register in one.
func (a *area) watch(mode RegisterMode, want Features) *UserFault {
	a.k.t.Helper()
	u, _ := a.k.fault(false, want)
	if err := u.Register(a.addr, a.size, mode); err != nil {
		a.k.t.Fatal(err)
	}
	return u
}

// nextEvent waits for one message.
func nextEvent(t *testing.T, u *UserFault) Event {
	t.Helper()
	w, err := NewWaker()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }() // only ours
	timer := time.AfterFunc(patience, func() { _ = w.Wake() })
	defer timer.Stop()
	var e [1]Event
	for {
		if _, err := Wait(w, u.FD()); err != nil {
			t.Fatalf("no message: %v", err)
		}
		n, err := u.Read(e[:])
		if errors.Is(err, unix.EAGAIN) {
			continue // the thread was woken for another reason
		}
		if err != nil || n != 1 {
			t.Fatalf("read %d messages, %v", n, err)
		}
		return e[0]
	}
}

// fault waits for a page fault at page i.
func (a *area) fault(u *UserFault, i int) Event {
	a.k.t.Helper()
	e := nextEvent(a.k.t, u)
	if e.Kind != EventPageFault || e.Addr < a.at(i) || e.Addr >= a.at(i+1) {
		a.k.t.Fatalf("message %+v, want a fault of page %d at %#x", e, i, a.at(i))
	}
	return e
}

// silent checks that no message waits.
func silent(t *testing.T, u *UserFault) {
	t.Helper()
	var e [4]Event
	if n, err := u.Read(e[:]); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("%d messages, %v: %+v; want none", n, err, e[:n])
	}
}

// place puts a page full of value at page i.
func (a *area) place(u *UserFault, i int, value byte) {
	a.k.t.Helper()
	if n, err := u.Copy(a.at(i), a.full(value), true); err != nil || n != int(a.page) {
		a.k.t.Fatalf("copy to page %d: %d, %v", i, n, err)
	}
}

// full is a page of one value.
func (a *area) full(value byte) []byte {
	b := make([]byte, a.page)
	for i := range b {
		b[i] = value
	}
	return b
}

// hugePages reserves huge pages for the test, or skips.
func hugePages(t *testing.T, n int) {
	t.Helper()
	const file = "/proc/sys/vm/nr_hugepages"
	old, err := os.ReadFile(file)
	if err != nil {
		t.Skipf("needs huge pages: %v; remedy: boot a kernel with CONFIG_HUGETLBFS", err)
	}
	had, _ := strconv.Atoi(strings.TrimSpace(string(old)))
	if err := os.WriteFile(file, []byte(strconv.Itoa(had+n)), 0); err != nil {
		t.Skipf("needs %d huge pages: %v; remedy: run the tests as root", n, err)
	}
	t.Cleanup(func() { // others may have borrowed some meanwhile
		now, _ := os.ReadFile(file)
		has, _ := strconv.Atoi(strings.TrimSpace(string(now)))
		if err := os.WriteFile(file, []byte(strconv.Itoa(max(0, has-n))), 0); err != nil {
			t.Errorf("give the huge pages back: %v", err)
		}
	})
	now, _ := os.ReadFile(file)
	if got, _ := strconv.Atoi(strings.TrimSpace(string(now))); got < had+n {
		t.Skipf("needs %d huge pages, got %d; remedy: free some memory", n, got-had)
	}
}
