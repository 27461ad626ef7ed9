package disks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// cable is a link that can be cut.
type cable struct {
	mu   sync.Mutex
	cut  bool
	up   []net.Conn
	sent atomic.Int64
}

func (c *cable) dial(ctx context.Context, addr string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil, syscall.EHOSTUNREACH
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		c.up = append(c.up, conn)
		conn = &counted{conn, &c.sent}
	}
	return conn, err
}

type counted struct {
	net.Conn
	sent *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	for _, conn := range c.up {
		_ = conn.Close()
	}
	c.up = nil
}

// spoiler lets tests act when points are passed.
type spoiler struct {
	mu   sync.Mutex
	seen map[string]int
	more chan struct{} // closed and made anew when one is passed
	at   func(ctx context.Context, point string, n int) error
}

func (s *spoiler) spoil(ctx context.Context, point string) error {
	s.mu.Lock()
	if s.seen == nil {
		s.seen, s.more = map[string]int{}, make(chan struct{})
	}
	close(s.more)
	s.more = make(chan struct{})
	s.seen[point]++
	n := s.seen[point]
	s.mu.Unlock()
	if s.at == nil {
		return nil
	}
	return s.at(ctx, point, n)
}

// await waits until a point was passed so many times.
func (s *spoiler) await(point string, times int) {
	for {
		s.mu.Lock()
		if s.seen == nil {
			s.seen, s.more = map[string]int{}, make(chan struct{})
		}
		n, more := s.seen[point], s.more
		s.mu.Unlock()
		if n >= times {
			return
		}
		<-more
	}
}

func (s *spoiler) count(point string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[point]
}

// reader reads a disk as QEMU does, and comes again when an agent is gone.
func reader(t *testing.T, dir string) *nbd.Client {
	t.Helper()
	c, err := nbd.Open(t.Context(), nbd.ClientConfig{Export: "vda", Rejoin: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "vda.sock"))
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// departed is a raw disk whose guest has left.
func departed(t *testing.T, o Options, size int64) (d *afterEnd, dir string, content []byte) {
	t.Helper()
	path, content := rawDisk(t, size, 7)
	e := New(o)
	dir = shortDir(t)
	d = destOf(t, e, destSpec(t, dir, size)).(*afterEnd)
	if _, err := sourceOf(t, e, d.Addr(), true, agent.SourceDisk{Target: "vda", Path: path, Format: "raw", Size: size}); err != nil {
		t.Fatal(err)
	}
	if err := d.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d, dir, content
}

// A cut link ends a Fetch, and not the guest's reads. The next Fetch goes on.
func TestT1AfterACut(t *testing.T) {
	for _, percent := range []int{30, 80} {
		t.Run(fmt.Sprint(percent), func(t *testing.T) { cutAt(t, percent) })
	}
}

func cutAt(t *testing.T, percent int) {
	const size = 40 << 20
	var wire cable
	var cut sync.Once
	s := &spoiler{}
	d, dir, content := departed(t, Options{Dial: wire.dial, Rejoin: 50 * time.Millisecond, Spoil: s.spoil}, size)
	guest := reader(t, dir)
	s.at = func(_ context.Context, point string, n int) error {
		if point == "disk-piece" && n >= 10*percent/100 {
			cut.Do(func() { wire.set(true) })
		}
		return nil
	}
	if _, err := d.Fetch(t.Context(), nobody); !errors.Is(err, migrate.ErrLinkLost) {
		t.Fatalf("cut: %v", err)
	}
	last := d.disks[0].firstMissing()
	got, read := make([]byte, 4096), make(chan error, 1)
	go func() { read <- guest.ReadAt(t.Context(), got, last) }()
	s.await("disk-read", 1) // it has come to where it waits
	if _, err := d.Fetch(t.Context(), nobody); !errors.Is(err, migrate.ErrLinkLost) {
		t.Fatalf("while it is cut: %v", err)
	}
	select {
	case err := <-read:
		t.Fatalf("a read over a link that is cut: %v", err)
	default:
	}
	wire.set(false)
	var p agent.Progress
	for err := error(migrate.ErrLinkLost); err != nil; {
		if p, err = d.Fetch(t.Context(), nobody); err != nil && !errors.Is(err, migrate.ErrLinkLost) {
			t.Fatal(err)
		}
	}
	if err := <-read; err != nil || !bytes.Equal(got, content[last:last+4096]) {
		t.Fatalf("the read that waited: %v", err)
	}
	if p.Remaining != 0 {
		t.Errorf("%+v", p)
	}
	if data := dataOf(d); wire.sent.Load() > data*105/100+fetchers*aheadSize*int64(d.share.bulk) {
		t.Errorf("%d bytes were sent for %d", wire.sent.Load(), data)
	}
	checkAll(t, guest, content)

}

// firstMissing is where something is missing.
func (a *afterDisk) firstMissing() int64 {
	for u := range a.units {
		if s, _ := a.run(int64(u)*unit, int64(u)*unit+1); s == missing {
			return int64(u) * unit
		}
	}
	return -1
}

// dataOf is how much of the disks is in units that are not zero.
func dataOf(d *afterEnd) int64 {
	var n int64
	for _, a := range d.disks {
		n += int64(a.present.Count()) * unit
	}
	return n
}

func checkAll(t *testing.T, c *nbd.Client, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("other contents, %v", err)
	}
}

