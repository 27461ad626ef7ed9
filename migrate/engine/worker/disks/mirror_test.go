package disks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// moved is a disk on its way: the source's image in the hands of a qemu-nbd, which plays the source's QEMU, and both ends.
type moved struct {
	src    agent.SourceDisk
	dst    agent.DestDisk
	live   *nbd.Client // what the guest writes
	mirror *nbd.Client // and what its QEMU mirrors
	to     agent.DiskDest
	close  func() // ends both ends and the mirror
}

// liveImage has an image served by a qemu-nbd as the source's QEMU does.
func liveImage(t testing.TB, path, format string, size int64) agent.SourceDisk {
	t.Helper()
	dir := t.TempDir()
	d := agent.SourceDisk{Target: "vda", Path: path, Format: format, Size: size, Live: filepath.Join(dir, "live"), Mirror: filepath.Join(dir, "mirror")}
	cmd := exec.Command("qemu-nbd", "--persistent", "--shared=8", "--discard=unmap", "--format="+format, "--export-name=vda", "--socket="+d.Live, "--fork", "--pid-file="+filepath.Join(dir, "pid"), path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-nbd: %v: %s", err, out)
	}
	t.Cleanup(func() { endDaemon(t, filepath.Join(dir, "pid")) })
	return d
}

// endDaemon ends a server by the file that has its number.
func endDaemon(t testing.TB, file string) {
	t.Helper()
	p, err := os.ReadFile(file)
	var pid int
	if _, serr := fmt.Sscan(string(p), &pid); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// begin opens both ends of a disk, and connects as its QEMU does.
func begin(t testing.TB, src agent.SourceDisk, dst agent.DestDisk, spoil func(context.Context, string) error) *moved {
	t.Helper()
	m := open(t, src, dst, spoil)
	m.live, m.mirror = unixClient(t, src.Live, src.Target), unixClient(t, src.Mirror, src.Target)
	return m
}

// open opens both ends of a disk.
func open(t testing.TB, src agent.SourceDisk, dst agent.DestDisk, spoil func(context.Context, string) error) *moved {
	t.Helper()
	return openBy(t, Options{}, Options{Spoil: spoil}, src, dst)
}

func openBy(t testing.TB, near, far Options, src agent.SourceDisk, dst agent.DestDisk) *moved {
	t.Helper()
	here, there := New(near), New(far)
	link := testLink("127.0.0.1:0")
	to, err := there.OpenDest(t.Context(), agent.DiskDestSpec{Migration: t.Name(), Mode: agent.DisksMirror, Link: link, Disks: []agent.DestDisk{dst}})
	if err != nil {
		t.Fatal(err)
	}
	link.Addr = to.Addr()
	from, err := here.OpenSource(t.Context(), agent.DiskSourceSpec{Migration: t.Name(), Mode: agent.DisksMirror, Link: link, Disks: []agent.SourceDisk{src}})
	if err != nil {
		t.Fatal(err)
	}
	m := &moved{src: src, dst: dst, to: to}
	var once sync.Once
	m.close = func() {
		once.Do(func() {
			ctx := context.Background()
			for _, c := range []*nbd.Client{m.live, m.mirror} {
				if c != nil {
					_ = c.Close() // it never fails
				}
			}
			if err := errors.Join(from.Close(ctx), to.Close(ctx, agent.DiskClosing{}), here.Close(ctx), there.Close(ctx)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(m.close)
	return m
}

func unixClient(t testing.TB, path, export string) *nbd.Client {
	t.Helper()
	c, err := nbd.Open(t.Context(), nbd.ClientConfig{Export: export, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// write is a write of the guest: at the source first, and then mirrored.
func (m *moved) write(t *testing.T, rng *rand.Rand, to []*nbd.Client) {
	t.Helper()
	n := 512 * (1 + rng.Int64N(600))
	off := rng.Int64N((m.src.Size-n)/512) * 512
	for _, c := range to {
		var err error
		switch p := make([]byte, n); n % 7 {
		case 0:
			err = c.WriteZeroes(t.Context(), off, n, true)
		case 1:
			err = c.Trim(t.Context(), off&^0xffff, n&^0xffff+65536)
		default:
			fill(p, byte(n>>9))
			err = c.WriteAt(t.Context(), p, off)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func (m *moved) fetch(t *testing.T) agent.DiskProgress {
	t.Helper()
	p, err := m.to.Fetch(t.Context(), func(agent.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return p.Disks[0]
}

// compare says whether both images are the same and well.
func (m *moved) compare(t *testing.T) {
	t.Helper()
	if err := m.live.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "compare", "-U", "-f", m.src.Format, "-F", m.dst.Format, m.src.Path, m.dst.Path)
	if m.dst.Format == "qcow2" {
		run(t, "qemu-img", "check", "-q", "-f", "qcow2", m.dst.Path)
	}
}

// Whatever the formats: all arrives while the guest writes, and no more than there is.
func TestT2MirroredDisk(t *testing.T) {
	tools(t)
	const size = 48 << 20
	for _, c := range []struct{ from, to string }{{"raw", "raw"}, {"qcow2", "qcow2"}, {"raw", "qcow2"}, {"qcow2", "raw"}} {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			path, _ := rawDisk(t, size, 5)
			if c.from == "qcow2" {
				raw := path
				path = filepath.Join(t.TempDir(), "disk.qcow2")
				run(t, "qemu-img", "convert", "-q", "-O", "qcow2", "-f", "raw", raw, path)
			}
			m := begin(t, liveImage(t, path, c.from, size), blank(t, c.to, size), nil)
			stop, wg := make(chan struct{}), sync.WaitGroup{}
			wg.Go(func() { // one guest writes in order, so that the mirror does
				rng := rand.New(rand.NewPCG(7, 7))
				for range 40 {
					m.write(t, rng, []*nbd.Client{m.live, m.mirror})
				}
				<-stop
				for range 20 {
					m.write(t, rng, []*nbd.Client{m.live, m.mirror})
				}
			})
			p := m.fetch(t)
			close(stop)
			wg.Wait()
			if p.Remaining != 0 || p.Reused != 0 || p.Fetched == 0 || p.Fetched > p.Data {
				t.Errorf("%+v", p)
			}
			if err := errors.Join(m.to.Settle(t.Context()), m.to.Settle(t.Context())); err != nil {
				t.Fatal(err)
			}
			if err := m.mirror.WriteAt(t.Context(), make([]byte, 512), 0); !errors.Is(err, syscall.ESHUTDOWN) {
				t.Errorf("written to what was handed over: %v", err)
			}
			m.compare(t)
			run(t, "qemu-io", "-f", c.to, "-c", "write 0 512", m.dst.Path) // nobody holds it
			if here, there := allocated(t, m.src.Path), allocated(t, m.dst.Path); c.from == c.to && there*100 > here*105 {
				t.Errorf("%d bytes at the source, %d at the destination", here, there)
			}
		})
	}
}

// Once the mirror has ended, and be it for a moment, nobody knows what the guest wrote meanwhile.
func TestT2MirrorThatEnded(t *testing.T) {
	tools(t)
	const size = 4 << 20
	m := begin(t, liveImage(t, blank(t, "qcow2", size).Path, "qcow2", size), blank(t, "raw", size), nil)
	m.fetch(t)
	if err := m.mirror.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 9 1M 96k", "-c", "write -z -u 3M 512k", "-c", "flush", "nbd+unix:///vda?socket="+m.src.Mirror)
	again := unixClient(t, m.src.Mirror, "vda")
	defer again.Close()
	if err := again.WriteAt(t.Context(), make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if err := m.to.Settle(t.Context()); err == nil {
		t.Error("it is handed over")
	}
}

// A disk that comes back brings what has changed.
func TestT2MirrorReuses(t *testing.T) {
	tools(t)
	const size = 64 << 20
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			src, dst := blank(t, format, size), blank(t, format, size)
			run(t, "qemu-io", "-f", format, "-c", "write -P 1 0 40M", "-c", "write -z 8M 1M", src.Path)
			run(t, "qemu-io", "-f", format, "-c", "write -P 1 0 40M", dst.Path)
			run(t, "qemu-io", "-f", format, "-c", "write -P 2 10M 1M", "-c", "write -P 3 20M 1M", "-c", "discard 12M 1M", src.Path)
			run(t, "qemu-io", "-f", format, "-c", "write -P 4 50M 1M", dst.Path) // which the source has not
			dst.Reuse = true
			m := begin(t, liveImage(t, src.Path, format, size), dst, nil)
			p := m.fetch(t)
			if p.Fetched > 3<<20 || p.Reused < 34<<20 || p.Remaining != 0 {
				t.Errorf("%+v", p)
			}
			if err := m.to.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.compare(t)
			if size := allocated(t, dst.Path); size > 40<<20 {
				t.Errorf("it takes %d bytes", size)
			}
		})
	}
}

// What was brought before an end died is not brought again.
func TestT2MirrorGoesOn(t *testing.T) {
	tools(t)
	const size = 64 << 20
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			src, dst := blank(t, format, size), blank(t, format, size)
			run(t, "qemu-io", "-f", format, "-c", "write -P 1 0 30M", "-c", "write -P 5 30M 30M", src.Path)
			live := liveImage(t, src.Path, format, size)
			pieces := 0
			var mu sync.Mutex
			m := begin(t, live, dst, func(_ context.Context, point string) error {
				mu.Lock()
				defer mu.Unlock()
				if point != "disk-piece" {
					return nil
				}
				if pieces++; pieces > 45<<20/pieceSize {
					return errors.New("cut")
				}
				return nil
			})
			first, err := m.to.Fetch(t.Context(), func(agent.Progress) {})
			if err == nil {
				t.Fatal("it came to its end")
			}
			if err := m.to.Settle(t.Context()); err == nil {
				t.Error("what is not complete is handed over")
			}
			m.close()
			dst.Reuse = true
			m = begin(t, live, dst, nil)
			p := m.fetch(t)
			if sent := p.Fetched + first.Disks[0].Fetched; sent > 63<<20 || first.Disks[0].Fetched < 20<<20 {
				t.Errorf("%d bytes, and then %d", first.Disks[0].Fetched, p.Fetched)
			}
			if err := m.to.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.compare(t)
		})
	}
}

// A file system that is full holds it up, until there is room.
func TestT2MirrorWaitsForRoom(t *testing.T) {
	tools(t)
	const size = 16 << 20
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			src := blank(t, format, size)
			run(t, "qemu-io", "-f", format, "-c", "write -P 1 0 12M", src.Path)
			dir := smallFolder(t, "4m")
			m := begin(t, liveImage(t, src.Path, format, size), blankIn(t, dir, format, size), nil)
			_, err := m.to.Fetch(t.Context(), func(agent.Progress) {})
			if !errors.Is(err, storage.ErrNoRoom) || migrate.FixOf(err) == "" {
				t.Fatalf("%v, want no room", err)
			}
			t.Log(err)
			p := make([]byte, 1<<20)
			fill(p, 2)
			if err := errors.Join(m.live.WriteAt(t.Context(), p, 14<<20), m.mirror.WriteAt(t.Context(), p, 14<<20)); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("the mirror is told %v", err)
			}
			if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT, "size=32m"); err != nil {
				t.Fatal(err)
			}
			if p := m.fetch(t); p.Remaining != 0 {
				t.Errorf("%+v", p)
			}
			if err := m.to.Settle(t.Context()); err == nil {
				t.Error("what could not be mirrored is forgotten")
			}
			if err := m.mirror.WriteAt(t.Context(), p, 14<<20); err != nil {
				t.Fatal(err)
			}
			if err := m.to.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.compare(t)
		})
	}
}

