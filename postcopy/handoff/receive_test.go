package handoff

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

const kidPages = 512

// firecrackerKid makes two regions in another order than their contents lie in the file, and hands them over.
func firecrackerKid(ctx context.Context, conn *net.UnixConn) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, kidPages*basePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	u, err := sys.NewUserFault(false)
	if err != nil {
		return nil, err
	}
	at := uint64(reflect.ValueOf(mem).Pointer())
	const half = kidPages / 2 * basePage
	if err := fault.Arm(u, true, fault.Range{Start: at, Length: 2 * half}); err != nil {
		return nil, err
	}
	return mem, Send(ctx, conn, u, []Region{{at + half, half, half, basePage}, {at, half, 0, basePage}})
}

// pair is both ends of a connection.
func pair(t *testing.T) (ours *net.UnixConn, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close() // the connection has a descriptor of its own
	t.Cleanup(func() { _, _ = c.Close(), theirs.Close() })
	return c.(*net.UnixConn), theirs
}

// kid is a process that hands over.
type kid struct {
	conn *net.UnixConn
	cmd  *exec.Cmd
	out  bytes.Buffer
}

func startKid(t *testing.T, form string) *kid {
	t.Helper()
	need.UFFD(t)
	k := &kid{}
	conn, theirs := pair(t)
	k.conn = conn
	k.cmd = exec.CommandContext(t.Context(), os.Args[0])
	k.cmd.Env = append(os.Environ(), kidEnv+"="+form, "GOGC=off")
	k.cmd.ExtraFiles = []*os.File{theirs}
	k.cmd.Stdout, k.cmd.Stderr = &k.out, &k.out
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close() // it is the kid's now
	return k
}

// serve fills the kid's memory, and tells what the kid found in it.
func (k *kid) serve(t *testing.T, h *Handover) postcopy.Stats {
	t.Helper()
	src, err := fault.New(h.Fault)
	if err != nil {
		t.Fatal(err)
	}
	blocks := h.Blocks()
	missing := ram.NewSet(blocks)
	missing.Fill()
	file := &File{From: bytes.NewReader(fillingOf(kidPages * basePage)), Regions: h.Regions}
	p, err := postcopy.New(postcopy.Config{Blocks: blocks, Addrs: h.Addrs(), Faults: src, Events: true, Demand: file, Bulk: file, Missing: missing})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(t.Context())
	if err := errors.Join(err, p.Close(), src.Close(), h.Close(), h.Close()); err != nil {
		t.Error(err)
	}
	if err := k.cmd.Wait(); err != nil {
		t.Errorf("the kid: %v\n%s", err, k.out.String())
	}
	return p.Stats()
}

func TestT1FirecrackerForm(t *testing.T) {
	k := startKid(t, "firecracker")
	h, err := Receive(t.Context(), k.conn)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Regions) != 2 || h.Regions[0].Offset != kidPages/2*basePage {
		t.Errorf("%+v", h.Regions)
	}
	if st := k.serve(t, h); st.Remaining != 0 || st.Demanded+st.Prepaged != kidPages {
		t.Errorf("%+v", st)
	}
}

// handed sends text with descriptors in one message and the rest of the text after it, and receives it.
func handed(t *testing.T, receive func(context.Context, *net.UnixConn) (*Handover, error), text, rest string, fds ...int) (*Handover, error) {
	t.Helper()
	conn, theirs := pair(t)
	if err := unix.Sendmsg(int(theirs.Fd()), []byte(text), unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.WriteString(rest); err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(int(theirs.Fd()), unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	h, err := receive(t.Context(), conn)
	_ = conn.Close()
	_ = theirs.Close()
	return h, err
}

// openFDs are the descriptors of this process and what they are.
func openFDs(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out[e.Name()] = name
		}
	}
	return out
}

const oneRegion = `[{"base_host_virt_addr":1073741824,"size":8192,"offset":0,"page_size":4096}]`

func transferHead(addr uint64) string {
	return string(binary.BigEndian.AppendUint64(nil, addr))
}

