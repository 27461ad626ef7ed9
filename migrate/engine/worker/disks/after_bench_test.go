package disks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// fullDisk is an image of random data.
func fullDisk(b *testing.B, format string, size int64) string {
	b.Helper()
	dir := b.TempDir()
	path := filepath.Join(dir, "raw")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	rng, p := rand.NewChaCha8([32]byte{1}), make([]byte, 1<<20)
	for range size >> 20 {
		_, _ = rng.Read(p) // it never fails
		if _, err := f.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	if format == "raw" {
		return path
	}
	run(b, "qemu-img", "convert", "-q", "-f", "raw", "-O", format, path, path+".img")
	return path + ".img"
}

// opened are both ends of a frozen disk.
func opened(b *testing.B, o Options, format, path string, size int64) (d *afterEnd, s agent.DiskSource, dir string) {
	b.Helper()
	e := New(o)
	dir = shortDir(b)
	d = destOf(b, e, destSpec(b, dir, size)).(*afterEnd)
	s, err := e.OpenSource(b.Context(), agent.DiskSourceSpec{Migration: migration(b), Mode: agent.DisksAfter, Link: agent.Link{Addr: d.Addr(), Token: "secret", Conns: 4},
		Disks: []agent.SourceDisk{{Target: "vda", Path: path, Format: format, Size: size}}, Resume: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close(context.Background()) })
	if err := d.Thaw(b.Context()); err != nil {
		b.Fatal(err)
	}
	return d, s, dir
}

// BenchmarkFetch brings a disk over, as we do, and as nbdcopy does from qemu-nbd.
func BenchmarkFetch(b *testing.B) {
	tools(b)
	const size = 1 << 30
	for _, format := range []string{"raw", "qcow2"} {
		path := fullDisk(b, format, size)
		b.Run(format, func(b *testing.B) {
			b.SetBytes(size)
			defer cpu(b)()
			for b.Loop() {
				b.StopTimer()
				syscall.Sync() // what others write is not to be ours to wait for
				d, s, _ := opened(b, Options{}, format, path, size)
				b.StartTimer()
				if p, err := d.Fetch(b.Context(), nobody); err != nil || p.Remaining != 0 {
					b.Fatal(p, err)
				}
				b.StopTimer()
				if err := s.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
				if err := d.Close(b.Context(), agent.DiskClosing{Done: true}); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run(format+"/nbdcopy", func(b *testing.B) {
			b.SetBytes(size)
			defer cpu(b)()
			port := freePort(b)
			cmd := exec.Command("qemu-nbd", "-r", "-t", "-e", "16", "-b", "127.0.0.1", "-p", fmt.Sprint(port), "-f", format, path)
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			for c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port)); ; c, err = net.Dial("tcp", fmt.Sprint("127.0.0.1:", port)) {
				if err == nil {
					_ = c.Close()
					break
				}
			}
			out := filepath.Join(b.TempDir(), "out")
			syscall.Sync()
			for b.Loop() {
				run(b, "nbdcopy", fmt.Sprintf("nbd://127.0.0.1:%d", port), out)
				b.StopTimer()
				_ = os.Remove(out)
				syscall.Sync()
				b.StartTimer()
			}
		})
	}
}

// cpu reports what the processor did for one round, by us and by processes that have ended. On a busy machine that tells more
// than the time does.
func cpu(b *testing.B) (stop func()) {
	used := func() (s float64) {
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var u syscall.Rusage
			if err := syscall.Getrusage(who, &u); err != nil {
				b.Fatal(err)
			}
			s += time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		}
		return s
	}
	before := used()
	return func() { b.ReportMetric((used()-before)/float64(b.N), "cpu-s/op") }
}

func freePort(b *testing.B) int {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// pipe is a link with one queue for all connections: what the source sends goes through it at a rate, and takes a while.
type pipe struct {
	rate  float64 // bytes a second
	delay time.Duration
	in    chan parcel
	out   chan parcel
	wg    sync.WaitGroup
}

type parcel struct {
	to  net.Conn
	p   []byte
	due time.Time
	on  chan struct{} // a place in what the sender may have on the way
}

func newPipe(b *testing.B, rate float64, delay time.Duration) *pipe {
	p := &pipe{rate: rate, delay: delay, in: make(chan parcel, 1<<14), out: make(chan parcel, 1<<14)}
	p.wg.Go(func() {
		var free time.Time
		for x := range p.in {
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(float64(len(x.p)) / rate * 1e9))
			x.due = free.Add(delay)
			p.out <- x
		}
		close(p.out)
	})
	p.wg.Go(func() {
		for x := range p.out {
			time.Sleep(time.Until(x.due))
			_, _ = x.to.Write(x.p) // the reader of the other end sees what is lost
			<-x.on
		}
	})
	b.Cleanup(func() { close(p.in); p.wg.Wait() })
	return p
}

func (p *pipe) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &piped{c, p, make(chan struct{}, 256)}, nil
}

type piped struct {
	net.Conn
	p  *pipe
	on chan struct{}
}

func (c *piped) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 16<<10)
		c.on <- struct{}{}
		c.p.in <- parcel{to: c.Conn, p: slices.Clone(rest[:n]), on: c.on}
		rest = rest[n:]
	}
	return len(p), nil
}

// BenchmarkRead tells how long a read of 4 KiB takes that needs the source, over 1 Gbit/s and 1 ms, beside nothing and beside a
// Fetch.
func BenchmarkRead(b *testing.B) {
	tools(b)
	const size = 2 << 30
	path := filepath.Join(b.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	for range size >> 20 {
		if _, err := f.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	_ = f.Close()
	for _, beside := range []string{"nothing", "fetch"} {
		b.Run(beside, func(b *testing.B) {
			link := newPipe(b, 125e6, time.Millisecond)
			d, s, _ := opened(b, Options{Dial: link.dial}, "raw", path, size)
			defer func() { _ = s.Close(context.Background()) }()
			ctx, stop := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer stop()
			if beside == "fetch" {
				wg.Go(func() { _, _ = d.Fetch(ctx, nobody) }) // it is ended
				for d.disks[0].bytes() < 32<<20 {
					time.Sleep(time.Millisecond)
				}
			}
			began, before := time.Now(), d.disks[0].bytes()
			var took []time.Duration
			rng := rand.New(rand.NewPCG(1, 2))
			buf := make([]byte, 4096)
			for b.Loop() {
				off := rng.Int64N(size/4096) * 4096
				if s, _ := d.disks[0].run(off, off+1); s != missing {
					continue
				}
				t := time.Now()
				if _, err := (export{d.disks[0]}).ReadAt(buf, off); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(t))
				time.Sleep(5 * time.Millisecond)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "us-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "us-p99")
			b.ReportMetric(float64(d.disks[0].bytes()-before)/time.Since(began).Seconds()/1e6, "MB/s-link")
		})
	}
}
