package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	goqemu "github.com/digitalocean/go-qemu/qmp"
)

var _ goqemu.Monitor = (*Monitor)(nil)

// Monitor lets code written for go-qemu run over a Client: it implements
// go-qemu's qmp.Monitor, so that for instance its qemu.Domain works on it.
//
// That interface has no context. Set a limit with Context where a QEMU that does
// not answer must not hold a caller for ever.
type Monitor struct {
	client *Client
	ctx    context.Context
	quit   context.CancelFunc // ends ctx, and with it the goroutines of Events
	wg     sync.WaitGroup     // the goroutines of Events
}

// NewMonitor adapts c, which the Monitor owns from then on: Disconnect closes it.
// The context bounds every Run and every Events channel.
func NewMonitor(ctx context.Context, c *Client) *Monitor {
	ctx, quit := context.WithCancel(ctx)
	return &Monitor{client: c, ctx: ctx, quit: quit}
}

// Connect reports whether the connection, which is there since NewMonitor, still
// lives.
func (m *Monitor) Connect() error { return m.client.Err() }

// Disconnect closes the client, ends all channels of Events and waits for their
// goroutines. It may be called more than once.
func (m *Monitor) Disconnect() error {
	err := m.client.Close()
	m.quit()
	m.wg.Wait()
	return err
}

// Run sends one command, given as a whole QMP object, and returns the whole reply.
// The command may carry an id of any type, which comes back in the reply, and may
// be out of band. QEMU's refusal is an *Error.
func (m *Monitor) Run(command []byte) ([]byte, error) { return m.RunWithFile(command, nil) }

// RunWithFile is Run with an open file passed along, which stays the caller's.
func (m *Monitor) RunWithFile(command []byte, file *os.File) ([]byte, error) {
	var w struct {
		Execute   string          `json:"execute"`
		OOB       string          `json:"exec-oob"`
		Arguments json.RawMessage `json:"arguments,omitempty"`
		ID        json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(command, &w); err != nil {
		return nil, fmt.Errorf("qmp: not a command: %w", err)
	}
	if (w.Execute == "") == (w.OOB == "") {
		return nil, errors.New("qmp: not a command: one of execute and exec-oob is needed")
	}
	var args any
	if len(w.Arguments) > 0 {
		args = w.Arguments
	}
	var out json.RawMessage
	var err error
	switch {
	case file != nil && w.OOB != "":
		err = errors.New("qmp: a file cannot be passed out of band")
	case file != nil:
		err = m.client.ExecuteFile(m.ctx, w.Execute, args, &out, file)
	case w.OOB != "":
		err = m.client.ExecuteOOB(m.ctx, w.OOB, args, &out)
	default:
		err = m.client.Execute(m.ctx, w.Execute, args, &out)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Return json.RawMessage `json:"return"`
		ID     json.RawMessage `json:"id,omitempty"`
	}{out, w.ID})
}

// Events receives all events until ctx, the Monitor's own context or, after what
// is queued, the connection ends; then the channel is closed. A slow reader loses
// the oldest events and holds up nobody.
func (m *Monitor) Events(ctx context.Context) (<-chan goqemu.Event, error) {
	sub, err := m.client.Subscribe(SubscribeOptions{})
	if err != nil {
		return nil, err
	}
	out := make(chan goqemu.Event)
	m.wg.Go(func() { m.forward(ctx, sub, out) })
	return out, nil
}

// forward translates events until something ends.
func (m *Monitor) forward(ctx context.Context, sub *Subscription, out chan<- goqemu.Event) {
	defer close(out)
	defer sub.Close()
	for {
		select {
		case e, ok := <-sub.C():
			if !ok {
				return
			}
			select {
			case out <- toGoQEMU(e):
				continue
			case <-ctx.Done():
			case <-m.ctx.Done():
			}
			return
		case <-ctx.Done():
			return
		case <-m.ctx.Done():
			return
		}
	}
}

// toGoQEMU translates an event. Data that is not an object is left out, as
// go-qemu has no place for it.
func toGoQEMU(e Event) goqemu.Event {
	out := goqemu.Event{Event: e.Name}
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &out.Data) != nil {
		out.Data = nil
	}
	if !e.Timestamp.IsZero() {
		out.Timestamp.Seconds = e.Timestamp.Unix()
		out.Timestamp.Microseconds = int64(e.Timestamp.Nanosecond() / 1000)
	}
	return out
}
