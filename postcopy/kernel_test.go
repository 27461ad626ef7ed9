//go:build linux

package postcopy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

// Threads of another process walk all over their memory while it is filled, and find what the source holds.
func TestT1PagesAreExact(t *testing.T) {
	for i := range 6 {
		events, way := i%2 == 1, []string{"workers", "direct", "near"}[i/2]
		t.Run(fmt.Sprintf("events=%t,%s", events, way), func(t *testing.T) {
			c := newChild(t, 8192, page, events)
			src := newOrigin(c.blocks)
			src.near = way == "near"
			cfg := c.config(c.fault, src)
			if way == "direct" {
				cfg.Demand = newAsked(src)
			}
			cfg.Events, cfg.Hold = events, true
			seen := &starter{until: 100, reached: make(chan struct{})}
			cfg.Trace = seen
			p := c.pager(cfg)
			run := make(chan error, 1)
			c.tell("walk 6 1")
			go func() { run <- p.Run(t.Context()) }()
			c.tell("walk 6 2")
			<-seen.reached // now that the walk has begun
			p.Push()
			if err := <-run; err != nil {
				t.Fatal(err)
			}
			c.hear("walk done")
			c.hear("walk done")
			st := p.Stats()
			if st.Remaining != 0 || st.Demanded+st.Prepaged+st.Zero != 8192 || st.RemoteFaults < 100 {
				t.Errorf("%+v", st)
			}
			c.checkFile()
		})
	}
}

// starter is a trace that tells when there were so many faults.
type starter struct {
	n, until int
	reached  chan struct{}
}

func (c *starter) Fault(int, int, time.Duration) {
	if c.n++; c.n == c.until {
		close(c.reached)
	}
}

// Between two Runs, while the link is cut, nothing is lost, whoever waits.
func TestT1LinkCutAndResume(t *testing.T) {
	c := newChild(t, 4096, page, false)
	src := newOrigin(c.blocks)
	var calls atomic.Int64
	src.fail = func(context.Context, int, int, int) error {
		if calls.Add(1)%40 == 0 {
			return postcopy.ErrLink
		}
		return nil
	}
	p := c.pager(c.config(c.fault, src))
	c.tell("walk 8 3")
	cuts := 0
	for {
		err := p.Run(t.Context())
		if err == nil {
			break
		}
		if cuts++; !errors.Is(err, postcopy.ErrLink) || cuts > 500 {
			t.Fatal(err)
		}
	}
	c.hear("walk done")
	if cuts == 0 {
		t.Error("the link was never cut")
	}
	c.checkFile()
}

// A pager is killed with faults in hand. Another one takes the userfaultfd that is left in the process, takes each hole for
// missing, and finishes.
func TestT1KilledPagerIsReplaced(t *testing.T) {
	c := newChild(t, 4096, page, false)
	c.tell("walk 8 4")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command(exe)
	other.Env = append(os.Environ(), childEnv+"=pager", fmt.Sprintf("POSTCOPY_TEST_SIZE=%d %d %d", c.pid, c.addr, 4096))
	other.Stderr = os.Stderr
	out, err := other.Output() // it kills itself when it has served some
	var killed *exec.ExitError
	if !errors.As(err, &killed) || killed.Exited() {
		t.Fatalf("the pager was not killed: %v, %s", err, out)
	}
	missing, err := postcopy.MissingFromHoles([]postcopy.Part{{File: c.file}}, c.blocks)
	if err != nil {
		t.Fatal(err)
	}
	if n := missing.Count(); n == 0 || n == 4096 {
		t.Fatalf("%d pages are missing after the first pager's end", n)
	}
	_ = c.fault.Close() // the one in the process is all there is
	cfg := c.config(c.adopt(), newOrigin(c.blocks))
	cfg.Missing = missing
	p := c.pager(cfg)
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.hear("walk done")
	c.checkFile()
}