// An agent that is killed leaves an image that another one finishes, with what was not there yet.
func TestT2MirrorsAgentIsKilled(t *testing.T) {
	tools(t)
	const size = 64 << 20
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			src, dst := blank(t, format, size), blank(t, format, size)
			run(t, "qemu-io", "-f", format, "-c", "write -P 1 0 30M", "-c", "write -P 5 30M 30M", src.Path)
			live := liveImage(t, src.Path, format, size)
			link := testLink("127.0.0.1:0")
			one := startAgent(t, otherAgent{KillAt: "disk-piece", Times: 45 << 20 / pieceSize,
				Spec: agent.DiskDestSpec{Migration: t.Name(), Mode: agent.DisksMirror, Link: link, Disks: []agent.DestDisk{dst}}})
			link.Addr = one.line()
			here := New(Options{})
			from, err := here.OpenSource(t.Context(), agent.DiskSourceSpec{Migration: t.Name(), Mode: agent.DisksMirror, Link: link, Disks: []agent.SourceDisk{live}})
			if err != nil {
				t.Fatal(err)
			}
			one.say("go")
			if said := one.line(); said != "" {
				t.Fatalf("it was not killed: %s", said)
			}
			if err := from.Close(t.Context()); err != nil {
				t.Error(err)
			}
			dst.Reuse = true
			m := begin(t, live, dst, nil)
			if p := m.fetch(t); p.Fetched > 42<<20 || p.Fetched+p.Reused < 60<<20 {
				t.Errorf("%+v", p)
			}
			if err := m.to.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.compare(t)
		})
	}
}

