//go:build linux

package postcopy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

// childEnv makes the test binary another program: toucher is a guest, pager one that fills it.
const childEnv = "POSTCOPY_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "toucher":
		touch(os.Stdin, os.Stdout)
	case "pager":
		pageUntilKilled()
	case "echo":
		echo()
	case "handler":
		handle()
	default:
		goleak.VerifyTestMain(m)
	}
}

// touch maps the file that it was given as descriptor 3 and does what it is told: each line is done by threads of its own.
func touch(in io.Reader, out io.Writer) {
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(16)
	var size, pageSize int
	_, _ = fmt.Sscan(os.Getenv("POSTCOPY_TEST_SIZE"), &size, &pageSize)
	mem, err := syscall.Mmap(3, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	u, err := sys.NewUserFault(false)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	defer func() { _ = u.Close() }()
	fmt.Fprintln(out, "ready")
	t := &toucher{mem: mem, pageSize: pageSize, out: out}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		f := strings.Fields(lines.Text())
		var a, b int
		_, _ = fmt.Sscan(strings.Join(f[1:], " "), &a, &b)
		go t.do(f[0], a, b)
	}
}

type toucher struct {
	mem      []byte
	pageSize int
	sum      atomic.Uint64 // keeps reads from being left out
	mu       sync.Mutex
	out      io.Writer
}

func (t *toucher) do(verb string, a, b int) {
	answer := "done"
	switch verb {
	case "walk":
		answer = t.walk(a, uint64(b))
	case "race":
		answer = t.race(a, b)
	case "back":
		answer = t.back(a)
	case "zero": // is page a all zeros?
		if !bytes.Equal(t.page(a), make([]byte, t.pageSize)) {
			answer = "not zeros"
		}
	case "remove": // throws the pages a up to b away
		if err := syscall.Madvise(t.mem[a*t.pageSize:b*t.pageSize], 9); err != nil { // MADV_REMOVE
			answer = err.Error()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintln(t.out, verb, answer)
}

func (t *toucher) page(n int) []byte { return t.mem[n*t.pageSize : (n+1)*t.pageSize] }

// walk has threads read all pages, each in an order of its own, and verify them.
func (t *toucher) walk(threads int, seed uint64) string {
	var wg sync.WaitGroup
	bad := make([]string, threads)
	for i := range threads {
		wg.Go(func() {
			rng, want := rand.New(rand.NewPCG(seed, uint64(i))), make([]byte, t.pageSize)
			for _, n := range rng.Perm(len(t.mem) / t.pageSize) {
				if fill(want, 0, n); !bytes.Equal(t.page(n), want) {
					bad[i] = fmt.Sprintf("page %d holds %x…%x", n, t.page(n)[:8], t.page(n)[t.pageSize-1])
					return
				}
			}
		})
	}
	wg.Wait()
	for _, b := range bad {
		if b != "" {
			return b
		}
	}
	return "done"
}

// child is a toucher and its memory.
type child struct {
	t      testing.TB
	pid    int
	file   *os.File
	blocks []ram.Block
	addr   uint64
	in     io.Writer
	lines  chan string
	fault  *sys.UserFault
}

const patience = 30 * time.Second

// newChild starts a process whose memory of that many pages is missing and registered. Its userfaultfd stays open there.
func newChild(t testing.TB, pages int, pageSize int64, events bool) *child {
	t.Helper()
	need.UFFD(t)
	f, err := sys.Memfd("postcopy-test", int64(pages)*pageSize, pageSize > 4096)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"=toucher", "GODEBUG=asyncpreemptoff=1",
		fmt.Sprintf("POSTCOPY_TEST_SIZE=%d %d", int64(pages)*pageSize, pageSize))
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, os.Stderr
	c := &child{t: t, file: f, lines: make(chan string, 100),
		blocks: []ram.Block{{Name: "ram", Size: int64(pages) * pageSize, PageSize: pageSize}}}
	if c.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.pid = cmd.Process.Pid
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may wait for a page for ever
		<-heard
		_ = cmd.Wait() // that it was killed is no news
		_ = f.Close()
	})
	c.hear("ready")
	c.arm(events)
	return c
}

// arm takes the child's userfaultfd and registers its memory.
func (c *child) arm(events bool) {
	c.t.Helper()
	maps, err := sys.Maps(c.pid)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range maps {
		if strings.Contains(m.Path, "postcopy-test") {
			c.addr = m.Start
		}
	}
	c.fault = c.adopt()
	if err := fault.Arm(c.fault, events, fault.Range{Start: c.addr, Length: uint64(c.blocks[0].Size)}); err != nil {
		c.t.Fatal(err)
	}
}

// adopt takes a copy of the child's userfaultfd.
func (c *child) adopt() *sys.UserFault {
	c.t.Helper()
	found, err := sys.AdoptUserFaults(c.pid)
	if err != nil || len(found) != 1 {
		c.t.Fatalf("%d userfaultfds, %v", len(found), err)
	}
	c.t.Cleanup(func() { _ = found[0].Fault.Close() }) // again is fine
	return found[0].Fault
}

func (c *child) tell(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.in, format+"\n", args...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) hear(want string) {
	c.t.Helper()
	select {
	case got := <-c.lines:
		if got != want {
			c.t.Fatalf("the child says %q, not %q", got, want)
		}
	case <-time.After(patience):
		c.t.Fatalf("the child still waits, and does not say %q", want)
	}
}

// config fills the child from src through a userfaultfd.
func (c *child) config(u *sys.UserFault, src *origin) postcopy.Config {
	c.t.Helper()
	source, err := fault.New(u)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = source.Close() })
	missing := ram.NewSet(c.blocks)
	missing.Fill()
	return postcopy.Config{Blocks: c.blocks, Addrs: []uint64{c.addr}, Faults: source, Demand: src, Bulk: src,
		Missing: missing, BulkBytes: 16 * c.blocks[0].PageSize, BulkFetches: 2}
}

func (c *child) pager(cfg postcopy.Config) *postcopy.Pager {
	c.t.Helper()
	p, err := postcopy.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return p
}

// checkFile verifies the file of the child, byte for byte.
func (c *child) checkFile() {
	c.t.Helper()
	size := c.blocks[0].PageSize
	got, want := make([]byte, size), make([]byte, size)
	for n := range c.blocks[0].Pages() {
		if _, err := c.file.ReadAt(got, int64(n)*size); err != nil {
			c.t.Fatal(err)
		}
		if fill(want, 0, n); !bytes.Equal(got, want) {
			c.t.Fatalf("page %d holds %x…", n, got[:8])
		}
	}
}
