package qmp_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	goqemu "github.com/digitalocean/go-qemu/qmp"
	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

func TestMonitorRun(t *testing.T) {
	c := script(t,
		qmptest.Expect("a").Return(map[string]int{"x": 1}), qmptest.Expect("b").Args(map[string]int{"y": 2}).Return(nil),
		qmptest.Expect("yank").OOB(true).Return(nil), qmptest.Expect("c").Fail("DeviceNotFound", "no such device"))
	m := qmp.NewMonitor(t.Context(), c)
	if err := m.Connect(); err != nil {
		t.Errorf("Connect: %v", err)
	}
	for _, tc := range []struct{ in, want string }{
		{`{"execute":"a"}`, `{"return":{"x":1}}`},
		{`{"execute":"b","arguments":{"y":2},"id":17}`, `{"return":{},"id":17}`},
		{`{"exec-oob":"yank","id":{"any":["thing"]}}`, `{"return":{},"id":{"any":["thing"]}}`},
	} {
		got, err := m.Run([]byte(tc.in))
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: got %s, %v; want %s", tc.in, got, err, tc.want)
		}
	}
	if _, err := m.Run([]byte(`{"execute":"c"}`)); !qmp.IsDeviceNotFound(err) {
		t.Errorf("refusal: %v", err)
	}
	for _, in := range []string{`nonsense`, `{}`, `{"execute":"a","exec-oob":"b"}`} {
		if _, err := m.Run([]byte(in)); err == nil {
			t.Errorf("%s was accepted", in)
		}
	}
	for range 2 {
		if err := m.Disconnect(); err != nil {
			t.Errorf("Disconnect: %v", err)
		}
	}
	if err := m.Connect(); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("Connect after Disconnect: %v", err)
	}
	if _, err := m.Events(t.Context()); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("Events after Disconnect: %v", err)
	}
}

// A channel that nobody reads holds up neither commands nor Disconnect.
func TestMonitorEventsUndrained(t *testing.T) {
	c := script(t, qmptest.Expect("a").Event("STOP", nil).Event("RESUME", nil).Return(nil), qmptest.Expect("b").Return(nil))
	m := qmp.NewMonitor(t.Context(), c)
	ctx, cancel := context.WithCancel(testContext(t))
	if _, err := m.Events(t.Context()); err != nil {
		t.Fatal(err)
	}
	events, err := m.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"a", "b"} {
		if _, err := m.Run([]byte(`{"execute":"` + command + `"}`)); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	cancel()
	for range events { // ends with its context
	}
	if err := m.Disconnect(); err != nil {
		t.Error(err)
	}
}

func TestMonitorTranslatesEvents(t *testing.T) {
	gate := make(chan struct{})
	c := script(t, qmptest.Do(func() { <-gate }),
		qmptest.EventAt("RESET", map[string]any{"guest": true}, 12, 34), qmptest.Event("ODD", "text"), qmptest.Close())
	m := qmp.NewMonitor(t.Context(), c)
	events, err := m.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	close(gate)
	want := goqemu.Event{Event: "RESET", Data: map[string]any{"guest": true}}
	want.Timestamp.Seconds, want.Timestamp.Microseconds = 12, 34
	if d := cmp.Diff(want, <-events); d != "" {
		t.Error(d)
	}
	if e := <-events; e.Event != "ODD" || e.Data != nil {
		t.Errorf("got %+v", e)
	}
	if e, ok := <-events; ok {
		t.Errorf("event after the end: %+v", e)
	}
	_ = m.Disconnect()
}

// fakeMonitor is a go-qemu monitor made of functions.
type fakeMonitor struct {
	run        func([]byte) ([]byte, error)
	events     chan goqemu.Event
	eventsErr  error
	disconnect func()
	once       sync.Once
}

func (*fakeMonitor) Connect() error                 { return nil }
func (m *fakeMonitor) Run(b []byte) ([]byte, error) { return m.run(b) }
func (m *fakeMonitor) Disconnect() error {
	m.once.Do(func() {
		if m.disconnect != nil {
			m.disconnect()
		}
		if m.events != nil {
			close(m.events)
		}
	})
	return nil
}

func (m *fakeMonitor) Events(context.Context) (<-chan goqemu.Event, error) {
	return m.events, m.eventsErr
}

