package libvirthost

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func openFake(t *testing.T, f *fake) *Host {
	t.Helper()
	f.t = t
	h, err := Open(t.Context(), f.listen(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestOpenAndCloseTwice(t *testing.T) {
	f := &fake{}
	h := openFake(t, f)
	for range 2 {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.Domains(t.Context()); !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("a call on a closed connection: %v", err)
	}
	if _, err := h.Watch(t.Context(), "g"); !errors.Is(err, migrate.ErrLinkLost) {
		t.Errorf("Watch on a closed connection: %v", err)
	}
	if len(h.hub.subs) != 0 {
		t.Error("a subscription is left")
	}
}

func TestAuthentication(t *testing.T) {
	for _, c := range []struct {
		kinds []uint32
		ok    bool
	}{{[]uint32{0}, true}, {[]uint32{1, 0}, true}, {[]uint32{1}, false}, {[]uint32{9}, false}, {[]uint32{}, false}} {
		f := &fake{t: t, auth: c.kinds}
		h, err := Open(t.Context(), f.listen(), Options{})
		if (err == nil) != c.ok {
			t.Errorf("%v: %v", c.kinds, err)
		}
		if err == nil {
			h.Close()
			continue
		}
		if !errors.Is(err, migrate.ErrNotSupported) || !strings.Contains(migrate.FixOf(err), "qemu+ssh") {
			t.Errorf("%v: %v (fix %q)", c.kinds, err, migrate.FixOf(err))
		}
	}
}

// TestOpenOfASilentDaemon: one that accepts and says nothing.
func TestOpenOfASilentDaemon(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Open(t.Context(), "qemu+unix:///system?socket="+l.Addr().String(), Options{DialTimeout: 50 * time.Millisecond})
	if !errors.Is(err, migrate.ErrLinkLost) || !strings.Contains(err.Error(), "does not answer in time") || migrate.FixOf(err) == "" {
		t.Errorf("%v (fix %q)", err, migrate.FixOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, "qemu+unix:///system?socket="+l.Addr().String(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

func TestOpenWithoutADaemon(t *testing.T) {
	_, err := Open(t.Context(), "qemu+unix:///system?socket="+t.TempDir()+"/none", Options{})
	if !errors.Is(err, migrate.ErrLinkLost) || !strings.Contains(migrate.FixOf(err), "start libvirt") {
		t.Errorf("%v (fix %q)", err, migrate.FixOf(err))
	}
}

// TestCallOutlivesItsContext: the waiter leaves, the connection stays usable, and the late answer is dropped.
func TestCallOutlivesItsContext(t *testing.T) {
	held := make(chan call, 1)
	f := &fake{script: func(_ *fake, c call) []byte {
		if c.proc == 34 { // DOMAIN_SUSPEND
			held <- c
			return nil
		}
		return hostnameReply(c, "there")
	}}
	h := openFake(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := do(ctx, h.c, func(l *libvirt.Libvirt) (struct{}, error) {
			return struct{}{}, l.DomainSuspend(libvirt.Domain{Name: "g"})
		})
		done <- err
	}()
	c := <-held
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the waiter got %v", err)
	}
	f.send(reply4(c))
	if n, err := look(t.Context(), h.c, (*libvirt.Libvirt).ConnectGetHostname); n != "there" || err != nil {
		t.Errorf("the next call: %q, %v", n, err)
	}
}

func hostnameReply(c call, name string) []byte {
	return packet(header{prog: c.prog, vers: 1, proc: c.proc, typ: typeReply, serial: c.serial}, xdrString(name))
}

// TestLooksLeaveRoom: however many looks hang, a call that changes something still goes out.
func TestLooksLeaveRoom(t *testing.T) {
	got := make(chan call, 10)
	f := &fake{script: func(_ *fake, c call) []byte {
		if c.proc == 34 {
			return reply4(c)
		}
		got <- c
		return nil
	}}
	h := openFake(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 4)
	for range 4 {
		go func() {
			_, err := look(ctx, h.c, (*libvirt.Libvirt).ConnectGetHostname)
			done <- err
		}()
	}
	for range maxLooks {
		<-got
	}
	if _, err := do(t.Context(), h.c, func(l *libvirt.Libvirt) (struct{}, error) { return struct{}{}, l.DomainSuspend(libvirt.Domain{}) }); err != nil {
		t.Error(err)
	}
	cancel()
	for range 4 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if len(got) != 0 {
		t.Error("more looks were sent than there is room for")
	}
}

// TestStateOfABusyDomain: libvirt does not tell of the job, and State says so soon instead of waiting with it.
func TestStateOfABusyDomain(t *testing.T) {
	f := &fake{script: func(_ *fake, c call) []byte {
		switch c.proc {
		case 23: // DOMAIN_LOOKUP_BY_NAME
			b := append(xdrString("g"), make([]byte, 20)...)
			return packet(header{prog: c.prog, vers: 1, proc: c.proc, typ: typeReply, serial: c.serial}, b)
		case 212: // DOMAIN_GET_STATE
			return reply4(c, uint32(libvirt.DomainPaused), uint32(libvirt.DomainPausedMigration))
		}
		return nil
	}}
	h := openFake(t, f)
	h.patience = 10 * time.Millisecond
	for range 4 {
		s, err := h.State(t.Context(), "g")
		if err != nil || s.Run != migrate.RunMigrated || !s.Job {
			t.Errorf("%+v, %v", s, err)
		}
	}
	asked := 0
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c.proc == 298 { // DOMAIN_GET_JOB_STATS
			asked++
		}
	}
	if asked != maxSlow {
		t.Errorf("%d questions hang in the daemon, want %d", asked, maxSlow)
	}
}

// TestMalformedPackets are the ones that panic go-libvirt or have it allocate what they say.
func TestMalformedPackets(t *testing.T) {
	for name, n := range map[string]uint32{"shorter than a header": 8, "4 GiB": 1<<32 - 1} {
		f := &fake{script: func(*fake, call) []byte { return binary.BigEndian.AppendUint32(nil, n) }}
		h := openFake(t, f)
		_, err := h.Domains(t.Context())
		if !errors.Is(err, migrate.ErrLinkLost) || !strings.Contains(err.Error(), "malformed packet") {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case <-h.Lost():
		default:
			t.Errorf("%s: the connection is not known to be lost", name)
		}
	}
}

// TestMalformedAnswer: a list that claims more than there is ends the call, not the process.
func TestMalformedAnswer(t *testing.T) {
	f := &fake{script: func(_ *fake, c call) []byte { return reply4(c, 1<<31-1, 0, 0) }}
	h := openFake(t, f)
	if _, err := look(t.Context(), h.c, (*libvirt.Libvirt).ConnectGetHostname); err == nil {
		t.Error("a string of 2 GiB in twelve bytes was accepted")
	}
}

func TestErrorsOfTheDaemon(t *testing.T) {
	f := &fake{script: func(_ *fake, c call) []byte { return failure(c, uint32(libvirt.ErrNoDomain), "no domain 'x'") }}
	h := openFake(t, f)
	_, err := h.State(t.Context(), "x")
	if !errors.Is(err, migrate.ErrNoDomain) || !strings.Contains(err.Error(), "no domain 'x'") || migrate.FixOf(err) == "" {
		t.Errorf("%v (fix %q)", err, migrate.FixOf(err))
	}
}

// TestDaemonDies: everything that waits returns, and subscriptions end.
func TestDaemonDies(t *testing.T) {
	f := &fake{script: func(f *fake, c call) []byte {
		switch {
		case c.prog == progQEMU, c.proc == 316:
			return reply4(c, 1)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.conn.Close()
		return nil
	}}
	h := openFake(t, f)
	events, err := h.Watch(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	f.send(packet(header{prog: progQEMU, vers: 1, proc: procMonitorEvent, typ: typeMessage}, monitorPayload("g", "STOP", 1, 2, "")))
	if e := <-events; e.Kind != migrate.EventStop || e.At.IsZero() || e.Seen.IsZero() {
		t.Errorf("event %+v", e)
	}
	if _, err := h.Domains(t.Context()); !errors.Is(err, migrate.ErrLinkLost) || !strings.Contains(err.Error(), "closed it") {
		t.Error(err)
	}
	if _, ok := <-events; ok {
		t.Error("an event came after the end")
	}
}

// TestPulse: pings go out, pongs come back for the daemon's, and silence ends the connection.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		p := newPulse()
		p.ping = true
		w := newWire(here, func(h header, _ []byte) bool { return p.take(h) })
		p.w = w
		done := make(chan struct{})
		go func() { defer close(done); p.run(time.Second) }()
		reader := make(chan struct{})
		go func() {
			defer close(reader)
			_, _ = w.Read(make([]byte, 1))
		}()
		synctest.Wait()
		if _, err := there.Write(keepalive(procPing)); err != nil {
			t.Fatal(err)
		}
		if b, err := readPacket(there); err != nil || parseHeader(b).proc != procPong {
			t.Fatalf("the answer to a ping: %x, %v", b, err)
		}
		start, pings := time.Now(), 0
		for {
			if _, err := readPacket(there); err != nil {
				break
			}
			pings++
		}
		<-done
		<-reader
		if pings != pingLimit || time.Since(start) != (pingLimit+1)*time.Second {
			t.Errorf("%d pings in %v", pings, time.Since(start))
		}
		if err := w.reason(); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Errorf("reason %v", err)
		}
	})
}

// TestWriteDeadline: a daemon that takes no data is gone, too.
func TestWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer there.Close()
		w := newWire(here, nil)
		start := time.Now()
		err := w.inject(keepalive(procPing))
		if err == nil || time.Since(start) != writeTimeout || !strings.Contains(w.reason().Error(), "took no data") {
			t.Errorf("%v after %v, %v", err, time.Since(start), w.reason())
		}
	})
}
