//go:build linux

package tracktest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes a test binary the child.
const childEnv = "VMMIGRATE_TRACKTEST_CHILD"

// Child is the child's life. It returns false at once in a process that is not the child.
func Child() bool {
	if os.Getenv(childEnv) == "" {
		return false
	}
	c := &child{out: os.Stdout}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		reply, err := c.do(strings.Fields(in.Text()))
		if err != nil {
			reply = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
		} else {
			reply = strings.TrimSpace("ok " + reply)
		}
		_, _ = fmt.Fprintln(c.out, reply) // a parent that is gone closes stdin too
	}
	c.stop()
	return true
}

type child struct {
	out     io.Writer
	memory  []byte
	file    *os.File
	page    int
	stopped atomic.Bool
	writers sync.WaitGroup
	wrote   atomic.Int64
}

func (c *child) do(cmd []string) (string, error) {
	if len(cmd) == 0 {
		return "", errors.New("no command")
	}
	if cmd[0] == "map" {
		return c.mapMemory(cmd[1], number(cmd, 2))
	}
	if c.memory == nil {
		return "", errors.New("no memory")
	}
	a, b := number(cmd, 1), number(cmd, 2)
	switch cmd[0] {
	case "fill": // every page of [a, b)
		for p := a; p < b; p++ {
			c.poke(p, p+1)
		}
	case "write": // a pages at random, seed b
		rng := rand.New(rand.NewPCG(uint64(b), 0))
		for range a {
			c.poke(rng.Int64N(c.pages()), rng.Int64())
		}
	case "touch": // the first byte of page a becomes b
		c.memory[a*int64(c.page)] = byte(b)
	case "look": // reads a byte of each page of [a, b)
		var sum byte
		for p := a; p < b; p++ {
			sum += c.memory[p*int64(c.page)]
		}
		return fmt.Sprint(sum), nil
	case "kernel": // read(2) into pages [a, b)
		return "", c.kernel(a, b)
	case "discard": // madvise pages [a, b)
		return "", unix.Madvise(c.memory[a*int64(c.page):b*int64(c.page)], unix.MADV_DONTNEED)
	case "remove":
		return "", unix.Madvise(c.memory[a*int64(c.page):b*int64(c.page)], unix.MADV_REMOVE)
	case "start": // a writers, seed b
		c.start(a, b)
	case "stop":
		c.stop()
		return fmt.Sprint(c.wrote.Load()), nil
	case "pace": // a pieces of work on the first b pages, and the processor time of it in nanoseconds
		return fmt.Sprint(c.pace(a, b).Nanoseconds()), nil
	default:
		return "", fmt.Errorf("unknown command %q", cmd[0])
	}
	return "", nil
}

func number(cmd []string, i int) (n int64) {
	if i < len(cmd) {
		_, _ = fmt.Sscan(cmd[i], &n) // 0 is as wrong as anything
	}
	return n
}

func (c *child) pages() int64 { return int64(len(c.memory) / c.page) }

// poke changes a page in two places.
func (c *child) poke(page, value int64) {
	at := c.memory[page*int64(c.page):][:c.page]
	at[uint64(value)%uint64(c.page)] += byte(value>>8) | 1
	at[c.page-1]++
}

func (c *child) kernel(lo, hi int64) error {
	f, err := os.Open("/dev/urandom")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	for p := lo; p < hi; p++ {
		if _, err := io.ReadFull(f, c.memory[p*int64(c.page):][:8]); err != nil {
			return err
		}
	}
	return nil
}

// start begins writers of which each has the pages whose number leaves its own as the rest.
func (c *child) start(writers, seed int64) {
	c.stopped.Store(false)
	for w := range writers {
		c.writers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(seed), uint64(w)))
			for !c.stopped.Load() {
				p := rng.Int64N(c.pages()/writers)*writers + w
				if rng.IntN(4) == 0 { // toggles: there and back
					at := &c.memory[p*int64(c.page)+64]
					*at ^= 1
					*at ^= 1
				} else {
					c.poke(p, rng.Int64())
				}
				c.wrote.Add(1)
			}
		})
	}
}

func (c *child) stop() {
	c.stopped.Store(true)
	c.writers.Wait()
}

// pace does pieces of work, each of some hundred instructions and one write, to the pages in turn.
func (c *child) pace(pieces, pages int64) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begun := threadTime()
	var x uint64 = 1
	for n := range pieces {
		for range 200 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		c.memory[n%pages*int64(c.page)] = byte(x)
	}
	return threadTime() - begun
}

// threadTime is what the thread used of a processor, in the kernel too.
func threadTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// mapMemory maps memory of a kind and says where. The file, if any, is found as /proc/PID/fd/N.
func (c *child) mapMemory(kind string, size int64) (string, error) {
	c.page = os.Getpagesize()
	flags, fd := unix.MAP_SHARED, -1
	switch kind {
	case "anon", "thp":
		flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	case "memfd", "huge":
		options := 0
		if kind == "huge" {
			options, c.page = unix.MFD_HUGETLB|unix.MFD_HUGE_2MB, 2<<20
		}
		n, err := unix.MemfdCreate("tracktest", options)
		if err != nil {
			return "", err
		}
		fd = n
	default: // a folder on tmpfs
		f, err := os.CreateTemp(kind, "tracktest")
		if err != nil {
			return "", err
		}
		c.file, fd = f, int(f.Fd())
		if err := os.Remove(f.Name()); err != nil {
			return "", err
		}
	}
	if fd >= 0 {
		if err := unix.Ftruncate(fd, size); err != nil {
			return "", err
		}
	}
	m, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return "", err
	}
	c.memory = m
	if kind == "thp" {
		if err := unix.Madvise(m, unix.MADV_HUGEPAGE); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%p %d %d", m, fd, c.page), nil
}
