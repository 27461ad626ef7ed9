package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

func TestHandshakeEnablesOOBWhenOffered(t *testing.T) {
	oob := map[string]any{"enable": []string{"oob"}}
	tests := []struct {
		name    string
		offered []string
		opts    []qmp.Option
		args    any
		want    bool
	}{
		{"offered", []string{"oob"}, nil, oob, true},
		{"offered among others", []string{"later", "oob"}, nil, oob, true},
		{"not offered", nil, nil, struct{}{}, false},
		{"not wanted", []string{"oob"}, []qmp.Option{qmp.WithoutOOB()}, struct{}{}, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c := connect(t, qmptest.Start(t, qmptest.Greeting(tc.offered...),
				qmptest.Expect("qmp_capabilities").Args(tc.args).Return(nil)), tc.opts...)
			if c.OOB() != tc.want {
				t.Errorf("OOB() = %t, want %t", c.OOB(), tc.want)
			}
			if v := c.Version(); v.String() != "10.0.2" || !v.AtLeast(9, 1) || v.AtLeast(10, 1) || v.Package != "qmptest" {
				t.Errorf("version %+v", v)
			}
		})
	}
}

func TestHandshakeRefuses(t *testing.T) {
	tests := []struct {
		name  string
		steps []qmptest.Step
		text  string
		is    error
	}{
		{"hung up", []qmptest.Step{qmptest.Close()}, "handshake", qmp.ErrPeerClosed},
		{"cut greeting", []qmptest.Step{qmptest.Raw(`{"QMP": {`), qmptest.Close()}, "middle of a message", qmp.ErrPeerClosed},
		{"not JSON", []qmptest.Step{qmptest.Raw("SSH-2.0-OpenSSH_9.2\r\n"), qmptest.Hang()}, "SSH-2.0", nil},
		{"no greeting", []qmptest.Step{qmptest.Raw(`{"return":{}}`), qmptest.Hang()}, "no greeting", nil},
		{"two greetings", []qmptest.Step{qmptest.Greeting(), qmptest.Expect("qmp_capabilities"), qmptest.Greeting()}, "second greeting", nil},
		{"too large", []qmptest.Step{qmptest.Raw(`{"QMP":"` + strings.Repeat("x", 200)), qmptest.Hang()}, "", qmp.ErrTooLarge},
		{"refused", []qmptest.Step{qmptest.Greeting(), qmptest.Expect("qmp_capabilities").Fail("GenericError", "busy")},
			"busy", &qmp.Error{Class: qmp.ClassGeneric, Command: "qmp_capabilities"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			c, err := qmp.NewClient(testContext(t), qmptest.Start(t, tc.steps...), qmp.WithMessageLimit(150))
			if err == nil {
				_ = c.Close()
				t.Fatal("NewClient succeeded")
			}
			if !strings.Contains(err.Error(), tc.text) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("got %v, want %q and %v", err, tc.text, tc.is)
			}
			var pe *qmp.ProtocolError
			if tc.is == nil && !errors.As(err, &pe) {
				t.Errorf("got %T, want a ProtocolError", err)
			}
		})
	}
}

