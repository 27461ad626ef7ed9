package libvirthost

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv"
)

// seenFrom is a path of a host as it is reached from outside.
func seenFrom(h *testenv.Host, path string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.PID(), path)
}

// stream passes QEMU's stream on from a socket at one host to a socket at the other. It holds back what the source sends
// after the destination has said that it is ready for the switch, until open is closed. A plain one passes on any bytes.
type stream struct {
	plain bool
	t     *testing.T
	l     net.Listener
	to    string
	ready chan struct{} // closed when the destination is ready for the switch
	open  chan struct{}
	cut   chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func newStream(t *testing.T, from, to string, plain bool) *stream {
	t.Helper()
	l, err := net.Listen("unix", from)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{plain: plain, t: t, l: l, to: to, ready: make(chan struct{}), open: make(chan struct{}), cut: make(chan struct{})}
	s.wg.Go(s.serve)
	t.Cleanup(s.close)
	return s
}

func (s *stream) close() {
	s.once.Do(func() { close(s.cut) })
	s.l.Close()
	s.wg.Wait()
}

func (s *stream) serve() {
	in, err := s.l.Accept()
	if err != nil {
		return
	}
	defer in.Close()
	out, err := net.Dial("unix", s.to)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer out.Close()
	var pumps sync.WaitGroup
	pumps.Go(func() { s.forward(out, in) })
	pumps.Go(func() { s.back(in, out) })
	done := make(chan struct{})
	go func() {
		pumps.Wait()
		close(done)
	}()
	select {
	case <-s.cut:
	case <-done:
	}
	in.Close()
	out.Close()
	<-done
}

// forward holds back what it has to in memory, so that the source never waits for room: it would not stop the guest.
func (s *stream) forward(out, in net.Conn) {
	defer out.(*net.UnixConn).CloseWrite()
	chunks := make(chan []byte, 1<<12) // more than the device state and what RAM QEMU sends itself
	s.wg.Go(func() {
		defer close(chunks)
		for {
			buf := make([]byte, 64<<10)
			n, err := in.Read(buf)
			select {
			case chunks <- buf[:n]:
			case <-s.cut:
				return
			}
			if err != nil {
				return
			}
		}
	})
	for c := range chunks {
		select {
		case <-s.ready:
			select {
			case <-s.open:
			case <-s.cut:
				return
			}
		default:
		}
		if _, err := out.Write(c); err != nil {
			return
		}
	}
}

// back passes the return path on, message by message: a type, a length, and so many bytes.
func (s *stream) back(in, out net.Conn) {
	if s.plain {
		_, _ = io.Copy(in, out) // either end may go first
		return
	}
	const switchoverAck = 7
	for {
		var head [4]byte
		if _, err := io.ReadFull(out, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint16(head[2:]))
		if _, err := io.ReadFull(out, body); err != nil {
			return
		}
		if binary.BigEndian.Uint16(head[:]) == switchoverAck {
			close(s.ready) // before the source hears of it
		}
		if _, err := in.Write(append(head[:], body...)); err != nil {
			return
		}
	}
}

// sharedWay is a migration of a guest whose RAM the test moves itself.
type sharedWay struct {
	*way
	stream *stream
	stops  <-chan migrate.GuestEvent
	qmp    string
}

func sharedParams(t *testing.T) migrate.Params {
	return migrate.Params{Strategy: migrate.StrategyPrecopy, SharedRAM: true, MigrateURI: "unix://" + images + "/in"}
}

// share begins a migration over unix sockets, with a second monitor at the destination, and tells both QEMUs to leave the
// RAM out.
func (p *pair) share(ctx context.Context, params migrate.Params) *sharedWay {
	p.t.Helper()
	w := &sharedWay{way: p.begin(ctx, params)}
	var err error
	w.stops, err = p.a.Watch(ctx, p.name)
	if err != nil {
		p.t.Fatal(err)
	}
	at, err := p.b.Place(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	if w.offer.XML, w.qmp, err = WithMonitor(w.offer.XML, filepath.Join(at.SocketDir, "vmmigrate.qmp")); err != nil {
		p.t.Fatal(err)
	}
	w.prepare(ctx)
	if w.ticket.URI != params.MigrateURI {
		p.t.Errorf("the ticket says %s", w.ticket.URI)
	}
	p.leaveOut(ctx, p.monitorOfSource(ctx))
	second, err := qmp.Dial(ctx, "unix", seenFrom(p.hostB, w.qmp))
	if err != nil {
		p.t.Fatal(err)
	}
	p.leaveOut(ctx, second)
	if err := second.Close(); err != nil {
		p.t.Error(err)
	}
	w.stream = newStream(p.t, filepath.Join(p.hostA.ImagesDir(), "out"), filepath.Join(p.hostB.ImagesDir(), "in"), false)
	w.ticket.URI = "unix://" + images + "/out"
	return w
}

func (p *pair) monitorOfSource(ctx context.Context) qmp.Executor {
	p.t.Helper()
	x, err := p.a.Monitor(ctx, p.name)
	if err != nil {
		p.t.Fatal(err)
	}
	return x
}

func (p *pair) leaveOut(ctx context.Context, x qmp.Executor) {
	p.t.Helper()
	if err := qmp.SetMigrateCapabilities(ctx, x, qmp.Capabilities{qmp.CapIgnoreShared: true}); err != nil {
		p.t.Fatal(err)
	}
}

// standing starts Perform and returns when the guest stands still and the destination waits for the state of its devices.
func (w *sharedWay) standing(ctx context.Context) {
	w.t.Helper()
	go func() {
		t, err := w.a.Perform(ctx, w.offer, w.params, w.ticket)
		if err == nil {
			w.ticket = t
		}
		w.perf <- err
	}()
	for {
		select {
		case e, ok := <-w.stops:
			if !ok {
				w.t.Fatal("no more events")
			}
			if e.Kind == migrate.EventStop {
				return
			}
		case err := <-w.perf:
			w.t.Fatal("Perform ended: ", err)
		case <-ctx.Done():
			w.t.Fatal("the guest does not stand still")
		}
	}
}

// ramOf is the file with the guest's RAM at a host.
func (p *pair) ramOf(h *testenv.Host) string {
	p.t.Helper()
	found, err := filepath.Glob(seenFrom(h, "/dev/shm/ram/libvirt/qemu/*-"+p.name+"/pc.ram"))
	if err != nil || len(found) != 1 {
		p.t.Fatalf("the guest's RAM: %v, %v", found, err)
	}
	return found[0]
}

func (p *pair) moveRAM() {
	p.t.Helper()
	b, err := os.ReadFile(p.ramOf(p.hostA))
	if err != nil {
		p.t.Fatal(err)
	}
	f, err := os.OpenFile(p.ramOf(p.hostB), os.O_WRONLY, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// TestT4SharedRAM: the five phases over unix sockets that lead through other hands, with the RAM moved by the test, for a
// guest without disks and for one whose disk libvirt copies.
func TestT4SharedRAM(t *testing.T) {
	for name, disks := range map[string]string{"no disk": "", "disk over tcp": "tcp://%s", "disk over a unix socket": "unix://" + images + "/disks"} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			g, params := guestConfig{shared: true}, sharedParams(t)
			lab := theLab.up(t)
			copied := ""
			if disks != "" {
				image(t, mustHost(t, lab, "a"), "disk.img", 0xd1)
				copied = image(t, mustHost(t, lab, "b"), "disk.img", 0)
				g.disk, params.CopyStorage, params.DisksURI = "disk.img", migrate.CopyAll, disks
				if name == "disk over tcp" {
					params.DisksURI = fmt.Sprintf(disks, mustHost(t, lab, "b").Address())
				}
			}
			p := newPair(ctx, t, g)
			w := p.share(ctx, params)
			if name == "disk over a unix socket" {
				newStream(t, filepath.Join(p.hostA.ImagesDir(), "disks"), filepath.Join(p.hostB.ImagesDir(), "disks"), true)
			}
			w.standing(ctx)
			<-w.stream.ready
			p.moveRAM()
			opened := time.Now()
			close(w.stream.open)
			if err := <-w.perf; err != nil {
				t.Fatal(err)
			}
			performed := time.Since(opened)
			if s, err := p.a.Stats(ctx, p.name); err != nil || s.RAMTotal == nil || *s.RAMTotal >= 40<<20 {
				t.Errorf("libvirt sent the RAM: %+v, %v", s.RAMTotal, err)
			}
			w.finished(ctx)
			t.Logf("after the gate opened: Perform %v, Finish %v", performed, time.Since(opened))
			if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, true); err != nil {
				t.Error(err)
			}
			p.whole(ctx, migrate.SideDestination)
			if copied != "" {
				if b, err := os.ReadFile(copied); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{0xd1}, 1<<20)) {
					t.Errorf("the disk did not arrive: %v", err)
				}
			}
		})
	}
}

