package nbd

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

const toolTime = 60 * time.Second // a tool that hangs must not hang the tests

// tool runs a program of another project and returns what it says.
func tool(tb testing.TB, name string, args ...string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), toolTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

func mustTool(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := tool(tb, name, args...)
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// serveUnix serves exports on a unix socket and returns the URI of one.
func serveUnix(tb testing.TB, exports ...Export) func(name string) string {
	tb.Helper()
	srv, err := NewServer(Config{Exports: NewExports(exports...)})
	if err != nil {
		tb.Fatal(err)
	}
	socket := filepath.Join(tb.TempDir(), "nbd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(context.Background(), l) }) // it ends by Close
	tb.Cleanup(func() {
		_ = srv.Close() // it always succeeds
		wg.Wait()
	})
	return func(name string) string { return "nbd+unix:///" + name + "?socket=" + socket }
}

// program starts a server of another project on a unix socket, and returns how to dial it. Its process ends with the test.
func program(tb testing.TB, name string, args func(socket string) []string) (uri string, dial func(context.Context) (net.Conn, error)) {
	tb.Helper()
	socket := filepath.Join(tb.TempDir(), "nbd")
	cmd := exec.Command(name, args(socket)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	})
	dial = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	deadline := time.Now().Add(toolTime)
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		conn, err := dial(tb.Context())
		if err == nil {
			_ = conn.Close() // it only had to be there
			return "nbd+unix:///?socket=" + socket, dial
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s does not listen: %v\n%s", name, err, out.String())
		}
	}
}

// memfile is a File on a fresh file of a size.
func memfile(tb testing.TB, size int64, opts FileOptions) (*File, *os.File) {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "image"))
	if err != nil {
		tb.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	b, err := NewFile(f, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(b.Close(), f.Close()); err != nil {
			tb.Error(err)
		}
	})
	return b, f
}

func writeFile(tb testing.TB, p []byte) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "source")
	if err := os.WriteFile(name, p, 0o600); err != nil {
		tb.Fatal(err)
	}
	return name
}

// withDirt is a File with a dirty bitmap, as a RAM block of a guest is.
type withDirt struct {
	*File
	dirty []Status
}

func (b withDirt) DirtyExtents(context.Context, int64, int64) ([]Status, error) { return b.dirty, nil }

// libnbd's tools see exports, holes and dirty extents, and copy them both ways.
func TestT3LibNBD(t *testing.T) {
	need.NBD(t)
	const size = 8 << 20
	b, f := memfile(t, size, FileOptions{Map: true})
	data := pattern(2<<20, 11)
	if _, err := f.WriteAt(data, 4<<20); err != nil {
		t.Fatal(err)
	}
	uri := serveUnix(t, Export{Name: "ram/pc.ram", Description: "RAM of a guest", Backend: withDirt{b, []Status{{1 << 20, 0}, {4096, StatusDirty}, {size, 0}}}}, Export{Name: "disk", Backend: b, ReadOnly: true})
	list := mustTool(t, "nbdinfo", "--list", uri(""))
	for _, want := range []string{`export="ram/pc.ram"`, `export="disk"`, "RAM of a guest", DirtyBitmap, "is_read_only: true", "can_fast_zero: true"} {
		if !strings.Contains(list, want) {
			t.Errorf("nbdinfo --list does not mention %q:\n%s", want, list)
		}
	}
	if out := strings.Fields(mustTool(t, "nbdinfo", "--map", uri("ram/pc.ram"))); strings.Join(out, " ") != "0 4194304 3 hole,zero 4194304 2097152 0 data 6291456 2097152 3 hole,zero" {
		t.Errorf("nbdinfo --map: %q", out)
	}
	if out := strings.Fields(mustTool(t, "nbdinfo", "--map="+DirtyBitmap, uri("ram/pc.ram"))); strings.Join(out, " ") != "0 1048576 0 clean 1048576 4096 1 dirty 1052672 7335936 0 clean" {
		t.Errorf("nbdinfo --map of dirty extents: %q", out)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	mustTool(t, "nbdcopy", uri("disk"), copied)
	if got, err := os.ReadFile(copied); err != nil || len(got) != size || !bytes.Equal(got[4<<20:6<<20], data) || bytes.Count(got, []byte{0}) != size-len(data)+bytes.Count(data, []byte{0}) {
		t.Errorf("the copy is another: %d bytes, %v", len(got), err)
	}
	more := pattern(size, 12)
	mustTool(t, "nbdcopy", "--flush", writeFile(t, more), uri("ram/pc.ram"))
	got := make([]byte, size)
	if _, err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, more) {
		t.Errorf("what nbdcopy wrote is another: %v", err)
	}
	if out, err := tool(t, "nbdcopy", writeFile(t, more), uri("disk")); err == nil {
		t.Errorf("a read-only export was written to:\n%s", out)
	}
}

