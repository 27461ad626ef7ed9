//go:build linux

package postcopy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// handlers serve the faults of a process from RAM at hand, each in a process of its own, until that is killed.
var handlers = map[string]func(fd int, addr uint64, ram []byte) error{
	"pager":        func(fd int, addr uint64, ram []byte) error { return servePager(fd, addr, ram, 0, 0) },
	"pager-spin":   func(fd int, addr uint64, ram []byte) error { return servePager(fd, addr, ram, 50*time.Microsecond, 0) },
	"pager-around": func(fd int, addr uint64, ram []byte) error { return servePager(fd, addr, ram, 0, 64<<10) },
}

func servePager(fd int, addr uint64, data []byte, spin time.Duration, around int64) error {
	src, err := fault.New(sys.UserFaultFromFD(fd))
	if err != nil {
		return err
	}
	blocks := []ram.Block{{Name: "ram", Size: int64(len(data)), PageSize: page}}
	missing := ram.NewSet(blocks)
	missing.Fill()
	plan, err := prepage.New("none", blocks, missing, nil)
	if err != nil {
		return err
	}
	near := &nearFile{ReaderAt: bytes.NewReader(data)}
	p, err := postcopy.New(postcopy.Config{Blocks: blocks, Addrs: []uint64{addr}, Faults: src, Demand: near, Bulk: near,
		Missing: missing, Prepager: plan, Spin: spin, Around: around, Hold: true})
	if err != nil {
		return err
	}
	return p.Run(context.Background())
}

// nearFile is RAM in a file.
type nearFile struct {
	io.ReaderAt
	far bool
}

func (f *nearFile) Near() bool { return !f.far }

func (f *nearFile) Fetch(_ context.Context, _ int, off int64, p []byte) ([]ram.Extent, error) {
	_, err := f.ReadAt(p, off)
	return nil, err
}

// handle is the handler's process.
func handle() {
	var name string
	var pid, pages int
	var addr uint64
	_, _ = fmt.Sscan(os.Getenv("POSTCOPY_TEST_SIZE"), &name, &pid, &addr, &pages)
	found, err := sys.AdoptUserFaults(pid)
	if err != nil || len(found) != 1 {
		fmt.Println("adopt:", len(found), err)
		return
	}
	data := make([]byte, pages*page)
	for n := range pages {
		fill(data[n*page:(n+1)*page], 0, n)
	}
	fd := found[0].Fault.FD()
	if name == "userfaultfd-go" { // it makes a blocking one itself
		_ = syscall.SetNonblock(fd, false)
	}
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	fmt.Println("ready", used.Utime.Nano()+used.Stime.Nano())
	fmt.Println(handlers[name](fd, addr, data))
}

// race has threads read all pages once, each its own part, and tells how long each page took.
func (t *toucher) race(threads, _ int) string {
	pages := len(t.mem) / t.pageSize
	took := make([]time.Duration, pages)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range threads {
		wg.Go(func() {
			for n := i * pages / threads; n < (i+1)*pages/threads; n++ {
				at := time.Now()
				t.sum.Add(uint64(t.mem[n*t.pageSize]))
				took[n] = time.Since(at)
			}
		})
	}
	wg.Wait()
	all := time.Since(begin)
	slices.Sort(took)
	return fmt.Sprintf("%d %d %d", all.Nanoseconds(), took[pages/2].Nanoseconds(), took[pages*99/100].Nanoseconds())
}

// BenchmarkFaultPath serves every page of a process by its fault, from RAM at hand. The handler's own time is told, too:
// unlike the others it does not depend on what else the machine does.
func BenchmarkFaultPath(b *testing.B) {
	for _, threads := range []int{1, 4, 16} {
		for _, name := range []string{"userfaultfd-go", "pager", "pager-spin", "pager-around"} {
			if handlers[name] == nil {
				continue
			}
			b.Run(fmt.Sprintf("%s/threads=%d", name, threads), func(b *testing.B) {
				const pages = 32768
				var all, p50, p99, cpu int64
				for range b.N {
					x, y, z, w := faultRace(b, name, pages, threads)
					all, p50, p99, cpu = all+x, p50+y, p99+z, cpu+w
				}
				n := float64(b.N)
				b.ReportMetric(pages*n/(float64(all)/1e9), "pages/s") // each by a fault of its own, but with around
				b.ReportMetric(float64(p50)/n/1000, "p50-us")
				b.ReportMetric(float64(p99)/n/1000, "p99-us")
				b.ReportMetric(float64(cpu)/n/pages/1000, "handler-cpu-us/page")
			})
		}
	}
}

func faultRace(b *testing.B, name string, pages, threads int) (all, p50, p99, cpu int64) {
	b.Helper()
	c := newChild(b, pages, page, false)
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"=handler", fmt.Sprintf("POSTCOPY_TEST_SIZE=%s %d %d %d", name, c.pid, c.addr, pages))
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed is no news
		cpu += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Nanoseconds()
	}()
	var first string
	var before int64
	if _, err := fmt.Fscanln(out, &first, &before); first != "ready" {
		b.Fatal(first, err)
	}
	c.tell("race %d 0", threads)
	select {
	case got := <-c.lines:
		if _, err := fmt.Sscan(strings.TrimPrefix(got, "race "), &all, &p50, &p99); err != nil {
			b.Fatal(got, err)
		}
		cpu = -before
	case <-time.After(patience):
		b.Fatal("no end")
	}
	return all, p50, p99, cpu
}