func TestWrappedMonitorRun(t *testing.T) {
	m := &fakeMonitor{run: func(b []byte) ([]byte, error) {
		switch {
		case strings.Contains(string(b), "query-status"):
			return []byte(`{"return":{"status":"paused","running":false},"id":"libvirt-9"}`), nil
		case strings.Contains(string(b), "migrate_cancel"):
			return []byte(`{"id":"libvirt-10","error":{"class":"CommandNotFound","desc":"gone"}}`), nil
		case strings.Contains(string(b), "query-uuid"):
			return []byte(`{"event":"STOP"}`), nil
		case strings.Contains(string(b), "query-name"):
			return []byte(`nonsense`), nil
		}
		return nil, errors.New("link lost")
	}}
	w := qmp.WrapMonitor(m)
	defer func() { _ = w.Close() }()
	ctx := testContext(t)
	if st, err := qmp.QueryStatus(ctx, w); err != nil || st.Status != qmp.StatePaused {
		t.Errorf("query-status: %+v, %v", st, err)
	}
	if err := qmp.MigrateCancel(ctx, w); !qmp.IsCommandNotFound(err) {
		t.Errorf("refusal: %v", err)
	}
	var ce *qmp.CallError
	for _, command := range []string{"query-uuid", "query-name", "cont"} {
		if err := w.Execute(ctx, command, nil, nil); !errors.As(err, &ce) || !ce.Sent {
			t.Errorf("%s: %v", command, err)
		}
	}
	if err := w.Execute(ctx, "a", func() {}, nil); !errors.As(err, &ce) || ce.Sent {
		t.Errorf("unencodable: %v", err)
	}
	if err := qmp.GetFD(ctx, w, "a", nil); !errors.Is(err, qmp.ErrNoDescriptors) {
		t.Errorf("descriptor: %v", err)
	}
	// Out of band where that can be had, in band here.
	if err := qmp.MigratePause(ctx, w); !errors.As(err, &ce) || !strings.Contains(err.Error(), "link lost") {
		t.Errorf("migrate-pause: %v", err)
	}
}

// A monitor that does not answer holds up nobody longer than their contexts, and
// Close no longer than the monitor itself.
func TestWrappedMonitorHangs(t *testing.T) {
	hang, entered := make(chan struct{}), make(chan struct{}, 1)
	m := &fakeMonitor{
		run:        func([]byte) ([]byte, error) { entered <- struct{}{}; <-hang; return nil, errors.New("disconnected") },
		disconnect: func() { close(hang) },
	}
	w := qmp.WrapMonitor(m)
	ctx, cancel := context.WithCancel(testContext(t))
	go func() { <-entered; cancel() }()
	var ce *qmp.CallError
	if err := w.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) || !errors.As(err, &ce) || !ce.Sent {
		t.Errorf("slow: %v", err)
	}
	ctx, cancel = context.WithCancel(testContext(t))
	if err := w.Execute(withEnd(ctx, cancel), "next", nil, nil); !errors.As(err, &ce) || ce.Sent {
		t.Errorf("next: %v", err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := w.Execute(t.Context(), "later", nil, nil); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestWrappedMonitorEvents(t *testing.T) {
	m := &fakeMonitor{events: make(chan goqemu.Event)}
	w := qmp.WrapMonitor(m)
	sub, second := subscribe(t, w, 0), subscribe(t, w, 0, "STOP")
	stop := goqemu.Event{Event: "STOP"}
	stop.Timestamp.Seconds, stop.Timestamp.Microseconds = 5, 6
	m.events <- goqemu.Event{Event: "MIGRATION", Data: map[string]any{"status": "active"}}
	m.events <- stop
	ctx := testContext(t)
	e, err := sub.Next(ctx)
	if s, ok := e.MigrationStatus(); err != nil || !ok || s != qmp.MigrationActive || !e.Timestamp.IsZero() {
		t.Errorf("got %+v, %v", e, err)
	}
	if e, err = second.Next(ctx); err != nil || e.Name != "STOP" || e.Timestamp.Unix() != 5 || e.Arrived.IsZero() {
		t.Errorf("got %+v, %v", e, err)
	}
	_ = w.Close()
	if _, err := second.Next(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := w.Subscribe(qmp.SubscribeOptions{}); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("Subscribe after Close: %v", err)
	}
}

func TestWrappedMonitorEventsEnd(t *testing.T) {
	m := &fakeMonitor{events: make(chan goqemu.Event)}
	w := qmp.WrapMonitor(m)
	sub := subscribe(t, w, 0)
	_ = m.Disconnect()
	if _, err := sub.Next(testContext(t)); !errors.Is(err, qmp.ErrPeerClosed) {
		t.Errorf("got %v", err)
	}
	_ = w.Close()
	none := qmp.WrapMonitor(&fakeMonitor{eventsErr: goqemu.ErrEventsNotSupported})
	defer func() { _ = none.Close() }()
	if _, err := none.Subscribe(qmp.SubscribeOptions{}); !errors.Is(err, goqemu.ErrEventsNotSupported) {
		t.Errorf("without events: %v", err)
	}
}

// Both adapters on top of each other are the client again.
func TestWrapOwnMonitor(t *testing.T) {
	c := script(t, qmptest.Expect("stop").Event("STOP", nil).Return(nil), qmptest.Expect("nope").Fail("CommandNotFound", "no"))
	w := qmp.WrapMonitor(qmp.NewMonitor(t.Context(), c))
	sub := subscribe(t, w, 0)
	ctx := testContext(t)
	if err := qmp.Stop(ctx, w); err != nil {
		t.Error(err)
	}
	if e, err := sub.Next(ctx); err != nil || e.Name != "STOP" {
		t.Errorf("event %v, %v", e, err)
	}
	if err := w.Execute(ctx, "nope", nil, nil); !qmp.IsCommandNotFound(err) {
		t.Errorf("class lost: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if !errors.Is(c.Err(), qmp.ErrClosed) {
		t.Errorf("the client is still open: %v", c.Err())
	}
}
