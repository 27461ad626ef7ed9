package qmp_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

// subscribe is Subscribe that cannot fail.
func subscribe(t testing.TB, x qmp.Executor, queue int, names ...string) *qmp.Subscription {
	t.Helper()
	s, err := x.Subscribe(qmp.SubscribeOptions{Names: names, Queue: queue})
	if err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	return s
}

// What QEMU sent before the reply is there when the command returns, in order,
// with both clocks.
func TestEventsOfACommand(t *testing.T) {
	c := script(t, qmptest.Expect("stop").
		Event("STOP", nil).Event("MIGRATION", map[string]string{"status": "device"}).Return(nil),
		qmptest.EventAt("RESUME", nil, 1700000000, 123456),
		qmptest.Raw(`{"event":"UNTIMED","timestamp":{"seconds":-1,"microseconds":-1}}{"event":"BARE"}`),
	)
	before := time.Now()
	sub := subscribe(t, c, 0)
	ctx := testContext(t)
	if err := qmp.Stop(ctx, c); err != nil {
		t.Fatal(err)
	}
	if len(sub.C()) < 2 {
		t.Errorf("%d events when the command returned, want 2", len(sub.C()))
	}
	var names []string
	for range 5 {
		e, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, e.Name)
		if e.Arrived.Before(before) || e.Arrived.After(time.Now()) {
			t.Errorf("%s arrived %v", e.Name, e.Arrived)
		}
		switch e.Name {
		case "RESUME":
			if !e.Timestamp.Equal(time.Unix(1700000000, 123456000)) {
				t.Errorf("timestamp %v", e.Timestamp)
			}
		case "UNTIMED", "BARE":
			if !e.Timestamp.IsZero() {
				t.Errorf("%s has the timestamp %v", e.Name, e.Timestamp)
			}
		case "MIGRATION":
			if s, ok := e.MigrationStatus(); !ok || s != qmp.MigrationDevice {
				t.Errorf("status %q %t", s, ok)
			}
		}
	}
	if d := cmp.Diff([]string{"STOP", "MIGRATION", "RESUME", "UNTIMED", "BARE"}, names); d != "" {
		t.Error(d)
	}
}