// pageUntilKilled is a pager in a process of its own. It reads faults without serving them, after it has served some,
// and kills itself.
func pageUntilKilled() {
	var pid, pages int
	var addr uint64
	_, _ = fmt.Sscan(os.Getenv("POSTCOPY_TEST_SIZE"), &pid, &addr, &pages)
	found, err := sys.AdoptUserFaults(pid)
	if err != nil || len(found) != 1 {
		fmt.Println(len(found), err)
		return
	}
	u := found[0].Fault
	want, served := make([]byte, page), 0
	for {
		if _, err := sys.Wait(nil, u.FD()); err != nil {
			fmt.Println(err)
			return
		}
		var events [4]fault.Event
		n, err := u.Read(events[:])
		if err != nil {
			continue
		}
		for _, e := range events[:n] {
			if served++; served > 400 {
				self, _ := os.FindProcess(os.Getpid())
				_ = self.Kill()
			}
			fill(want, 0, int((e.Addr-addr)/page))
			_, _ = u.Copy(e.Addr, want, true)
		}
	}
}

// What a process throws away is zeros from then on, whether it had come or not, and is not fetched any more.
func TestT1Discards(t *testing.T) {
	c := newChild(t, 1024, page, true)
	src := newOrigin(c.blocks)
	cfg := c.config(c.fault, src)
	cfg.Events, cfg.Hold = true, true
	p := c.pager(cfg)
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	c.tell("remove 100 200")
	c.hear("remove done")
	for _, n := range []int{100, 150, 199} {
		c.tell("zero %d", n)
		c.hear("zero done")
	}
	c.tell("zero 99")
	c.hear("zero not zeros")
	c.tell("remove 99 100")
	c.hear("remove done")
	c.tell("zero 99")
	c.hear("zero done")
	p.Push()
	if err := <-run; err != nil {
		t.Fatal(err)
	}
	if st := p.Stats(); st.Discarded != 100 || st.LocalFaults != 4 {
		t.Errorf("%+v", st)
	}
	for n := 100; n < 200; n++ {
		if src.asked[[2]int{0, n}] != 0 {
			t.Errorf("page %d was asked for", n)
		}
	}
}

// Huge pages come as a whole, zeros too, and a new pager finds which are there.
func TestT1HugePages(t *testing.T) {
	hugePages(t, 16)
	const size = 2 << 20
	c := newChild(t, 16, size, false)
	src := newOrigin(c.blocks)
	cfg := c.config(c.fault, src)
	cfg.Hold = true
	cfg.Missing[0].Clear(3)
	p := c.pager(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	run := make(chan error, 1)
	go func() { run <- p.Run(ctx) }()
	c.tell("zero 3")
	c.hear("zero done")
	c.tell("zero 0")
	c.hear("zero not zeros")
	cancel()
	if err := <-run; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	missing, err := postcopy.MissingFromHoles([]postcopy.Part{{File: c.file}}, c.blocks)
	if err != nil || missing.Count() != 14 || missing[0].Test(0) || missing[0].Test(3) {
		t.Fatalf("%d missing, %v", missing.Count(), err)
	}
	p.Push()
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for n := range 16 {
		c.tell("zero %d", n)
		if n == 3 || zero(0, n) {
			c.hear("zero done")
		} else {
			c.hear("zero not zeros")
		}
	}
}

// hugePages reserves huge pages for the test, or skips.
func hugePages(t *testing.T, n int) {
	t.Helper()
	const file = "/proc/sys/vm/nr_hugepages"
	had, err := readNumber(file)
	if err != nil {
		t.Skipf("needs huge pages: %v; remedy: boot a kernel with CONFIG_HUGETLBFS", err)
	}
	if err := os.WriteFile(file, []byte(strconv.Itoa(had+n)), 0); err != nil {
		t.Skipf("needs %d huge pages: %v; remedy: run the tests as root", n, err)
	}
	t.Cleanup(func() { // others may have borrowed some meanwhile
		has, err := readNumber(file)
		if err == nil {
			err = os.WriteFile(file, []byte(strconv.Itoa(max(0, has-n))), 0)
		}
		if err != nil {
			t.Errorf("give the huge pages back: %v", err)
		}
	})
	if got, err := readNumber(file); err != nil || got < had+n {
		t.Skipf("needs %d huge pages, got %d; remedy: free some memory", n, got-had)
	}
}

func readNumber(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
