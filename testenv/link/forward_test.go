package link

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cable is a pair of devices: what is written to one is read from the other.
func cable(t *testing.T) (device, end *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	device, end = os.NewFile(uintptr(fds[0]), "device"), os.NewFile(uintptr(fds[1]), "end")
	t.Cleanup(func() { device.Close(); end.Close() })
	return device, end
}

// bench is a host's end and a network's end with a forwarder between them.
func bench(t *testing.T, spec Spec) (f *Forwarder, host, network *os.File) {
	t.Helper()
	near, host := cable(t)
	far, network := cable(t)
	f, err := Forward(near, far, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
	return f, host, network
}

func frame(i int) []byte { return fmt.Appendf(nil, "frame %d", i) }

// read reads one frame.
func read(t *testing.T, from *os.File) []byte {
	t.Helper()
	buf := make([]byte, maxFrame)
	n, err := from.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func write(t *testing.T, to *os.File, frame []byte) {
	t.Helper()
	if _, err := to.Write(frame); err != nil {
		t.Fatal(err)
	}
}

func TestForwardKeepsFramesWholeAndInOrder(t *testing.T) {
	for _, spec := range []Spec{{}, {Delay: 5 * time.Millisecond}} {
		_, host, network := bench(t, spec)
		for i := range 50 {
			write(t, host, frame(i))
			write(t, network, frame(1000+i))
		}
		large := bytes.Repeat([]byte("x"), 64<<10)
		write(t, host, large)
		for i := range 50 {
			if got := read(t, network); !bytes.Equal(got, frame(i)) {
				t.Fatalf("%v: frame %d arrives as %q", spec, i, got)
			}
			if got := read(t, host); !bytes.Equal(got, frame(1000+i)) {
				t.Fatalf("%v: frame %d the other way arrives as %q", spec, i, got)
			}
		}
		if got := read(t, network); !bytes.Equal(got, large) {
			t.Fatalf("%v: a frame of 64 KiB arrives with %d bytes", spec, len(got))
		}
	}
}

// chanDevice is a Device for fake time: frames go through channels.
type chanDevice struct {
	in, out chan []byte
	stop    chan struct{}
}

func newChanDevice() *chanDevice {
	return &chanDevice{in: make(chan []byte), out: make(chan []byte, 100), stop: make(chan struct{})}
}

func (d *chanDevice) Read(p []byte) (int, error) {
	select {
	case f := <-d.in:
		return copy(p, f), nil
	case <-d.stop:
		return 0, os.ErrClosed
	}
}

func (d *chanDevice) Write(p []byte) (int, error) {
	d.out <- bytes.Clone(p)
	return len(p), nil
}

func (d *chanDevice) SetDeadline(when time.Time) error {
	if !when.IsZero() {
		close(d.stop)
	}
	return nil
}

func TestForwardDelaysOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newChanDevice(), newChanDevice()
		const delay = 30 * time.Millisecond
		f, err := Forward(near, far, Spec{Delay: delay})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		begin := time.Now()
		near.in <- frame(1)
		<-time.After(time.Millisecond) // in the bubble's time
		near.in <- frame(2)
		for i := range 2 {
			<-far.out
			if took := time.Since(begin); took != delay+time.Duration(i)*time.Millisecond {
				t.Errorf("frame %d arrives after %v", i, took)
			}
		}
		begin = time.Now()
		far.in <- frame(3)
		<-near.out
		if took := time.Since(begin); took != 0 {
			t.Errorf("the other way takes %v", took)
		}
		// A shorter delay does not let a frame overtake one that waits.
		near.in <- frame(4)
		if err := f.Set(Spec{}); err != nil {
			t.Fatal(err)
		}
		near.in <- frame(5)
		if got := <-far.out; !bytes.Equal(got, frame(4)) {
			t.Errorf("%q arrives first", got)
		}
		<-far.out
	})
}

// losses sends n frames and says which of them are lost.
func losses(t *testing.T, spec Spec, n int) (lost []int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := newChanDevice(), newChanDevice()
		f, err := Forward(near, far, spec)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for i := range n {
			near.in <- frame(i)
		}
		synctest.Wait()
		close(far.out)
		next := 0
		for got := range far.out {
			for ; !bytes.Equal(got, frame(next)); next++ {
				lost = append(lost, next)
			}
			next++
		}
		for ; next < n; next++ {
			lost = append(lost, next)
		}
		if counted := f.Drops().Lost; counted != uint64(len(lost)) {
			t.Errorf("%d frames counted as lost, %d are", counted, len(lost))
		}
	})
	return lost
}

func TestForwardLosesBySeed(t *testing.T) {
	spec := Spec{Loss: 0.3, Seed: 7}
	const n = 60
	first, again := losses(t, spec, n), losses(t, spec, n)
	if len(first) < 5 || len(first) > 35 {
		t.Errorf("%d of %d frames are lost at 30%%", len(first), n)
	}
	if fmt.Sprint(first) != fmt.Sprint(again) {
		t.Errorf("one seed, two outcomes: %v and %v", first, again)
	}
	spec.Seed = 8
	if other := losses(t, spec, n); fmt.Sprint(other) == fmt.Sprint(first) {
		t.Error("another seed loses the same frames")
	}
}

func TestQueueIsBounded(t *testing.T) {
	q := newQueue()
	q.setLimit(10)
	now := time.Now()
	if !q.push(make([]byte, 6), now) || q.push(make([]byte, 5), now) || !q.push(make([]byte, 4), now) {
		t.Fatal("the limit of 10 bytes is not kept")
	}
	q.pop()
	if !q.push(make([]byte, 6), now) {
		t.Error("what was taken out still counts")
	}
	for range 2 {
		q.pop()
	}
	if _, _, ok := q.head(); ok || q.bytes != 0 {
		t.Errorf("%d bytes in an empty queue", q.bytes)
	}
}

func TestForwardSurvivesAClosedDevice(t *testing.T) {
	f, host, network := bench(t, Spec{})
	network.Close()
	write(t, host, frame(1)) // nobody is there to take it
	host.Close()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestForwardRefuses(t *testing.T) {
	near, _ := cable(t)
	if _, err := Forward(near, near, Spec{Loss: 2}); err == nil {
		t.Error("an impossible loss is accepted")
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := Forward(near, file, Spec{}); err == nil {
		t.Error("a device whose reads cannot be interrupted is accepted")
	}
}

var _ Device = (*net.UnixConn)(nil)
