package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"
)

var _ FileExecutor = (*WrappedMonitor)(nil)

// WrappedMonitor lets the typed commands of this package run over any go-qemu
// qmp.Monitor, such as its LibvirtRPCMonitor, which reaches QEMU through libvirt.
//
// It is as good as the monitor beneath. A go-qemu monitor has no contexts, so one
// command runs at a time, and a command that its caller abandoned occupies the
// monitor until it returns. It knows no out-of-band execution. Where the monitor
// reports QEMU's refusal as plain text, the class is lost and the refusal is a
// *CallError like any other failure.
type WrappedMonitor struct {
	m    goqemu.Monitor
	hub  *hub
	slot chan struct{} // one element while a command runs

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // the pump and the running command

	mu     sync.Mutex
	pumped bool // Events has been asked for
	closed bool
}

// WrapMonitor wraps a connected monitor, which it owns from then on: Close
// disconnects it.
func WrapMonitor(m goqemu.Monitor) *WrappedMonitor {
	ctx, cancel := context.WithCancel(context.Background())
	return &WrappedMonitor{m: m, hub: newHub(), slot: make(chan struct{}, 1), ctx: ctx, cancel: cancel}
}

// Close disconnects the monitor and waits for the running command and the event
// stream to end, as long as the monitor makes that take. It may be called more
// than once; later calls only wait.
func (w *WrappedMonitor) Close() error {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	w.mu.Unlock()
	var err error
	if first {
		w.cancel()
		w.hub.close(ErrClosed) // before the monitor's own end can be the reason
		err = w.m.Disconnect()
	}
	w.wg.Wait()
	return err
}

// Execute runs one command. Its errors are those of Client.Execute, with the
// limits that the type's comment names.
func (w *WrappedMonitor) Execute(ctx context.Context, command string, args, out any) error {
	return w.execute(ctx, command, args, out, w.m.Run)
}

// fileMonitor is a go-qemu monitor that can pass files.
type fileMonitor interface {
	RunWithFile(command []byte, file *os.File) ([]byte, error)
}

// ExecuteFile runs one command together with a file, if the monitor has
// RunWithFile, as go-qemu's SocketMonitor does.
func (w *WrappedMonitor) ExecuteFile(ctx context.Context, command string, args, out any, file *os.File) error {
	f, ok := w.m.(fileMonitor)
	if !ok {
		return &CallError{Command: command, Err: ErrNoDescriptors}
	}
	return w.execute(ctx, command, args, out, func(b []byte) ([]byte, error) { return f.RunWithFile(b, file) })
}

// execute encodes a command, runs it when the monitor is free and decodes the
// reply.
func (w *WrappedMonitor) execute(ctx context.Context, command string, args, out any, run func([]byte) ([]byte, error)) error {
	msg, err := json.Marshal(goqemu.Command{Execute: command, Args: args})
	if err != nil {
		return &CallError{Command: command, Err: err}
	}
	reply, err := w.await(ctx, command, msg, run)
	if err != nil {
		return err
	}
	m, k, err := parseMessage(reply)
	if err != nil {
		return &CallError{Command: command, Sent: true, Err: err}
	}
	switch k {
	case kindReturn:
		return decodeInto(command, m.Return, out)
	case kindError:
		return &Error{Class: m.Error.Class, Desc: m.Error.Desc, Command: command}
	}
	return &CallError{Command: command, Sent: true, Err: protocolError("not a reply", reply, nil)}
}

// await runs msg in a goroutine, since the monitor knows no context, and waits
// for it or for the context.
func (w *WrappedMonitor) await(ctx context.Context, command string, msg []byte, run func([]byte) ([]byte, error)) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, &CallError{Command: command, Err: err}
	}
	select {
	case w.slot <- struct{}{}:
	case <-ctx.Done():
		return nil, &CallError{Command: command, Err: ctx.Err()}
	case <-w.ctx.Done():
		return nil, &CallError{Command: command, Err: ErrClosed}
	}
	type result struct {
		reply []byte
		err   error
	}
	done := make(chan result, 1)
	if !w.spawn(func() {
		defer func() { <-w.slot }()
		reply, err := run(msg)
		done <- result{reply, err}
	}) {
		<-w.slot
		return nil, &CallError{Command: command, Err: ErrClosed}
	}
	select {
	case r := <-done:
		return r.reply, w.runError(command, r.err)
	case <-ctx.Done():
		return nil, &CallError{Command: command, Sent: true, Err: ctx.Err()}
	case <-w.ctx.Done():
		return nil, &CallError{Command: command, Sent: true, Err: ErrClosed}
	}
}

// runError keeps a typed refusal as it is and marks everything else as a command
// that may have run.
func (w *WrappedMonitor) runError(command string, err error) error {
	var refusal *Error
	var lost *CallError
	if err == nil || errors.As(err, &refusal) || errors.As(err, &lost) {
		return err
	}
	return &CallError{Command: command, Sent: true, Err: err}
}

// spawn starts a goroutine that Close waits for, unless it is too late.
func (w *WrappedMonitor) spawn(fn func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.wg.Go(fn)
	return true
}

// Subscribe receives events from now on. The first subscription opens the
// monitor's event stream, which then stays open until Close. A monitor without
// events returns go-qemu's ErrEventsNotSupported.
func (w *WrappedMonitor) Subscribe(o SubscribeOptions) (*Subscription, error) {
	sub, err := w.hub.subscribe(o)
	if err != nil {
		return nil, err
	}
	if err := w.startPump(); err != nil {
		sub.Close()
		return nil, err
	}
	return sub, nil
}

// startPump opens the event stream once.
func (w *WrappedMonitor) startPump() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pumped {
		return nil
	}
	if w.closed {
		return ErrClosed
	}
	events, err := w.m.Events(w.ctx)
	if err != nil {
		return fmt.Errorf("qmp: subscribing: %w", err)
	}
	w.pumped = true
	w.wg.Go(func() { w.pump(events) })
	return nil
}

// pump publishes the monitor's events until their channel closes or we close.
func (w *WrappedMonitor) pump(events <-chan goqemu.Event) {
	for {
		select {
		case e, ok := <-events:
			if !ok {
				w.hub.close(ErrPeerClosed)
				return
			}
			w.hub.publish(fromGoQEMU(e, time.Now()))
		case <-w.ctx.Done():
			w.hub.close(ErrClosed)
			w.drain(events)
			return
		}
	}
}

// drain lets a monitor that is in the middle of a send go on until it closes its
// channel, which Disconnect makes it do.
func (w *WrappedMonitor) drain(events <-chan goqemu.Event) {
	for range events {
	}
}

// fromGoQEMU translates an event.
func fromGoQEMU(e goqemu.Event, arrived time.Time) Event {
	out := Event{Name: e.Event, Arrived: arrived}
	if e.Data != nil {
		if b, err := json.Marshal(e.Data); err == nil {
			out.Data = b
		}
	}
	if e.Timestamp.Seconds > 0 {
		out.Timestamp = (&wireTime{Seconds: e.Timestamp.Seconds, Microseconds: e.Timestamp.Microseconds}).time()
	}
	return out
}
