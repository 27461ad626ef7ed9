package disks

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// BenchmarkMirrorFetch brings a disk over, and lets nbdcopy do the same between a qemu-nbd of its own and the same kind of image.
func BenchmarkMirrorFetch(b *testing.B) {
	tools(b)
	const size = 1 << 30
	for _, format := range []string{"raw", "qcow2"} {
		dir := b.TempDir()
		src := filepath.Join(dir, "src."+format)
		benchImage(b, src, format, size)
		b.Run(format+"/ours", func(b *testing.B) { benchFetch(b, src, format, size, false) })
		b.Run(format+"/nbdcopy", func(b *testing.B) { benchCopy(b, src, format, size) })
		b.Run(format+"/same", func(b *testing.B) { benchFetch(b, src, format, size, true) })
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

func benchFetch(b *testing.B, src, format string, size int64, reuse bool) {
	live := liveImage(b, src, format, size)
	b.SetBytes(size / 2)
	var settle time.Duration
	for b.Loop() {
		b.StopTimer()
		dst := blank(b, format, size)
		if dst.Reuse = reuse; reuse {
			run(b, "cp", "--sparse=always", src, dst.Path)
		}
		m := begin(b, live, dst, nil)
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
