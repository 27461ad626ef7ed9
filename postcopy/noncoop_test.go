package postcopy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// loner is a process that does not cooperate: testdata/noncoop.c.
type loner struct {
	t      *testing.T
	in     io.WriteCloser
	lines  chan string
	blocks []ram.Block
	addrs  []uint64
	fault  *sys.UserFault
}

// buildLoner compiles the program. It is no Go, since a Go process cannot fork.
func buildLoner(t *testing.T) string {
	t.Helper()
	need.UFFD(t)
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skipf("needs gcc: %v; remedy: apt-get install gcc libc6-dev", err)
	}
	exe := filepath.Join(t.TempDir(), "noncoop")
	out, err := exec.CommandContext(t.Context(), "gcc", "-O1", "-Wall", "-Wextra", "-pthread", "-o", exe, "testdata/noncoop.c").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return exe
}

func startLoner(t *testing.T, exe string, pages int, seed uint64, does ...string) *loner {
	t.Helper()
	cmd := exec.Command(exe, append([]string{fmt.Sprint(pages), fmt.Sprint(seed)}, does...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = ownGroup()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &loner{t: t, in: in, lines: make(chan string, 100)}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for s := bufio.NewScanner(out); s.Scan(); {
			l.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		killGroup(cmd.Process.Pid) // it and what forked off may wait for a page for ever
		<-heard
		_ = cmd.Wait() // that it was killed is no news
	})
	l.arm(cmd.Process.Pid, pages)
	return l
}

// arm takes the userfaultfd that the program has made and registers its two blocks.
func (l *loner) arm(pid, pages int) {
	l.t.Helper()
	var a, b uint64
	if _, err := fmt.Sscanf(l.hear(nil), "ready 0x%x 0x%x", &a, &b); err != nil {
		l.t.Fatal(err)
	}
	l.addrs = []uint64{a, b}
	var ranges []fault.Range
	for i, addr := range l.addrs {
		l.blocks = append(l.blocks, ram.Block{Name: fmt.Sprintf("block%d", i), Size: int64(pages) * page, PageSize: page})
		ranges = append(ranges, fault.Range{Start: addr, Length: uint64(pages) * page})
	}
	found, err := sys.AdoptUserFaults(pid)
	if err != nil || len(found) != 1 {
		l.t.Fatalf("%d userfaultfds, %v", len(found), err)
	}
	l.fault = found[0].Fault
	l.t.Cleanup(func() { _ = l.fault.Close() })
	if err := fault.Arm(l.fault, true, ranges...); err != nil {
		l.t.Fatal(err)
	}
}

// hear waits for what the program says, and has patience for it on a machine that does other things, too, but not when the
// pager has failed.
func (l *loner) hear(failed <-chan struct{}) string {
	l.t.Helper()
	select {
	case got := <-l.lines:
		return got
	case <-failed:
		l.t.Fatal("the pager fails before the process is whole")
	case <-time.After(6 * patience):
		l.t.Fatal("the process says nothing")
	}
	return ""
}

// counter counts the messages of a source and of the processes that fork off from it.
type counter struct {
	fault.Source
	n *tallied
}

type tallied struct {
	mu    sync.Mutex
	kinds map[sys.EventKind]int
}

func (c counter) Read(events []fault.Event) (int, error) {
	n, err := c.Source.Read(events)
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for _, e := range events[:n] {
		c.n.kinds[e.Kind]++
	}
	return n, err
}

func (c counter) WaitWith(int) (events, other bool, err error) { return true, true, c.Wait() }

func (c counter) Child(fd int) (fault.Source, error) {
	src, err := c.Source.Child(fd)
	return counter{src, c.n}, err
}

// A process discards, moves, grows and unmaps its memory and forks while it is filled. It and all that forked off find in
// every byte what belongs there.
func TestT1NonCooperative(t *testing.T) {
	exe := buildLoner(t)
	total := &tallied{kinds: map[sys.EventKind]int{}}
	for seed, policy := range prepage.Names() {
		does := [][]string{{"fork"}, {"share"}, {"fork", "share"}}[seed%3]
		t.Run(fmt.Sprintf("seed=%d,%s,%s", seed, policy, strings.Join(does, "+")), func(t *testing.T) {
			fillLoner(t, startLoner(t, exe, 1600, uint64(seed), does...), policy, total, seed%2 == 1)
		})
	}
	for kind, name := range map[sys.EventKind]string{sys.EventPageFault: "fault", sys.EventFork: "fork", sys.EventRemap: "remap",
		sys.EventRemove: "remove", sys.EventUnmap: "unmap"} {
		if total.kinds[kind] == 0 {
			t.Errorf("no %s happened", name)
		}
	}
	t.Logf("%v", total.kinds)
}

// fillLoner fills the process while it does what it does.
func fillLoner(t *testing.T, l *loner, policy string, total *tallied, direct bool) {
	source, err := fault.New(l.fault)
	if err != nil {
		t.Fatal(err)
	}
	missing := ram.NewSet(l.blocks)
	missing.Fill()
	plan, err := prepage.New(policy, l.blocks, missing, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := newOrigin(l.blocks)
	var demand postcopy.Fetcher = src
	if direct {
		demand = newAsked(src)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p, err := postcopy.New(postcopy.Config{Blocks: l.blocks, Addrs: l.addrs, Faults: counter{source, total}, Events: true, Shared: []bool{false, true},
		Demand: demand, Bulk: src, Missing: missing, Prepager: plan, BulkBytes: 16 * page, BulkFetches: 2,
		Limiter: rate.NewLimiter(40e6, 16*page)})
	if err != nil {
		t.Fatal(err)
	}
	run, failed := make(chan error, 1), make(chan struct{})
	go func() {
		err := p.Run(ctx)
		if err != nil {
			close(failed)
		}
		run <- err
	}()
	defer func() {
		cancel()
		if err := <-run; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		_ = source.Close()
	}()
	if _, err := io.WriteString(l.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	said := l.hear(failed)
	if !strings.HasPrefix(said, "whole: ") {
		t.Errorf("the process says: %s", said)
	}
	p.Drain()
	err = <-run
	run <- err // for the end
	t.Logf("%s\n%+v", said, p.Stats())
}
