package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// pair is a connection whose directions can be closed one by one.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(a.Close(), b.Close()) })
	return a, b
}

func message(kind uint16, body ...byte) []byte {
	p := binary.BigEndian.AppendUint16(nil, kind)
	p = binary.BigEndian.AppendUint16(p, uint16(len(body)))
	return append(p, body...)
}

// relayed is a relay with both of its ends in our hands.
type relayed struct {
	source, qemu net.Conn // what QEMU has on either side
	gate         *gate
	done         chan error
}

func startRelay(t *testing.T) *relayed {
	t.Helper()
	r := &relayed{gate: newGate(), done: make(chan error, 1)}
	var peer, local net.Conn
	r.source, peer = pair(t)
	r.qemu, local = pair(t)
	go func() { r.done <- relay(peer, local, r.gate) }()
	return r
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

func write(t *testing.T, c net.Conn, p []byte) {
	t.Helper()
	if _, err := c.Write(p); err != nil {
		t.Fatal(err)
	}
}

// What the source sends once it has heard of the acknowledgement does not pass before the gate is opened.
func TestNothingPassesBetweenAckAndRelease(t *testing.T) {
	r := startRelay(t)
	write(t, r.source, []byte("setup"))
	r.gate.pass()
	read(t, r.qemu, "setup")
	if err := r.gate.ready(); !errors.Is(err, errAckMissing) {
		t.Fatalf("ready before the acknowledgement: %v", err)
	}
	ack := message(returnAck)
	write(t, r.qemu, ack)
	read(t, r.source, string(ack))
	if err := r.gate.ready(); err != nil {
		t.Fatal(err)
	}
	write(t, r.source, []byte("state"))
	// A message that goes all the way round was written after the state, and comes back while the state is held.
	pong := message(2, 0, 0, 0, 1)
	write(t, r.qemu, pong)
	read(t, r.source, string(pong))
	if n := passed(t, r.qemu); n != 0 {
		t.Fatalf("%d bytes of the device state passed the closed gate", n)
	}
	r.gate.open()
	read(t, r.qemu, "state")
	shut := message(1, 0, 0, 0, 0)
	write(t, r.qemu, shut)
	read(t, r.source, string(shut))
	if err := errors.Join(r.source.Close(), r.qemu.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
}

// passed is how many bytes are there to be read without waiting.
func passed(t *testing.T, c net.Conn) int {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := raw.Read(func(fd uintptr) bool {
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Before the gate is told to let anything pass it holds everything.
func TestGateHoldsFromTheBeginning(t *testing.T) {
	r := startRelay(t)
	write(t, r.source, []byte("setup"))
	pong := message(2, 0, 0, 0, 1)
	write(t, r.qemu, pong)
	read(t, r.source, string(pong))
	if n := passed(t, r.qemu); n != 0 {
		t.Fatalf("%d bytes passed", n)
	}
	r.gate.end(net.ErrClosed)
	_ = errors.Join(r.source.Close(), r.qemu.Close())
	if err := <-r.done; err == nil {
		t.Fatal("a relay that lost its stream reports success")
	}
}

// A source that is gone in the middle is no end of a stream: the destination's QEMU must not take the state for whole.
func TestHeldStateOfADeadSourceGoesNowhere(t *testing.T) {
	r := startRelay(t)
	r.gate.pass()
	write(t, r.qemu, message(returnAck))
	read(t, r.source, string(message(returnAck)))
	write(t, r.source, []byte("half of the st"))
	_ = r.source.(*net.TCPConn).SetLinger(0) // a reset, as from a host that died
	_ = r.source.Close()
	r.gate.end(context.Canceled)
	if b, _ := io.ReadAll(r.qemu); len(b) != 0 {
		t.Fatalf("the waiting QEMU got %q", b)
	}
	if err := <-r.done; err == nil {
		t.Fatal("no error")
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add(append(message(2, 1, 2, 3), message(returnAck)...))
	f.Add(message(returnRecvBitmap, 3, 'r', 'a', 'm'))
	f.Fuzz(func(t *testing.T, p []byte) {
		g := newGate()
		var out bytes.Buffer
		g.back = &out
		err := answer(bytes.NewReader(p), g)
		if err == nil {
			t.Fatal("answers without an end")
		}
		if !bytes.HasPrefix(p, out.Bytes()) {
			t.Fatal("other answers came out than went in")
		}
	})
}
