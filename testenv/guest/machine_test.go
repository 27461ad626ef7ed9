package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
	"github.com/vmmigrate/vmmigrate/testenv/oracle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testMemory = 256 << 20
	testDisk   = 32 << 20
)

// assets finds what a guest boots from, or ends the test.
func assets(t *testing.T) guest.Assets {
	t.Helper()
	need.QEMU(t)
	a, err := guest.Find()
	need.Guest(t, err)
	return a
}

// machine is one QEMU with a Linux guest.
type machine struct {
	qmp  *qmp.Client
	dir  string
	addr string // of the guest's oracle, seen from the test
	gone chan struct{}
	log  *bytes.Buffer
}

func (m *machine) ram() string  { return filepath.Join(m.dir, "ram") }
func (m *machine) disk() string { return filepath.Join(m.dir, "disk") }

// limit bounds a test that waits for a guest: an emulated one on a loaded
// machine is slow, and a test that hangs says nothing.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A disk makes a guest's disk at path.
type disk func(path string) error

func newDisk(path string) error { return os.WriteFile(path, make([]byte, testDisk), 0o600) }

// copyOf makes a disk with the contents of the file at from.
func copyOf(from string) disk {
	return func(path string) error {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(path, b, 0o600)
	}
}

// shared makes a disk that is the file at from.
func shared(from string) disk {
	return func(path string) error { return os.Symlink(from, path) }
}

// launch starts QEMU with a guest; extra arguments go behind.
func launch(t *testing.T, workload string, makeDisk disk, extra ...string) *machine {
	t.Helper()
	a := assets(t)
	m := &machine{dir: shmDir(t), gone: make(chan struct{}), log: new(bytes.Buffer)}
	if err := makeDisk(m.disk()); err != nil {
		t.Fatal(err)
	}
	boot, err := a.Boot(guest.Config{Name: "t3", Addr: netip.MustParsePrefix("10.0.2.15/24"), Workload: workload, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	m.start(t, append(append(m.args(t), boot.Args()...), extra...))
	return m
}

func (m *machine) args(t *testing.T) []string {
	port := freePort(t)
	m.addr = fmt.Sprintf("127.0.0.1:%d", port)
	return []string{"-machine", "q35,memory-backend=ram", "-accel", guest.TCG, "-cpu", guest.CPU(guest.TCG), "-m", "256M",
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,share=on,mem-path=%s", testMemory, m.ram()),
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot",
		"-chardev", "file,id=con,path=" + filepath.Join(m.dir, "console"), "-serial", "chardev:con",
		"-qmp", "unix:" + filepath.Join(m.dir, "qmp") + ",server=on,wait=off",
		"-netdev", fmt.Sprintf("user,id=n,hostfwd=udp:%s-:%d", m.addr, oracle.Port), "-device", "virtio-net-pci,netdev=n",
		"-blockdev", "driver=file,node-name=d,filename=" + m.disk(), "-device", "virtio-blk-pci,drive=d"}
}

// start runs QEMU and connects to its monitor. Cleanup ends it.
func (m *machine) start(t *testing.T, args []string) {
	t.Helper()
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr = m.log, m.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait(); close(m.gone) }()
	t.Cleanup(func() {
		if m.qmp != nil {
			m.qmp.Close()
		}
		_ = cmd.Process.Kill()
		<-m.gone
		if t.Failed() {
			console, _ := os.ReadFile(filepath.Join(m.dir, "console"))
			t.Logf("qemu: %s\nconsole: %s", m.log, console)
		}
	})
	m.qmp = m.dial(t)
}

// dial connects to the monitor once QEMU has made its socket.
func (m *machine) dial(t *testing.T) *qmp.Client {
	ctx := limit(t)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		c, err := qmp.Dial(ctx, "unix", filepath.Join(m.dir, "qmp"))
		if err == nil {
			return c
		}
		select {
		case <-m.gone:
			t.Fatalf("QEMU ended: %s", m.log)
		case <-ctx.Done():
			t.Fatal(err)
		case <-poll.C:
		}
	}
}

// console waits until the guest has printed text.
func (m *machine) console(t *testing.T, text string) {
	t.Helper()
	ctx := limit(t)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		b, _ := os.ReadFile(filepath.Join(m.dir, "console"))
		if bytes.Contains(b, []byte(text)) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the console does not say %q: %s", text, b)
		case <-poll.C:
		}
	}
}

func (m *machine) do(t *testing.T, command string, args any) {
	t.Helper()
	if err := m.qmp.Execute(limit(t), command, args, nil); err != nil {
		t.Fatal(err)
	}
}

// client connects to the guest's oracle.
func (m *machine) client(t *testing.T) *oracle.Client {
	t.Helper()
	c, err := oracle.Dial(limit(t), new(net.Dialer), m.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func verify(t *testing.T, c *oracle.Client) oracle.Report {
	t.Helper()
	r, err := c.Verify(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// written waits until the guest has written so many pages and blocks more.
func written(t *testing.T, c *oracle.Client, pages, blocks uint64) {
	t.Helper()
	ctx := limit(t)
	first, err := c.Ping(ctx)
	for now := first; err == nil && (now.Pages < first.Pages+pages || now.Blocks < first.Blocks+blocks); {
		now, err = c.Ping(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// shmDir is a directory in memory, or on disk where there is none.
func shmDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "vmmigrate-guest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// freePort is a UDP port that nobody had a moment ago.
func freePort(t *testing.T) int {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}
