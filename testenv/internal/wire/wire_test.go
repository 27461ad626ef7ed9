package wire

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/netns"
	"github.com/vmmigrate/vmmigrate/testenv/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what must happen; nothing is ever waited for that long.
const patience = 20 * time.Second

// net2 is a wire with hosts a and b and a client, in namespaces without processes.
type net2 struct {
	*Wire
	plan layout.Plan
	ns   map[string]*os.File // by host; "" is the client
}

func newNet2(t *testing.T) *net2 {
	t.Helper()
	need.Netns(t)
	plan, err := layout.New("test", "/tmp", []string{"a", "b"}, link.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n := &net2{Wire: w, plan: plan, ns: map[string]*os.File{}}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
	for _, name := range []string{"", "a", "b"} {
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		n.ns[name] = ns
		// A path for a namespace that only a file holds.
		path := "/proc/self/fd/" + strconv.Itoa(int(ns.Fd()))
		if name == "" {
			err = w.AttachClient(path)
		} else {
			h, _ := plan.Host(name)
			err = w.AttachHost(h, path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// serve echoes on a port of the host.
func (n *net2) serve(t *testing.T, host, port string) {
	t.Helper()
	var l net.Listener
	err := netns.DoFile(n.ns[host], func() (err error) {
		l, err = net.Listen("tcp4", ":"+port)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
			all.Go(func() { io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { l.Close(); stop(); all.Wait() })
}

// dial connects from a host to another.
func (n *net2) dial(ctx context.Context, from, to, port string) (conn net.Conn, err error) {
	h, err := n.plan.Host(to)
	if err != nil {
		return nil, err
	}
	err = netns.DoFile(n.ns[from], func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(h.Address.Addr().String(), port))
		return err
	})
	return conn, err
}

func (n *net2) mustDial(t *testing.T, from, to, port string) net.Conn {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	c, err := n.dial(ctx, from, to, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echo sends and expects the same back before the deadline.
func echo(c net.Conn, deadline time.Time) error {
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	word := []byte("are you there?")
	if _, err := c.Write(word); err != nil {
		return err
	}
	_, err := io.ReadFull(c, word)
	return err
}

func mustEcho(t *testing.T, c net.Conn) {
	t.Helper()
	if err := echo(c, time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

// silence is how long nothing must come through where nothing can.
const silence = 150 * time.Millisecond

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestT2CutStopsAndMendRestores(t *testing.T) {
	n := newNet2(t)
	for _, spec := range []link.Spec{{}, {Rate: 1e8, Delay: time.Millisecond}} {
		t.Run(spec.String(), func(t *testing.T) {
			must(t, n.Shape("a", spec))
			n.serve(t, "b", "7")
			c := n.mustDial(t, "a", "b", "7")
			mustEcho(t, c)
			must(t, n.Cut("a"))
			must(t, n.Cut("a"))
			if err := echo(c, time.Now().Add(silence)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("over a link that is cut: %v", err)
			}
			must(t, n.Mend("a"))
			must(t, n.Mend("a"))
			// The same connection goes on where it was: the lost word comes too.
			must(t, c.SetDeadline(time.Now().Add(patience)))
			if _, err := io.ReadFull(c, make([]byte, len("are you there?"))); err != nil {
				t.Fatalf("after mending: %v", err)
			}
			mustEcho(t, c)
		})
	}
}

func TestT2BlockedPortsDropSilently(t *testing.T) {
	n := newNet2(t)
	n.serve(t, "b", "50")
	n.serve(t, "b", "60")
	old := n.mustDial(t, "a", "b", "50")
	mustEcho(t, old)
	ports := Ports{Low: 49, High: 55}
	must(t, n.Block("b", ports))
	must(t, n.Block("b", ports))
	list, err := n.Blocked("b")
	if err != nil || len(list) != 1 || list[0] != ports {
		t.Errorf("blocked: %v, %v", list, err)
	}
	ctx, stop := context.WithTimeout(t.Context(), silence)
	defer stop()
	c, err := n.dial(ctx, "a", "b", "50")
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("dial to a blocked port: %v, want no answer at all", err)
	}
	if err := echo(old, time.Now().Add(silence)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an old connection to a blocked port: %v", err)
	}
	mustEcho(t, n.mustDial(t, "a", "b", "60"))
	must(t, n.Unblock("b", ports))
	must(t, n.Unblock("b", ports))
	mustEcho(t, n.mustDial(t, "a", "b", "50"))
	if list, _ := n.Blocked("b"); len(list) != 0 {
		t.Errorf("still blocked: %v", list)
	}
}

func TestT2NoListenerIsRefused(t *testing.T) {
	n := newNet2(t)
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if _, err := n.dial(ctx, "a", "b", "9"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial without a listener: %v; moving the local rule has broken something", err)
	}
}

func TestT2DelayAndBack(t *testing.T) {
	n := newNet2(t)
	n.serve(t, "b", "7")
	c := n.mustDial(t, "a", "b", "7")
	for _, spec := range []link.Spec{{Delay: 20 * time.Millisecond}, {Delay: 40 * time.Millisecond, Rate: 1e8}, {}, {Delay: time.Millisecond}} {
		must(t, n.Shape("a", spec))
		must(t, n.Shape("b", spec))
		begin := time.Now()
		mustEcho(t, c)
		if took := time.Since(begin); took < 2*spec.Delay {
			t.Errorf("%v: there and back in %v", spec, took)
		}
	}
}

func TestT2LargeFramesPassAForwarder(t *testing.T) {
	n := newNet2(t)
	n.serve(t, "b", "7")
	must(t, n.Shape("a", link.Spec{Delay: time.Millisecond}))
	c := n.mustDial(t, "a", "b", "7")
	must(t, c.SetDeadline(time.Now().Add(patience)))
	const size = 8 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		sent <- err
	}()
	if got, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Fatalf("%d bytes came back: %v", got, err)
	}
	must(t, <-sent)
	count, err := n.Counters("a")
	if err != nil || count.SentBytes < size || count.ReceivedBytes < size {
		t.Errorf("counters %+v, %v after %d bytes each way", count, err, size)
	}
}

func TestT2LossIsRealAndSurvived(t *testing.T) {
	n := newNet2(t)
	n.serve(t, "b", "7")
	must(t, n.Shape("a", link.Spec{Loss: 0.02, Seed: 3}))
	c := n.mustDial(t, "a", "b", "7")
	must(t, c.SetDeadline(time.Now().Add(patience)))
	const size = 512 << 10
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		sent <- err
	}()
	if _, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Fatal(err)
	}
	must(t, <-sent)
	if lost := n.cables["a"].fwd.Drops().Lost; lost == 0 {
		t.Error("no frame was lost")
	}
}

func TestT2Refusals(t *testing.T) {
	n := newNet2(t)
	for what, err := range map[string]error{
		"host":  n.Cut("c"),
		"spec":  n.Shape("a", link.Spec{Loss: 3}),
		"ports": n.Block("a", Ports{Low: 5, High: 4}),
		"port":  n.Block("a", Ports{}),
	} {
		if err == nil {
			t.Errorf("a wrong %s is accepted", what)
		}
	}
	must(t, n.Close())
	if err := n.Cut("a"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
}

func TestPortsString(t *testing.T) {
	for want, p := range map[string]Ports{"7": {7, 7}, "7-9": {7, 9}} {
		if p.String() != want {
			t.Errorf("%v, want %s", p, want)
		}
	}
}

// BenchmarkLink reports what a shaped link carries from a to b.
func BenchmarkLink(b *testing.B) {
	for _, text := range []string{"unlimited", "10gbit", "1gbit", "100mbit", "1gbit,delay=2ms", "unlimited,delay=1ms"} {
		b.Run(text, func(b *testing.B) { benchLink(b, text) })
	}
}
