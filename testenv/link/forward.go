package link

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Device is one end of a cable: each Read returns one frame and each Write sends
// one. *os.File and *net.UnixConn are Devices, if what is behind them keeps frames
// apart.
type Device interface {
	io.ReadWriter
	SetDeadline(time.Time) error
}

const (
	// maxFrame is the longest frame that is forwarded, in bytes: a segmentation
	// offload frame with its headers.
	maxFrame = 128 << 10
	// minQueue and maxQueue bound the bytes that a Forwarder holds.
	minQueue = 4 << 20
	maxQueue = 256 << 20
)

// Drops count frames that a Forwarder did not pass on.
type Drops struct {
	// Lost were drawn by the Spec's loss; Full did not fit into the queue; Failed
	// were refused by the other device, as when its cable is pulled.
	Lost, Full, Failed uint64
}

// Forwarder passes frames between two devices, with delay and loss from near to
// far, and neither the other way.
type Forwarder struct {
	near, far Device
	queue     *queue
	wg        sync.WaitGroup
	closing   chan struct{}
	closeOnce sync.Once

	mu   sync.Mutex
	spec Spec       // guarded by mu
	dice *rand.Rand // guarded by mu

	lost, full, failed atomic.Uint64
}

// Forward starts to forward. near is the side whose frames are delayed and lost.
// Neither device may be used by anyone else until Close has returned.
func Forward(near, far Device, spec Spec) (*Forwarder, error) {
	f := &Forwarder{near: near, far: far, queue: newQueue(), closing: make(chan struct{})}
	if err := f.Set(spec); err != nil {
		return nil, err
	}
	for _, d := range []Device{near, far} {
		if err := d.SetDeadline(time.Time{}); err != nil {
			return nil, fmt.Errorf("forward: the device cannot be interrupted: %w", err)
		}
	}
	f.wg.Go(func() { f.pump(near, f.hold) })
	f.wg.Go(func() { f.pump(far, func(frame []byte) { f.send(near, frame) }) })
	f.wg.Go(f.release)
	return f, nil
}

// Set changes delay and loss. Frames that wait already keep their time. The
// sequence of losses starts anew with the Spec's seed.
func (f *Forwarder) Set(spec Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spec = spec
	f.dice = rand.New(rand.NewPCG(spec.Seed, 0x6c696e6b)) // the second half is any constant
	f.queue.setLimit(spec.window())
	return nil
}

// window is how many bytes can be under way: what the link carries in twice its
// delay.
func (s Spec) window() int {
	if s.Rate == 0 {
		return maxQueue
	}
	return int(min(max(2*s.Delay.Seconds()*float64(s.Rate)/8, minQueue), maxQueue))
}

// Drops counts what was not passed on since Forward.
func (f *Forwarder) Drops() Drops {
	return Drops{Lost: f.lost.Load(), Full: f.full.Load(), Failed: f.failed.Load()}
}

// Close stops forwarding and waits for it. It does not close the devices, and it
// is idempotent.
func (f *Forwarder) Close() error {
	var errs []error
	f.closeOnce.Do(func() {
		close(f.closing)
		past := time.Unix(1, 0)
		errs = append(errs, f.near.SetDeadline(past), f.far.SetDeadline(past))
	})
	f.wg.Wait()
	return errors.Join(errs...)
}

// closed reports whether Close was called.
func (f *Forwarder) closed() bool {
	select {
	case <-f.closing:
		return true
	default:
		return false
	}
}

// errorPause is how long a device that fails is left alone.
const errorPause = 5 * time.Millisecond

// pump reads frames until Close or until the device is closed.
func (f *Forwarder) pump(from Device, pass func([]byte)) {
	buf := make([]byte, maxFrame)
	for !f.closed() {
		n, err := from.Read(buf)
		switch {
		case err == nil:
			pass(buf[:n])
		case errors.Is(err, os.ErrClosed), errors.Is(err, io.EOF):
			return
		case errors.Is(err, syscall.ENETDOWN): // said once when the cable is pulled
		default:
			f.pause(errorPause)
		}
	}
}

// pause waits, unless Close is called.
func (f *Forwarder) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.closing:
	}
}

// hold loses the frame or puts it into the queue, where a frame without delay is due
// at once, after those that wait.
func (f *Forwarder) hold(frame []byte) {
	f.mu.Lock()
	delay, lose := f.spec.Delay, f.spec.Loss > 0 && f.dice.Float64() < f.spec.Loss
	f.mu.Unlock()
	if lose {
		f.lost.Add(1)
		return
	}
	if !f.queue.push(frame, time.Now().Add(delay)) {
		f.full.Add(1)
	}
}

// release sends each frame when its time has come.
func (f *Forwarder) release() {
	for {
		frame, due, ok := f.queue.head()
		if !ok {
			select {
			case <-f.queue.filled:
				continue
			case <-f.closing:
				return
			}
		}
		if wait := time.Until(due); wait > 0 {
			f.pause(wait)
		}
		if f.closed() {
			return
		}
		f.send(f.far, frame)
		f.queue.pop()
	}
}

// send writes a frame. A device that refuses it (full, or its cable is pulled)
// loses it, as networks do.
func (f *Forwarder) send(to Device, frame []byte) {
	if _, err := to.Write(frame); err != nil {
		f.failed.Add(1)
	}
}