func TestHandshakeContext(t *testing.T) {
	for name, steps := range map[string][]qmptest.Step{
		"silent":                   {qmptest.Hang()},
		"silent after greeting":    {qmptest.Greeting(), qmptest.Hang()},
		"silent within a greeting": {qmptest.Raw(`{"QMP"`), qmptest.Hang()},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(testContext(t))
			reached := make(chan struct{})
			last := len(steps) - 1
			steps := append(append([]qmptest.Step{}, steps[:last]...), qmptest.Do(func() { close(reached) }), steps[last])
			conn := qmptest.Start(t, steps...)
			go func() { <-reached; cancel() }()
			_, err := qmp.NewClient(ctx, conn)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want the context's error", err)
			}
			if _, err := conn.Write([]byte("x")); err == nil {
				t.Error("the connection was left open")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := qmp.NewClient(ctx, qmptest.Start(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("with a finished context: %v", err)
	}
}

// Replies of a former client's commands reach the next client of the monitor.
func TestHandshakePassesOverOldReplies(t *testing.T) {
	c := connect(t, qmptest.Start(t, qmptest.Greeting(), qmptest.Expect("qmp_capabilities").As("caps"),
		qmptest.Raw(`{"error":{"class":"GenericError","desc":"old"},"id":"other-0"}{"return":{"old":1},"id":"other-1"}{"return":{},"id":7}{"return":{}}`),
		qmptest.Event("STOP", nil), qmptest.Reply("caps", nil),
		qmptest.Expect("query-status").As("q"),
		qmptest.Raw(`{"error":{"class":"GenericError","desc":"old"},"id":1}{"return":{}}`),
		qmptest.Reply("q", map[string]any{"status": "running", "running": true})))
	st, err := qmp.QueryStatus(testContext(t), c)
	if err != nil || st.Status != qmp.StateRunning {
		t.Errorf("got %+v, %v", st, err)
	}
	if c.Stray() != 6 {
		t.Errorf("Stray() = %d, want 6", c.Stray())
	}
}

func TestExecute(t *testing.T) {
	c := script(t,
		qmptest.Expect("query-name").Args(struct{}{}).Return(map[string]string{"name": "web"}),
		qmptest.Expect("set").Args(map[string]int{"a": 1}).OOB(false).Return(nil),
		qmptest.Expect("yank").OOB(true).Return([]int{1}),
		qmptest.Expect("nope").Fail("CommandNotFound", "The command nope has not been found"),
		qmptest.Expect("null").Return(json.RawMessage("null")),
		qmptest.Expect("wrong").Return("text"),
	)
	ctx := testContext(t)
	var name struct{ Name string }
	if err := c.Execute(ctx, "query-name", nil, &name); err != nil || name.Name != "web" {
		t.Errorf("query-name: %+v, %v", name, err)
	}
	if err := c.Execute(ctx, "set", map[string]int{"a": 1}, nil); err != nil {
		t.Errorf("set: %v", err)
	}
	var raw json.RawMessage
	if err := c.ExecuteOOB(ctx, "yank", nil, &raw); err != nil || string(raw) != "[1]" {
		t.Errorf("yank: %s, %v", raw, err)
	}
	err := c.Execute(ctx, "nope", nil, nil)
	if !qmp.IsCommandNotFound(err) || qmp.IsDeviceNotFound(err) || !strings.Contains(err.Error(), "nope") {
		t.Errorf("nope: %v", err)
	}
	if err := c.Execute(ctx, "null", nil, &raw); err != nil || string(raw) != "null" {
		t.Errorf("null: %s, %v", raw, err)
	}
	var n int
	if err := c.Execute(ctx, "wrong", nil, &n); err == nil || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("wrong: %v", err)
	}
	if err := c.Execute(ctx, "unencodable", func() {}, nil); err == nil {
		t.Error("arguments that cannot be encoded were accepted")
	}
	if err := c.Err(); err != nil {
		t.Errorf("the client ended: %v", err)
	}
}

func TestExecuteOOBWithoutNegotiation(t *testing.T) {
	c := connect(t, qmptest.Start(t, qmptest.Negotiate()))
	err := c.ExecuteOOB(testContext(t), "yank", nil, nil)
	var ce *qmp.CallError
	if !errors.Is(err, qmp.ErrNoOOB) || !errors.As(err, &ce) || ce.Sent {
		t.Errorf("got %v", err)
	}
}

// Replies are matched by id, whatever their order.
func TestRepliesOutOfOrder(t *testing.T) {
	c := script(t,
		qmptest.Expect("first").As("first"),
		qmptest.Expect("second").Return("second"),
		qmptest.Reply("first", "first"))
	ctx := testContext(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		var got string
		if err := c.Execute(ctx, "first", nil, &got); err != nil || got != "first" {
			t.Errorf("first: %q, %v", got, err)
		}
	})
	// The fake takes "first" before anything else, so it has to be on the wire.
	c2 := make(chan struct{})
	wg.Go(func() {
		<-c2
		var got string
		if err := c.Execute(ctx, "second", nil, &got); err != nil || got != "second" {
			t.Errorf("second: %q, %v", got, err)
		}
	})
	qmp.WaitSent(c, "first")
	close(c2)
	wg.Wait()
}