// What cannot be read at the source is told with the disk and where, and what can be was fetched.
func TestT2MirroredDiskHasABadSector(t *testing.T) {
	tools(t)
	const size, bad = 32 << 20, 12000 // its sector
	src := blank(t, "qcow2", size)
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 16M", src.Path)
	dir := t.TempDir()
	d := agent.SourceDisk{Target: "vda", Path: src.Path, Format: "qcow2", Size: size, Live: filepath.Join(dir, "live"), Mirror: filepath.Join(dir, "mirror")}
	image := "driver=blkdebug,image.driver=qcow2,image.file.driver=file,image.file.filename=" + src.Path +
		",inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5,inject-error.0.sector=" + fmt.Sprint(bad)
	pid := filepath.Join(dir, "pid")
	run(t, "qemu-nbd", "--persistent", "--shared=8", "--read-only", "--export-name=vda", "--socket="+d.Live, "--fork", "--pid-file="+pid, "--image-opts", image)
	defer endDaemon(t, pid)
	m := open(t, d, blank(t, "qcow2", size), nil)
	p, err := m.to.Fetch(t.Context(), func(agent.Progress) {})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("disk vda at offset %d (source)", bad*512/pieceSize*pieceSize)) || errors.Is(err, migrate.ErrLinkLost) {
		t.Fatalf("%v", err)
	}
	t.Log(err, p.Disks)
}

// A link that is cut comes up again by itself, and when it does not the disk waits for another Fetch.
func TestT2MirrorsLinkIsCut(t *testing.T) {
	tools(t)
	const size = 64 << 20
	src := blank(t, "qcow2", size)
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 60M", src.Path)
	var link cable
	s := &spoiler{at: func(_ context.Context, point string, n int) error {
		if point == "disk-piece" && n == 20 {
			link.set(true)
			link.set(false)
		}
		return nil
	}}
	m := openBy(t, Options{Dial: link.dial}, Options{Spoil: s.spoil}, liveImage(t, src.Path, "qcow2", size), blank(t, "qcow2", size))
	m.live = unixClient(t, m.src.Live, "vda")
	if p := m.fetch(t); p.Fetched != 60<<20 || s.count("disk-piece") != 60<<20/pieceSize {
		t.Errorf("%+v", p)
	}
	if err := m.to.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.compare(t)
	if sent := link.sent.Load(); sent > 60<<20*105/100 {
		t.Errorf("%d bytes were sent", sent)
	}
}
