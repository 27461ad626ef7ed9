//go:build linux

package postcopy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/postcopy"
)

// back reads n pages from the end down, every fifth, one after another, and tells how long each took.
func (t *toucher) back(n int) string {
	took := make([]time.Duration, n)
	last := len(t.mem)/t.pageSize - 1
	for i := range n {
		at := time.Now()
		t.sum.Add(uint64(t.mem[(last-5*i)*t.pageSize]))
		took[i] = time.Since(at)
	}
	slices.Sort(took)
	return fmt.Sprintf("%d %d", took[n/2].Nanoseconds(), took[n*99/100].Nanoseconds())
}

// BenchmarkDemandUnderBulk measures demand faults over NBD on loopback while the bulk takes all that it gets, beside a
// plain echo over TCP at the same time, in a process of its own: the round trip.
//
// A process that reads faults needs a processor of the scheduler's for it at once, which one that is busy with bulk does
// not have to spare: GOMAXPROCS is set to more than the machine's processors, as an agent should.
func BenchmarkDemandUnderBulk(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(8, 2*runtime.NumCPU())))
	for _, row := range []struct {
		name string
		cap  rate.Limit
		bulk bool
	}{{"idle", rate.Inf, false}, {"1Gbit", 118e6, true}, {"open", rate.Inf, true}} {
		b.Run(row.name, func(b *testing.B) {
			var rtt, p50, p99, seen float64
			for range b.N {
				r, s, v := demandUnderBulk(b, row.cap, row.bulk)
				rtt, p50, p99, seen = rtt+r, p50+us(s.Remote.P50), p99+us(s.Remote.P99), seen+v
			}
			n := float64(b.N)
			b.ReportMetric(rtt/n, "rtt-us")
			b.ReportMetric(p50/n, "p50-us")
			b.ReportMetric(p99/n, "p99-us")
			b.ReportMetric(seen/n, "guest-p50-us")
		})
	}
}

func us(d time.Duration) float64 { return float64(d) / 1000 }

func demandUnderBulk(b *testing.B, limit rate.Limit, bulk bool) (rtt float64, st postcopy.Stats, seen float64) {
	b.Helper()
	const pages, faults = 512 << 20 / page, 3000
	c := newChild(b, pages, page, true)
	addr := serveRAM(b, pages)
	demand, rest := dialRAM(b, addr, 1, true), dialRAM(b, addr, 4, false)
	cfg := c.config(c.fault, nil)
	cfg.Demand, cfg.Bulk = &postcopy.NBDDirect{Client: demand, Starts: []int64{0}}, postcopy.NBDFetcher{rest}
	cfg.Events, cfg.Hold, cfg.BulkBytes, cfg.BulkFetches = true, !bulk, 256<<10, 8
	cfg.Limiter = rate.NewLimiter(limit, 256<<10)
	p := c.pager(cfg)
	ctx, cancel := context.WithCancel(b.Context())
	run := make(chan error, 1)
	go func() { run <- p.Run(ctx) }()
	rtts := roundTrip(b)
	c.tell("back %d", faults)
	var tail int64
	var guest float64
	got := <-c.lines
	if _, err := fmt.Sscan(strings.TrimPrefix(got, "back "), &guest, &tail); err != nil {
		b.Fatal(got, err)
	}
	rtt = rtts()
	st = p.Stats()
	cancel()
	if err := <-run; err == nil && bulk {
		b.Log("the bulk was through before the faults")
	}
	return rtt, st, guest / 1000
}

// serveRAM offers RAM over NBD.
func serveRAM(b *testing.B, pages int) string {
	b.Helper()
	f, err := sys.Memfd("source", int64(pages)*page, false)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, page)
	for n := range pages {
		fill(buf, 0, n)
		buf[0] |= 1 // no holes
		if _, err := f.WriteAt(buf, int64(n)*page); err != nil {
			b.Fatal(err)
		}
	}
	back, err := nbd.NewFile(f, nbd.FileOptions{Map: true})
	if err != nil {
		b.Fatal(err)
	}
	srv, err := nbd.NewServer(nbd.Config{Exports: nbd.NewExports(nbd.Export{Name: "ram", Backend: back, ReadOnly: true})})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(context.Background(), &firstOwn{Listener: l}) })
	b.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
		_ = back.Close()
		_ = f.Close()
	})
	return l.Addr().String()
}

// firstOwn accepts its first connection, that of demand, as one of a thread.
type firstOwn struct {
	net.Listener
	n int
}

func (l *firstOwn) Accept() (net.Conn, error) {
	if l.n++; l.n > 1 {
		return l.Listener.Accept()
	}
	return ownThreads{l.Listener}.Accept()
}

func dialRAM(b *testing.B, addr string, conns int, direct bool) *nbd.Client {
	b.Helper()
	c, err := nbd.Open(b.Context(), nbd.ClientConfig{Export: "ram", Conns: conns, Direct: direct,
		Dial: func(ctx context.Context) (net.Conn, error) {
			if !direct {
				return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			}
			to, err := net.ResolveTCPAddr("tcp", addr)
			if err != nil {
				return nil, err
			}
			return ownThreads{}.dial(ctx, to)
		}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// roundTrip has a process of its own, whose scheduler has nothing else to do, measure round trips until the returned
// function is called, which tells the median in microseconds.
func roundTrip(b *testing.B) func() float64 {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"=echo")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return func() (median float64) {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
		if _, err := fmt.Sscan(out.String(), &median); err != nil {
			b.Fatal(out.String(), err)
		}
		return median
	}
}

// echo measures round trips of a request there and a page back, one every millisecond, until its input ends.
func echo() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go echoServer(l)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var took []time.Duration
	for tick, buf := time.NewTicker(time.Millisecond), make([]byte, page); ; {
		at := time.Now()
		_, _ = c.Write(buf[:requestSize])
		_, _ = io.ReadFull(c, buf)
		took = append(took, time.Since(at))
		select {
		case <-stop:
			slices.Sort(took)
			fmt.Println(us(took[len(took)/2]))
			return
		case <-tick.C:
		}
	}
}

const requestSize = 28 // of NBD

func echoServer(l net.Listener) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	for buf := make([]byte, page); ; {
		if _, err := io.ReadFull(c, buf[:requestSize]); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}