// An abandoned command neither blocks nor confuses those after it, and says that
// it may have run.
func TestAbandonedCommand(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	c := script(t,
		qmptest.Expect("slow").As("slow"), qmptest.Do(cancel),
		qmptest.Expect("next").As("next"),
		qmptest.Reply("slow", "late"), qmptest.Reply("next", "mine"))
	err := c.Execute(ctx, "slow", nil, nil)
	var ce *qmp.CallError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &ce) || !ce.Sent || ce.Command != "slow" {
		t.Fatalf("slow: %v", err)
	}
	var got string
	if err := c.Execute(testContext(t), "next", nil, &got); err != nil || got != "mine" {
		t.Errorf("next: %q, %v", got, err)
	}
	if c.Stray() != 1 {
		t.Errorf("Stray() = %d, want the late reply", c.Stray())
	}
}

// A command that waits for room, or for the writer, is never sent once its
// context has ended, and says so.
func TestWithdrawnCommandIsNeverSent(t *testing.T) {
	c := connect(t, qmptest.Start(t, qmptest.Negotiate(),
		qmptest.Expect("a").As("a"), qmptest.Reply("a", nil),
		qmptest.Expect("c").Return(nil)), qmp.WithWindow(1))
	ctx := testContext(t)
	gate, open := context.WithCancel(ctx)
	defer open()
	release := qmp.HoldWindow(c)
	err := c.Execute(withEnd(gate, open), "b", nil, nil)
	var ce *qmp.CallError
	if !errors.As(err, &ce) || ce.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("b: %v", err)
	}
	release()
	for _, name := range []string{"a", "c"} {
		if err := c.Execute(ctx, name, nil, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// withEnd ends the context as soon as somebody waits for it.
func withEnd(ctx context.Context, end func()) context.Context { return &endOnWait{ctx, end} }

type endOnWait struct {
	context.Context
	end func()
}

func (e *endOnWait) Done() <-chan struct{} {
	e.end()
	return e.Context.Done()
}

func (e *endOnWait) Err() error { return e.Context.Err() }

// Many commands from many callers, with events on both sides of every reply, one
// subscriber that keeps up and one that never reads.
func TestManyCommandsWithEvents(t *testing.T) {
	const callers, each = 10, 200
	c := script(t, qmptest.Serve(func(c qmptest.Command) any {
		return qmptest.Answer{Before: "STOP", Value: c.Args, After: "RESUME"}
	}))
	idle, err := c.Subscribe(qmp.SubscribeOptions{Queue: 10})
	if err != nil {
		t.Fatal(err)
	}
	sub, err := c.Subscribe(qmp.SubscribeOptions{Names: []string{"STOP"}, Queue: callers * each})
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { echo(ctx, t, c, i, each) })
	}
	wg.Wait()
	if got := len(sub.C()); got != callers*each || sub.Dropped() != 0 {
		t.Errorf("%d events queued, %d dropped; want %d and none", got, sub.Dropped(), callers*each)
	}
	if err := c.Close(); err != nil { // the event behind the last reply may be on its way yet
		t.Fatal(err)
	}
	if got := len(idle.C()); got != 10 || idle.Dropped() < 2*callers*each-11 {
		t.Errorf("idle subscription: %d events queued, %d dropped", got, idle.Dropped())
	}
}

// echo runs n commands and checks that each gets its own reply.
func echo(ctx context.Context, t *testing.T, x qmp.Executor, caller, n int) {
	for j := range n {
		want := fmt.Sprintf("%d-%d", caller, j)
		var got struct{ V string }
		if err := x.Execute(ctx, "echo", map[string]string{"v": want}, &got); err != nil || got.V != want {
			t.Errorf("got %q, %v; want %q", got.V, err, want)
			return
		}
	}
}