// TestT4SharedRAMKeepsTheChecks: that somebody else moves the RAM makes no disk safe that is not shared.
func TestT4SharedRAMKeepsTheChecks(t *testing.T) {
	ctx := testContext(t)
	image(t, mustHost(t, theLab.up(t), "a"), "disk.img", 0xd1)
	p := newPair(ctx, t, guestConfig{shared: true, disk: "disk.img"})
	if _, err := p.a.Begin(ctx, p.name, sharedParams(t)); err == nil || migrate.FixOf(err) == "" {
		t.Errorf("a disk that is not shared may go along: %v (fix %q)", err, migrate.FixOf(err))
	}
}

// TestT4SharedRAMFinishEarly: told before, libvirt runs the guest at the destination as soon as it has the devices' state,
// without waiting for anybody; and removes it if that state never comes.
func TestT4SharedRAMFinishEarly(t *testing.T) {
	for name, lost := range map[string]bool{"landed": false, "stream lost": true} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			p := newPair(ctx, t, guestConfig{shared: true})
			params := sharedParams(t)
			if !p.b.FinishesEarly(params) {
				t.Fatal("this migration cannot be finished early")
			}
			w := p.share(ctx, params)
			ticket := w.ticket
			w.standing(ctx)
			<-w.stream.ready
			p.moveRAM()
			done := make(chan error, 1)
			go func() { done <- p.b.Finish(ctx, w.offer, w.params, ticket, true) }()
			w.until(ctx, "Finish is under way", func() bool { return len(w.b.c.calls) > 0 })
			if _, err := w.b.Domains(ctx); err != nil { // answered behind Finish, so that has been read as well
				t.Fatal(err)
			}
			if r := p.runOf(ctx, p.b); r != migrate.RunIncoming {
				t.Errorf("before the state has come it is %s", r)
			}
			if lost {
				w.stream.close()
				if err := <-w.perf; err == nil {
					t.Error("Perform succeeded without a stream")
				}
				if err := <-done; !errors.Is(err, migrate.ErrNotLanded) {
					t.Errorf("Finish without a guest: %v", err)
				}
				p.want(ctx, migrate.RunRunning, "", false)
				p.whole(ctx, migrate.SideSource)
				return
			}
			opened := time.Now()
			close(w.stream.open)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			t.Logf("after the gate opened: Finish %v", time.Since(opened))
			if r := p.runOf(ctx, p.b); r != migrate.RunRunning {
				t.Errorf("after Finish it is %s", r)
			}
			if err := <-w.perf; err != nil {
				t.Fatal(err)
			}
			if err := p.a.Confirm(ctx, w.offer, w.params, w.ticket, true); err != nil {
				t.Error(err)
			}
			p.whole(ctx, migrate.SideDestination)
		})
	}
}
