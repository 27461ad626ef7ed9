package disks

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
)

// BenchmarkMirrorFetch brings a disk over, and lets nbdcopy do the same between a qemu-nbd of its own and the same kind of image.
func BenchmarkMirrorFetch(b *testing.B) {
	tools(b)
	const size = 1 << 30
	for _, format := range []string{"raw", "qcow2"} {
		dir := b.TempDir()
		src := filepath.Join(dir, "src."+format)
		benchImage(b, src, format, size)
		b.Run(format+"/ours", func(b *testing.B) { benchFetch(b, src, format, size, false, false) })
		b.Run(format+"/encrypted", func(b *testing.B) { benchFetch(b, src, format, size, false, true) })
		b.Run(format+"/nbdcopy", func(b *testing.B) { benchCopy(b, src, format, size) })
		b.Run(format+"/same", func(b *testing.B) { benchFetch(b, src, format, size, true, false) })
	}
}

// benchImage makes an image whose every other mebibyte is full.
func benchImage(b *testing.B, path, format string, size int64) {
	b.Helper()
	raw := filepath.Join(b.TempDir(), "raw")
	f, err := os.Create(raw)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 1<<20)
	_, _ = rand.Read(p) // it never fails
	for at := int64(0); at < size; at += 2 << 20 {
		p[at>>21&0xffff]++
		if _, err := f.WriteAt(p, at); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	run(b, "qemu-img", "convert", "-f", "raw", "-O", format, raw, path)
}

func benchFetch(b *testing.B, src, format string, size int64, reuse, encrypted bool) {
	var near, far Options
	if encrypted {
		near.TLS, far.TLS = pinned(b)
	}
	live := liveImage(b, src, format, size)
	b.SetBytes(size / 2)
	var settle time.Duration
	for b.Loop() {
		b.StopTimer()
		dst := blank(b, format, size)
		if dst.Reuse = reuse; reuse {
			run(b, "cp", "--sparse=always", src, dst.Path)
		}
		m := openBy(b, near, far, live, dst)
		m.live, m.mirror = unixClient(b, live.Live, live.Target), unixClient(b, live.Mirror, live.Target)
		b.StartTimer()
		if _, err := m.to.Fetch(b.Context(), func(agent.Progress) {}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		at := time.Now()
		if err := m.to.Settle(b.Context()); err != nil {
			b.Fatal(err)
		}
		settle += time.Since(at)
		m.close()
		run(b, "rm", dst.Path)
		b.StartTimer()
	}
	b.ReportMetric(float64(settle.Milliseconds())/float64(b.N), "settle-ms/op")
}

// pinned are the configurations of two agents that know each other.
func pinned(b *testing.B) (near, far func([]byte) (*tls.Config, error)) {
	b.Helper()
	own := func() tls.Certificate {
		c, err := datalink.NewCertificate()
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	pin := func(mine, theirs tls.Certificate) func([]byte) (*tls.Config, error) {
		return func([]byte) (*tls.Config, error) { return datalink.PinTLS(mine, theirs.Certificate[0]) }
	}
	one, other := own(), own()
	return pin(one, other), pin(other, one)
}

func benchCopy(b *testing.B, src, format string, size int64) {
	dir := b.TempDir()
	port := freePort(b)
	from := daemon(b, "qemu-nbd", "--persistent", "--shared=8", "--read-only", "--format="+format, "--bind=127.0.0.1", fmt.Sprint("--port=", port), src)
	defer from()
	b.SetBytes(size / 2)
	for b.Loop() {
		b.StopTimer()
		dst := blank(b, format, size)
		to := dst.Path
		if format != "raw" {
			to = "nbd+unix:///?socket=" + filepath.Join(dir, "dst")
			end := daemon(b, "qemu-nbd", "--shared=8", "--persistent", "--discard=unmap", "--cache=writeback", "--format="+format, "--socket="+filepath.Join(dir, "dst"), dst.Path)
			defer end()
		}
		b.StartTimer()
		run(b, "nbdcopy", "--flush", fmt.Sprint("nbd://127.0.0.1:", port), to)
		b.StopTimer()
		run(b, "rm", dst.Path)
		b.StartTimer()
	}
}

// daemon starts a server that says that it is ready by going into the background.
func daemon(b *testing.B, name string, args ...string) (end func()) {
	b.Helper()
	pid := filepath.Join(b.TempDir(), "pid")
	if out, err := exec.Command(name, append([]string{"--fork", "--pid-file=" + pid}, args...)...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v: %s", name, err, out)
	}
	return func() { endDaemon(b, pid) }
}
