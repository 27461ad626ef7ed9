package nbd

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

// anonymous is a file in memory, full of bytes that are no zeroes.
func anonymous(tb testing.TB, size int64) *os.File {
	tb.Helper()
	fd, err := unix.MemfdCreate("nbd-bench", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	tb.Cleanup(func() { _ = f.Close() }) // a benchmark's file
	rng := rand.NewChaCha8([32]byte{})
	if _, err := io.CopyN(io.NewOffsetWriter(f, 0), rng, size); err != nil {
		tb.Fatal(err)
	}
	return f
}

func fileOn(tb testing.TB, f *os.File, opts FileOptions) *File {
	tb.Helper()
	b, err := NewFile(f, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.Close() }) // a benchmark's mapping
	return b
}

// BenchmarkNBDCopy has nbdcopy read from and write to our server, nbdkit's memory and qemu-nbd on a file in memory, one after
// the other in each round, so that they share whatever else the machine does. It reports the median throughput of each in
// MB/s; ns/op is that of a whole round.
func BenchmarkNBDCopy(b *testing.B) {
	need.NBD(b)
	const size = 512 << 20
	source := anonymous(b, size)
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), source.Fd())
	image := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), anonymous(b, size).Fd())
	ours := serveUnix(b, Export{Backend: fileOn(b, anonymous(b, size), FileOptions{Map: true, MapWrites: true})})("")
	kit, _ := program(b, "nbdkit", func(s string) []string {
		return []string{"-f", "-U", s, "memory", fmt.Sprint(size), "allocator=malloc"}
	})
	qemu, _ := program(b, "qemu-nbd", func(s string) []string { return []string{"-t", "-e", "8", "-f", "raw", "-k", s, image} })
	servers := []struct{ name, uri string }{{"ours", ours}, {"nbdkit", kit}, {"qemu-nbd", qemu}}
	for _, s := range servers {
		mustTool(b, "nbdcopy", path, s.uri) // so that all have all their memory
	}
	for _, way := range []string{"read", "write"} {
		b.Run(way, func(b *testing.B) {
			took := map[string][]time.Duration{}
			for round := 0; b.Loop(); round++ {
				for i := range servers {
					s := servers[(i+round)%len(servers)]
					began := time.Now()
					if way == "read" {
						mustTool(b, "nbdcopy", s.uri, "null:")
					} else {
						mustTool(b, "nbdcopy", path, s.uri)
					}
					took[s.name] = append(took[s.name], time.Since(began))
				}
			}
			for name, list := range took {
				slices.Sort(list)
				b.ReportMetric(size/1e6/list[len(list)/2].Seconds(), name+"-MB/s")
				b.ReportMetric(size/1e6/list[0].Seconds(), name+"-best-MB/s")
			}
		})
	}
}

// late is a backend that takes its time.
type late struct {
	*memory
	by time.Duration
}

func (l late) ReadAt(p []byte, off int64) (int, error) {
	<-time.After(l.by)
	return l.memory.ReadAt(p, off)
}

// parallel has that many goroutines make b.N reads of a size together.
func parallel(b *testing.B, c *Client, depth int, size int64) {
	b.Helper()
	b.SetBytes(size)
	b.ReportAllocs()
	work := make(chan int64)
	var wg sync.WaitGroup
	for range depth {
		wg.Go(func() {
			p := make([]byte, size)
			for off := range work {
				if _, err := c.ReadData(b.Context(), p, off); err != nil {
					b.Error(err)
				}
			}
		})
	}
	span := c.Size() / size
	b.ResetTimer()
	for i := range int64(b.N) {
		work <- i % span * size
	}
	close(work)
	wg.Wait()
	b.StopTimer()
}

// BenchmarkPipelining reads 4 KiB, 16 at a time over one connection, from a backend that takes 1 ms for each: 62,500 ns each
// is perfect.
func BenchmarkPipelining(b *testing.B) {
	dial := serve(b, Export{Backend: late{&memory{p: pattern(1<<20, 1)}, time.Millisecond}})
	parallel(b, open(b, ClientConfig{Dial: dial}), 16, 4096)
}

// BenchmarkClient reads from a guest's RAM as a migration does: in bulk, over several connections of TCP.
func BenchmarkClient(b *testing.B) {
	dial := serve(b, Export{Backend: fileOn(b, anonymous(b, 256<<20), FileOptions{Map: true, Zeroes: true})})
	for _, size := range []int64{64 << 10, 256 << 10, 1 << 20} {
		for _, conns := range []int{1, 4} {
			b.Run(fmt.Sprintf("%dKiB/conns=%d", size>>10, conns), func(b *testing.B) {
				parallel(b, open(b, ClientConfig{Dial: dial, Conns: conns}), 16, size)
			})
		}
	}
}

// BenchmarkClientTLS is the same over TLS, with one connection and with four.
func BenchmarkClientTLS(b *testing.B) {
	server, client := newAuthority(b).mutual()
	_, dial := start(b, Config{Exports: NewExports(Export{Backend: fileOn(b, anonymous(b, 256<<20), FileOptions{Map: true})}), TLS: server})
	for _, conns := range []int{1, 4} {
		b.Run(fmt.Sprintf("256KiB/conns=%d", conns), func(b *testing.B) {
			parallel(b, open(b, ClientConfig{Dial: dial, Conns: conns, TLS: client}), 16, 256<<10)
		})
	}
}

// BenchmarkLatency makes single reads of 4 KiB, as a demand fault does, over TCP and a unix socket; with echo, the time that
// the same bytes take with nothing but the sockets.
func BenchmarkLatency(b *testing.B) {
	dial := serve(b, Export{Backend: fileOn(b, anonymous(b, 16<<20), FileOptions{Map: true})})
	b.Run("4KiB", func(b *testing.B) { parallel(b, open(b, ClientConfig{Dial: dial}), 1, 4096) })
	plain := serve(b, Export{Backend: fileOn(b, anonymous(b, 16<<20), FileOptions{})})
	b.Run("4KiB/unmapped", func(b *testing.B) { parallel(b, open(b, ClientConfig{Dial: plain}), 1, 4096) })
	b.Run("echo", benchEcho)
}

func benchEcho(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close() //nolint:errcheck // a benchmark's
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close() //nolint:errcheck // a benchmark's
		p := make([]byte, 4096+28)
		for {
			if _, err := io.ReadFull(conn, p[:28]); err != nil {
				return
			}
			if _, err := conn.Write(p); err != nil {
				return
			}
		}
	})
	var d net.Dialer
	conn, err := d.DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // a benchmark's
	p := make([]byte, 4096+28)
	for b.Loop() {
		if _, err := conn.Write(p[:28]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkView is what it takes to know the holes of 256 KiB of a full file in memory, and those and its zero pages.
func BenchmarkView(b *testing.B) {
	f := anonymous(b, 64<<20)
	for name, opts := range map[string]FileOptions{"holes": {Map: true}, "zeroes": {Map: true, Zeroes: true}} {
		b.Run(name, func(b *testing.B) {
			x := fileOn(b, f, opts)
			b.SetBytes(256 << 10)
			for i := int64(0); b.Loop(); i++ {
				if _, _, err := x.View(b.Context(), i%256*(256<<10), 256<<10); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