// Only the one userfaultfd stays, made non-blocking and not inherited; strangers are closed, and so is all when
// anything is refused.
func TestT1OnlyTheUserfaultStays(t *testing.T) {
	need.UFFD(t)
	u, err := sys.NewUserFault(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	if err := syscall.SetNonblock(u.FD(), false); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	strange, uffd := int(null.Fd()), u.FD()
	transfer := func(ctx context.Context, c *net.UnixConn) (*Handover, error) { return ReceiveTransfer(ctx, c, 5000) }
	tooLong := func(ctx context.Context, c *net.UnixConn) (*Handover, error) {
		return ReceiveTransfer(ctx, c, maxOffset)
	}
	before := openFDs(t)
	for _, c := range []struct {
		name       string
		receive    func(context.Context, *net.UnixConn) (*Handover, error)
		text, rest string
		fds        []int
		ok         bool
	}{
		{"in one piece", Receive, oneRegion, "", []int{uffd}, true},
		{"in two pieces", Receive, oneRegion[:1], oneRegion[1:], []int{uffd}, true},
		{"with strangers", Receive, oneRegion, "", []int{strange, uffd, strange}, true},
		{"transfer's form", transfer, transferHead(1 << 30), "\x00", []int{strange, uffd}, true},
		{"without a userfaultfd", Receive, oneRegion, "", []int{strange}, false},
		{"two of them", Receive, oneRegion, "", []int{uffd, strange, uffd}, false},
		{"nonsense", Receive, "nonsense", "", []int{uffd}, false},
		{"half a list", Receive, oneRegion[:30], "", []int{uffd}, false},
		{"an end without regions", Receive, "[", "]", []int{uffd}, false},
		{"more than", Receive, "[", strings.Repeat(" ", 2*maxMessage), []int{uffd}, false},
		{"half an address", transfer, "\x00\x00", "", []int{uffd}, false},
		{"an odd address", transfer, transferHead(1<<30 + 5), "\x00", []int{uffd}, false},
		{"an end in the kernel", tooLong, transferHead(maxAddr - basePage), "\x00", []int{uffd}, false},
	} {
		h, err := handed(t, c.receive, c.text, c.rest, c.fds...)
		if (err == nil) != c.ok {
			t.Errorf("%s: %+v, %v", c.name, h, err)
		}
		if c.name == "more than" && !strings.Contains(err.Error(), c.name) {
			t.Errorf("all of a message without an end was read: %v", err)
		}
		if h != nil {
			checkHandover(t, c.name, h)
		}
		if after := openFDs(t); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: descriptors\n%v were\n%v", c.name, after, before)
			before = after
		}
	}
}

func checkHandover(t *testing.T, name string, h *Handover) {
	t.Helper()
	if want := []Region{{Addr: 1 << 30, Size: 8192, PageSize: 4096}}; !reflect.DeepEqual(h.Regions, want) {
		t.Errorf("%s: %+v", name, h.Regions)
	}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(h.Fault.FD()))
	if err != nil {
		t.Error(err)
	}
	if _, err := h.Fault.Read(make([]sys.Event, 1)); !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINVAL) {
		t.Errorf("%s: reading %v", name, err)
	}
	var flags int
	_, line, _ := strings.Cut(string(info), "flags:\t")
	if _, err := fmt.Sscanf(line, "%o", &flags); err != nil || flags&syscall.O_CLOEXEC == 0 || flags&syscall.O_NONBLOCK == 0 {
		t.Errorf("%s: flags %#o, %v", name, flags, err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// A peer that says nothing is waited for until the context ends, and no longer.
func TestReceiveEndsWithItsContext(t *testing.T) {
	conn, theirs := pair(t)
	if _, err := theirs.WriteString("["); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := Receive(ctx, conn); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// A sender whose peer is gone is told.
func TestT1SendTells(t *testing.T) {
	need.UFFD(t)
	u, err := sys.NewUserFault(true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }()
	conn, theirs := pair(t)
	_ = theirs.Close()
	region := []Region{{Addr: 1 << 30, Size: 4096, PageSize: 4096}}
	if err := Send(t.Context(), conn, u, region); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
	if err := Send(t.Context(), conn, u, nil); err == nil {
		t.Error("no region was handed over")
	}
}
