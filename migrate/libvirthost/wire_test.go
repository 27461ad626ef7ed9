package libvirthost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestReadPacketBoundsItsLength(t *testing.T) {
	good := packet(header{prog: progRemote, vers: 1, proc: 7, typ: typeReply, serial: 3}, []byte("body"))
	b, err := readPacket(bytes.NewReader(good))
	if err != nil || !bytes.Equal(b, good) {
		t.Fatalf("good packet: %x, %v", b, err)
	}
	if h := parseHeader(b); h != (header{prog: progRemote, vers: 1, proc: 7, typ: typeReply, serial: 3}) {
		t.Errorf("header %+v", h)
	}
	for _, n := range []uint32{0, 1, 27, maxPacket + 1, 1 << 31, 1<<32 - 1} {
		var word [4]byte
		binary.BigEndian.PutUint32(word[:], n)
		if _, err := readPacket(bytes.NewReader(append(word[:], good...))); err == nil {
			t.Errorf("length %d was accepted", n)
		}
	}
	if _, err := readPacket(bytes.NewReader(good[:len(good)-1])); !errors.Is(err, io.EOF) {
		t.Errorf("broken off: %v", err)
	}
}

// TestReadPacketTakesMemoryAsBytesArrive: 32 MiB announced and four bytes sent must not cost 32 MiB.
func TestReadPacketTakesMemoryAsBytesArrive(t *testing.T) {
	var word [4]byte
	binary.BigEndian.PutUint32(word[:], maxPacket)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = readPacket(bytes.NewReader(word[:]))
		}
	})
	if n := got.AllocedBytesPerOp(); n > 4*growPacket {
		t.Errorf("%d bytes were allocated", n)
	}
}

func TestWireTakesPacketsOut(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	var taken []uint32
	w := newWire(here, func(h header, _ []byte) bool {
		if h.typ == typeMessage {
			taken = append(taken, h.proc)
		}
		return h.typ == typeMessage
	})
	keep := packet(header{proc: 2, typ: typeReply}, []byte("keep"))
	done := make(chan error, 1)
	go func() {
		_, err := there.Write(append(append(packet(header{proc: 1, typ: typeMessage}, nil), keep...), packet(header{proc: 3, typ: typeMessage}, nil)...))
		there.Close()
		done <- err
	}()
	got, err := io.ReadAll(w)
	if !bytes.Equal(got, keep) || err == nil {
		t.Errorf("read %x, %v; want only the reply and then an error", got, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(taken) != 2 || taken[0] != 1 || taken[1] != 3 {
		t.Errorf("taken %v", taken)
	}
	if w.reason() == nil {
		t.Error("the wire does not know that it is dead")
	}
	var ne net.Error
	if errors.As(err, &ne) {
		t.Errorf("%v is a net.Error, which go-libvirt would read again after for ever", err)
	}
}

// TestWireWritesWholePackets: a keepalive never falls into the middle of one of go-libvirt's packets.
func TestWireWritesWholePackets(t *testing.T) {
	here, there := net.Pipe()
	w := newWire(here, nil)
	defer w.Close()
	long := packet(header{proc: 9}, make([]byte, 10000))
	go func() {
		defer w.Close()
		for b := long; len(b) > 0; {
			n := min(4096, len(b))
			if _, err := w.Write(b[:n]); err != nil {
				return
			}
			b = b[n:]
			if len(b) > 0 {
				_ = w.inject(keepalive(procPing))
			}
		}
	}()
	var procs []uint32
	for {
		b, err := readPacket(there)
		if err != nil {
			break
		}
		procs = append(procs, parseHeader(b).proc)
	}
	if len(procs) != 3 || procs[0] != procPing || procs[1] != procPing || procs[2] != 9 {
		t.Errorf("packets came as %v", procs)
	}
}

func TestWireRefusesToSendNonsense(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	w := newWire(here, nil)
	if _, err := w.Write([]byte{0, 0, 0, 1}); err == nil || w.reason() == nil {
		t.Error("a packet of one byte was taken")
	}
}

func FuzzReadPacket(f *testing.F) {
	f.Add(packet(header{}, []byte("x")))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 27})
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := readPacket(bytes.NewReader(in))
		if err == nil && (len(b) < headSize || len(b) > len(in)) {
			t.Errorf("%d bytes out of %d", len(b), len(in))
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(uint32(progQEMU), uint32(procMonitorEvent), monitorPayload("g", "STOP", 5, 6, ""))
	f.Add(uint32(progRemote), uint32(procLifecycle), lifecyclePayload("g", 5, 3))
	f.Add(uint32(progRemote), uint32(procIteration), lifecyclePayload("g", 5, 3))
	f.Add(uint32(progRemote), uint32(procIOErrorReason), []byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, prog, proc uint32, in []byte) {
		ev, ok, err := decodeEvent(header{prog: prog, proc: proc, typ: typeMessage}, in, time.Time{}, true)
		if err != nil && (!ok || ev.Kind != "") {
			t.Errorf("%+v, %v, %v", ev, ok, err)
		}
		_, _ = parseAuthList(in)
		_, _ = parseError(in)
	})
}