// A full queue keeps the newest events and counts the rest.
func TestSlowSubscriber(t *testing.T) {
	steps := append(make([]qmptest.Step, 0, 102), qmptest.Expect("begin").Return(nil)) // after the subscriptions
	for i := range 100 {
		steps = append(steps, qmptest.Event("BALLOON_CHANGE", map[string]int{"actual": i}))
	}
	c := script(t, append(steps, qmptest.Expect("done").Return(nil))...)
	slow, narrow := subscribe(t, c, 3), subscribe(t, c, 1, "STOP")
	ctx := testContext(t)
	for _, command := range []string{"begin", "done"} {
		if err := c.Execute(ctx, command, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	dropped := slow.Dropped()
	if len(slow.C()) != 3 || narrow.Dropped() != 0 || len(narrow.C()) != 0 {
		t.Errorf("slow holds %d; narrow holds %d, dropped %d", len(slow.C()), len(narrow.C()), narrow.Dropped())
	}
	if dropped > 97 || dropped < 90 {
		t.Errorf("%d dropped of up to 100", dropped)
	}
	for _, want := range []int64{97, 98, 99} {
		e, err := slow.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.Typed()
		if b, ok := v.(*qmp.BalloonChangeEvent); err != nil || !ok || b.Actual != want {
			t.Errorf("got %+v, %v; want %d", v, err, want)
		}
	}
}

func TestSubscriptionClose(t *testing.T) {
	c := script(t, qmptest.Expect("a").Event("STOP", nil).Return(nil), qmptest.Expect("b").Event("RESUME", nil).Return(nil))
	sub, other := subscribe(t, c, 0), subscribe(t, c, 0)
	ctx := testContext(t)
	if err := c.Execute(ctx, "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(sub.Close)
	}
	wg.Wait()
	if err := c.Execute(ctx, "b", nil, nil); err != nil {
		t.Fatal(err)
	}
	if e, err := sub.Next(ctx); err != nil || e.Name != "STOP" {
		t.Errorf("what was queued: %v, %v", e, err)
	}
	if _, err := sub.Next(ctx); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("after it: %v", err)
	}
	if e, err := other.Wait(ctx, func(e qmp.Event) bool { return e.Name == "RESUME" }); err != nil {
		t.Errorf("other subscription: %v, %v", e, err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := other.Next(done); !errors.Is(err, context.Canceled) {
		t.Errorf("Next with a finished context: %v", err)
	}
}

func TestEventsEndWithTheContext(t *testing.T) {
	c := script(t, qmptest.Expect("a").Event("STOP", nil).Event("RESUME", nil).Return(nil))
	ctx, cancel := context.WithCancel(testContext(t))
	events, err := c.Events(ctx, "RESUME")
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Execute(ctx, "a", nil, nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	var got []string
	for e := range events {
		got = append(got, e.Name)
	}
	if fmt.Sprint(got) != "[RESUME]" {
		t.Errorf("got %v", got)
	}
	_ = c.Close()
	for range all { // ends with the connection
	}
	if _, err := c.Events(t.Context()); !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("Events after Close: %v", err)
	}
}

func TestTypedEvents(t *testing.T) {
	tests := []struct {
		name, data string
		want       any
	}{
		{"STOP", ``, &qmp.StopEvent{}},
		{"RESUME", `{}`, &qmp.ResumeEvent{}},
		{"MIGRATION", `{"status":"from-the-future"}`, &qmp.MigrationEvent{Status: "from-the-future"}},
		{"MIGRATION_PASS", `{"pass":3}`, &qmp.MigrationPassEvent{Pass: 3}},
		{"SHUTDOWN", `{"guest":true,"reason":"guest-shutdown"}`, &qmp.ShutdownEvent{Guest: true, Reason: "guest-shutdown"}},
		{"RESET", `{"guest":false,"reason":"guest-reset"}`, &qmp.ResetEvent{Reason: "guest-reset"}},
		{"GUEST_PANICKED", `{"action":"pause","info":{}}`, &qmp.GuestPanickedEvent{Action: "pause"}},
		{"BLOCK_JOB_READY", `{"type":"mirror","device":"d","len":2,"offset":1,"speed":0}`,
			&qmp.BlockJobEvent{Type: "mirror", Device: "d", Len: 2, Offset: 1}},
		{"BLOCK_JOB_COMPLETED", `{"type":"mirror","device":"d","len":2,"offset":2,"speed":0,"error":"full"}`,
			&qmp.BlockJobEvent{Type: "mirror", Device: "d", Len: 2, Offset: 2, Error: new("full")}},
		{"BLOCK_JOB_CANCELLED", `{"type":"mirror","device":"d","len":2,"offset":2,"speed":9}`,
			&qmp.BlockJobEvent{Type: "mirror", Device: "d", Len: 2, Offset: 2, Speed: 9}},
		{"BLOCK_JOB_ERROR", `{"device":"d","operation":"write","action":"stop"}`,
			&qmp.BlockJobErrorEvent{Device: "d", Operation: "write", Action: "stop"}},
		{"BLOCK_JOB_PENDING", `{"type":"mirror","id":"j"}`, &qmp.BlockJobPendingEvent{Type: "mirror", ID: "j"}},
		{"JOB_STATUS_CHANGE", `{"id":"j","status":"ready"}`, &qmp.JobStatusChangeEvent{ID: "j", Status: qmp.JobReady}},
		{"BLOCK_IO_ERROR", `{"device":"d","node-name":"n","operation":"read","action":"report","nospace":false,"reason":"r"}`,
			&qmp.BlockIOErrorEvent{Device: "d", NodeName: new("n"), Operation: "read", Action: "report", NoSpace: new(false), Reason: "r"}},
		{"BLOCK_EXPORT_DELETED", `{"id":"e"}`, &qmp.BlockExportDeletedEvent{ID: "e"}},
		{"UNPLUG_PRIMARY", `{"device-id":"net0"}`, &qmp.UnplugPrimaryEvent{DeviceID: "net0"}},
		{"DEVICE_DELETED", `{"path":"/machine/x"}`, &qmp.DeviceDeletedEvent{Path: "/machine/x"}},
		{"BALLOON_CHANGE", `{"actual":1}`, &qmp.BalloonChangeEvent{Actual: 1}},
		{"VNC_CONNECTED", `{"server":{}}`, nil},
	}
	for _, tc := range tests {
		got, err := qmp.Event{Name: tc.name, Data: []byte(tc.data)}.Typed()
		if d := cmp.Diff(tc.want, got); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", tc.name, err, d)
		}
	}
	for _, e := range []qmp.Event{
		{Name: "MIGRATION", Data: []byte(`{}`)}, {Name: "MIGRATION_PASS", Data: []byte(`{"pass":"x"}`)},
		{Name: "RESET", Data: []byte(`{"guest":true}`)},
	} {
		if v, err := e.Typed(); err == nil {
			t.Errorf("%s %s decoded as %+v", e.Name, e.Data, v)
		}
		if _, ok := e.MigrationStatus(); ok {
			t.Errorf("%s %s has a migration status", e.Name, e.Data)
		}
	}
}