// Reads of the guest do not wait for what is fetched ahead, also of the very same units.
func TestT1ReadsComeFirst(t *testing.T) {
	const size = 32 << 20
	let := make(chan struct{})
	s := &spoiler{at: func(ctx context.Context, point string, _ int) error {
		if point != "disk-piece" {
			return nil
		}
		select {
		case <-let:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	d, dir, content := departed(t, Options{Spoil: s.spoil}, size)
	fetched := make(chan error, 1)
	go func() { _, err := d.Fetch(t.Context(), nobody); fetched <- err }()
	s.await("disk-piece", fetchers)
	checkAll(t, reader(t, dir), content) // all of it, with every fetcher held up
	if n := d.disks[0].bulk.Load().BytesIn(); n > 1<<20 {
		t.Errorf("%d bytes of it came over the connections of what is fetched ahead", n)
	}
	close(let)
	if err := <-fetched; err != nil {
		t.Fatal(err)
	}
}

// Readers of the same unit share one request.
func TestT1OneRequestForAUnit(t *testing.T) {
	const size = 4 << 20
	let := make(chan struct{})
	s := &spoiler{at: func(_ context.Context, point string, _ int) error {
		if point == "disk-read" {
			<-let
		}
		return nil
	}}
	d, _, content := departed(t, Options{Spoil: s.spoil}, size)
	a := d.disks[0]
	first, second, other := a.board(3*unit+5, 5*unit), a.board(4*unit, 4*unit+1), a.board(2*unit, 6*unit)
	if first != second || first.lo != 3 || first.hi != 5 || other == first || other.hi != 3 {
		t.Errorf("[%d, %d) and [%d, %d), the same: %t", first.lo, first.hi, other.lo, other.hi, first == second)
	}
	close(let)
	<-first.done
	if first.err != nil || !bytes.Equal(first.p, content[3*unit:5*unit]) {
		t.Error("it brought something else", first.err)
	}
	if f := a.board(3*unit, 4*unit); f != nil {
		t.Error("what is there is asked for again")
	}
	<-other.done
	if n := s.count("disk-read"); n != 2 {
		t.Errorf("%d requests", n)
	}
}

// Where the cache's file system is full the guest's reads are answered all the same, and a later Fetch brings the rest.
func TestT2CacheIsFull(t *testing.T) {
	need.Netns(t)
	const size = 24 << 20
	dir := shortDir(t)
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path, content := rawDisk(t, size, 8)
	e := New(Options{})
	d := destOf(t, e, destSpec(t, dir, size))
	if _, err := sourceOf(t, e, d.Addr(), true, agent.SourceDisk{Target: "vda", Path: path, Format: "raw", Size: size}); err != nil {
		t.Fatal(err)
	}
	if err := d.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err := d.Fetch(t.Context(), nobody)
	if !errors.Is(err, storage.ErrNoRoom) || migrate.FixOf(err) == "" || p.Remaining == 0 {
		t.Fatalf("%d remaining, %v", p.Remaining, err)
	}
	guest := reader(t, dir)
	checkAll(t, guest, content)
	if err := d.Close(t.Context(), agent.DiskClosing{}); err == nil {
		t.Fatal("a disk that is not all there is left")
	}
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if p, err := d.Fetch(t.Context(), nobody); err != nil || p.Remaining != 0 {
		t.Fatalf("with room: %d remaining, %v", p.Remaining, err)
	}
	checkAll(t, guest, content)
	if err := d.Close(t.Context(), agent.DiskClosing{}); err != nil {
		t.Fatal(err)
	}
}

// A Fetch to which the guest's reads leave nothing waits for them.
func TestT1FetchWaitsForReads(t *testing.T) {
	const size = 4 << 20
	let := make(chan struct{})
	s := &spoiler{at: func(_ context.Context, point string, _ int) error {
		if point == "disk-read" {
			<-let
		}
		return nil
	}}
	d, dir, content := departed(t, Options{Spoil: s.spoil}, size)
	guest, read, got := reader(t, dir), make(chan error, 1), make([]byte, size)
	if err := d.disks[0].survey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.makePlan(); err != nil {
		t.Fatal(err)
	}
	go func() { read <- guest.ReadAt(t.Context(), got, 0) }()
	s.await("disk-read", 1)
	fetched := make(chan error, 1)
	go func() { _, err := d.Fetch(t.Context(), nobody); fetched <- err }()
	for left := true; left; { // all that is left is what is read
		d.planned(func(p *prepage.Policy) { left = p.Left() > 0 })
		select {
		case err := <-fetched:
			t.Fatalf("it is over while the guest waits: %v", err)
		default:
		}
	}
	close(let)
	if err := <-fetched; err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || !bytes.Equal(got, content) {
		t.Fatalf("other contents, %v", err)
	}
}