// QEMU's tools do.
func TestT3QEMUTools(t *testing.T) {
	need.NBD(t)
	const size = 8 << 20
	b, _ := memfile(t, size, FileOptions{})
	uri := serveUnix(t, Export{Name: "disk", Backend: b})("disk")
	for _, cmds := range [][]string{
		{"write -P 7 4096 1M", "read -P 7 4096 1M", "read -P 0 0 4096"},
		{"write -f -P 8 0 512", "read -P 8 0 512", "flush"},
		{"write -z 8192 64k", "read -P 0 8192 64k", "read -P 7 4096 4096"},
		{"write -z -u 128k 64k", "read -P 0 128k 64k", "discard 256k 64k", "read -P 0 256k 64k"},
		{"aio_write -P 9 1M 1M", "aio_write -P 9 2M 1M", "aio_flush", "aio_read -P 9 1M 2M", "aio_flush"},
	} {
		args := []string{"-f", "raw", uri}
		for _, c := range cmds {
			args = append(args, "-c", c)
		}
		if out := mustTool(t, "qemu-io", args...); strings.Contains(out, "fail") || strings.Contains(out, "rror") {
			t.Errorf("%q:\n%s", cmds, out)
		}
	}
	if out := mustTool(t, "qemu-img", "map", "--output=json", "-f", "raw", uri); !strings.Contains(out, `"zero": true`) || !strings.Contains(out, `"data": true`) {
		t.Errorf("qemu-img map:\n%s", out)
	}
	source := writeFile(t, pattern(size, 13))
	mustTool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri)
	if out := mustTool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri); !strings.Contains(out, "identical") {
		t.Errorf("qemu-img compare:\n%s", out)
	}
}

// A full disk is told as such, and the connection lives on.
func TestT3NoSpace(t *testing.T) {
	need.NBD(t)
	mem := &memory{p: make([]byte, 1<<20)}
	mem.fail = func(op string, off int64) error {
		if op == "write" && off >= 1<<19 {
			return ENOSPC
		}
		return nil
	}
	uri := serveUnix(t, Export{Backend: mem})("")
	out, err := tool(t, "qemu-io", "-f", "raw", "-c", "write -P 1 600k 4k", "-c", "read -P 0 600k 4k", uri)
	if err == nil || !strings.Contains(out, "No space left on device") || !strings.Contains(out, "read 4096/4096") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// The client speaks to other projects' servers: reads, writes, holes, zeroes, several connections.
func TestT3OtherServers(t *testing.T) {
	need.NBD(t)
	const size = 4 << 20
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string]func(socket string) []string{
		"nbdkit":   func(s string) []string { return []string{"-f", "-U", s, "memory", "4M"} },
		"qemu-nbd": func(s string) []string { return []string{"-t", "-e", "8", "-f", "raw", "-k", s, image} },
	} {
		t.Run(name, func(t *testing.T) {
			_, dial := program(t, name, args)
			c := open(t, ClientConfig{Dial: dial, Conns: 3})
			if c.Size() != size || !c.Info().MultiConn || !c.Info().Structured {
				t.Errorf("%+v", c.Info())
			}
			data := pattern(size, 14)
			if err := c.WriteAt(t.Context(), data[:3<<20], 0); err != nil {
				t.Fatal(err)
			}
			clear(data[3<<20:])
			if err := c.WriteZeroes(t.Context(), 1<<20, 1<<20, true); err != nil {
				t.Fatal(err)
			}
			clear(data[1<<20 : 2<<20])
			if err := errors.Join(c.Flush(t.Context()), c.Trim(t.Context(), 3<<20, 1<<20), c.Cache(t.Context(), 0, 1<<20)); err != nil && !errors.Is(err, EINVAL) {
				t.Error(err) // not every server has a cache
			}
			checkRead(t, c, data, 0, size)
			list, err := c.BlockStatus(t.Context(), BaseAllocation, 0, size)
			var sum int64
			for _, e := range list {
				sum += e.Length
			}
			if err != nil || sum != size {
				t.Errorf("block status %v: %v", list, err)
			}
			if name == "nbdkit" {
				return // it has one export of every name
			}
			if _, err := Open(t.Context(), ClientConfig{Dial: dial, Export: "nowhere"}); !errors.Is(err, ErrNoExport) {
				t.Errorf("an export that is not there: %v", err)
			}
		})
	}
}

// A sector that qemu-nbd cannot read is told as such, and the rest can be read: it hangs up first.
func TestT1QemuNBDBadSector(t *testing.T) {
	need.NBD(t)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, dial := program(t, "qemu-nbd", func(socket string) []string {
		return []string{"-k", socket, "-t", "-e", "4", "-x", "x", "-r", "--image-opts", "driver=blkdebug,image.driver=file,image.filename=" + path +
			",inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5,inject-error.0.sector=256"}
	})
	c, err := Open(t.Context(), ClientConfig{Dial: dial, Export: "x", Conns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var remote *RemoteError
	if err := c.ReadAt(t.Context(), make([]byte, 64<<10), 100<<10); !errors.As(err, &remote) || remote.Errno != EIO {
		t.Errorf("the bad sector: %v", err)
	}
	if err := c.ReadAt(t.Context(), make([]byte, 64<<10), 512<<10); err != nil {
		t.Errorf("a good one: %v", err)
	}
}
