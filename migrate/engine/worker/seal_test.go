package worker

import (
	"errors"
	"io"
	"net"
	"testing"
)

// The source's QEMU hears that all has arrived while the state is still held, and nothing of what the destination says later: a
// source that waits for that answer runs its guest again when it is lost, though the destination runs it, too.
func TestTheSourceIsDoneBeforeTheDestinationRuns(t *testing.T) {
	r := startRelay(t)
	if err := r.gate.seal(false); err == nil {
		t.Fatal("sealed before the acknowledgement")
	}
	r.gate.pass()
	ack, shut := message(returnAck), message(returnShut, 0, 0, 0, 0)
	write(t, r.qemu, ack)
	read(t, r.source, string(ack))
	write(t, r.source, []byte("state"))
	if err := r.gate.seal(false); err != nil {
		t.Fatal(err)
	}
	read(t, r.source, string(shut))
	if n := passed(t, r.qemu); n != 0 {
		t.Fatalf("%d bytes passed", n)
	}
	if err := r.source.(*net.TCPConn).CloseWrite(); err != nil { // it has completed
		t.Fatal(err)
	}
	r.gate.open()
	read(t, r.qemu, "state")
	write(t, r.qemu, message(returnShut, 0, 0, 0, 1))
	if err := r.qemu.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r.source); len(b) != 0 || err != nil {
		t.Fatalf("the source, which is done, hears %q, %v", b, err)
	}
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
}

// A source that hangs up before it was told that it may has taken its guest back.
func TestNoSwitchForASourceThatHungUp(t *testing.T) {
	r := startRelay(t)
	r.gate.pass()
	write(t, r.qemu, message(returnAck))
	read(t, r.source, string(message(returnAck)))
	write(t, r.source, []byte("all of the state"))
	if err := r.source.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	<-r.gate.over
	if err := r.gate.seal(false); !errors.Is(err, errStreamEnded) {
		t.Fatalf("sealed: %v", err)
	}
	r.gate.end(net.ErrClosed)
	_ = errors.Join(r.source.Close(), r.qemu.Close())
	<-r.done
}
