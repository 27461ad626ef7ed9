package qmptest_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/qmp/qmptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// probe is a test whose failures are looked at instead of counted. Its cleanups
// run when finish is called.
type probe struct {
	testing.TB
	failures chan string
	cleanups []func()
}

func newProbe(t *testing.T) *probe { return &probe{TB: t, failures: make(chan string, 10)} }

func (*probe) Helper()                          {}
func (p *probe) Cleanup(fn func())              { p.cleanups = append(p.cleanups, fn) }
func (p *probe) Errorf(format string, a ...any) { p.failures <- fmt.Sprintf(format, a...) }
func (p *probe) Fatalf(format string, a ...any) { p.TB.Fatalf(format, a...) }

// finish ends the test and gives its failures.
func (p *probe) finish() []string {
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		p.cleanups[i]()
	}
	close(p.failures)
	var all []string
	for f := range p.failures {
		all = append(all, f)
	}
	return all
}

// peer is the simplest client there can be.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func newPeer(t *testing.T, conn net.Conn) *peer { return &peer{t, conn, bufio.NewReader(conn)} }

func (p *peer) say(text string) {
	p.t.Helper()
	if _, err := p.conn.Write([]byte(text)); err != nil {
		p.t.Fatalf("%s: %v", text, err)
	}
}

func (p *peer) hear(want string) {
	p.t.Helper()
	line, err := p.r.ReadString('\n')
	if err != nil || !strings.Contains(line, want) || !strings.HasSuffix(line, "\r\n") {
		p.t.Fatalf("heard %q, %v; want %q", line, err, want)
	}
}

func TestScript(t *testing.T) {
	reached := make(chan struct{})
	p := newPeer(t, qmptest.Start(t,
		qmptest.Negotiate("oob"),
		qmptest.Expect("a").Args(map[string]int{"x": 1}).OOB(false).Event("STOP", nil).Return([]int{1}),
		qmptest.Expect("b").OOB(true).Fail("GenericError", "no"),
		qmptest.Expect("c").As("c"), qmptest.Expect("d").As("d"),
		qmptest.Do(func() { close(reached) }),
		qmptest.Reply("d", nil), qmptest.ReplyError("c", "X", "y"),
		qmptest.EventAt("E", map[string]int{"n": 2}, 3, 4),
		qmptest.Raw("raw\r\n"),
		qmptest.Close(),
	))
	p.hear(`"capabilities":["oob"]`)
	p.say(`{"execute":"qmp_capabilities"}`)
	p.hear(`{"return":{}}`)
	p.say(`{"execute":"a","arguments":{"x":1},"id":7}`)
	p.hear(`"STOP"`)
	p.hear(`{"id":7,"return":[1]}`)
	p.say(`{"exec-oob":"b"}`)
	p.hear(`{"error":{"class":"GenericError","desc":"no"}}`)
	p.say(`{"execute":"c","id":"c"}{"execute":"d","id":"d"}`)
	<-reached
	p.hear(`{"id":"d","return":{}}`)
	p.hear(`"id":"c"`)
	p.hear(`{"data":{"n":2},"event":"E","timestamp":{"microseconds":4,"seconds":3}}`)
	p.hear("raw")
	if _, err := p.r.ReadByte(); err == nil {
		t.Error("the connection is still open")
	}
}

func TestServe(t *testing.T) {
	p := newPeer(t, qmptest.Start(t, qmptest.Serve(func(c qmptest.Command) any {
		switch c.Name {
		case "bad":
			return qmptest.Failure{Class: "C", Desc: "d"}
		case "noisy":
			return qmptest.Answer{Before: "ONE", Value: qmptest.Failure{Class: "F"}, After: "TWO"}
		}
		return c.Args
	})))
	p.say(`{"execute":"echo","arguments":{"a":1}}`)
	p.hear(`{"return":{"a":1}}`)
	p.say(`{"execute":"bad"}`)
	p.hear(`"class":"C"`)
	p.say(`{"execute":"noisy"}`)
	p.hear("ONE")
	p.hear(`"class":"F"`)
	p.hear("TWO")
}

// Every mistake of a client is reported, with the step, both sides of the
// difference, and what was said before.
func TestFailureTexts(t *testing.T) {
	expect := func(e *qmptest.Expectation) []qmptest.Step { return []qmptest.Step{qmptest.Raw("x\r\n"), e} }
	tests := []struct {
		name  string
		steps []qmptest.Step
		say   string
		want  []string
	}{
		{"another command", expect(qmptest.Expect("stop")), `{"execute":"cont"}`,
			[]string{"step 2 of 2 (Expect stop)", "got command cont", "S: x", `C: {"execute":"cont"}`}},
		{"other arguments", expect(qmptest.Expect("m").Args(map[string]int{"a": 1})), `{"execute":"m","arguments":{"a":2}}`,
			[]string{`want {"a":1}`, `got  {"a":2}`}},
		{"out of band", expect(qmptest.Expect("m").OOB(false)), `{"exec-oob":"m"}`, []string{"out of band: want false, got true"}},
		{"check", expect(qmptest.Expect("m").Check(func(qmptest.Command) error { return errors.New("too late") })),
			`{"execute":"m"}`, []string{"too late"}},
		{"no command", expect(qmptest.Expect("m")), ``, []string{"no command came"}},
		{"not a command", expect(qmptest.Expect("m")), `{"exec":"m"}`, []string{"not a command"}},
		{"not JSON", expect(qmptest.Expect("m")), `what?`, []string{"invalid character"}},
		{"not an object", expect(qmptest.Expect("m")), `"m" `, []string{"not a command"}},
		{"arguments of the script", expect(qmptest.Expect("m").Args(func() {})), ``, []string{"unsupported type"}},
		{"unknown label", []qmptest.Step{qmptest.Raw("x\r\n"), qmptest.Reply("l", nil)}, ``, []string{`no command was put aside as "l"`}},
		{"unknown error label", []qmptest.Step{qmptest.Raw("x\r\n"), qmptest.ReplyError("l", "", "")}, ``, []string{`as "l"`}},
		{"after the script", []qmptest.Step{qmptest.Raw("x\r\n")}, `{"execute":"more"}`, []string{"the script is over, but the client sent more"}},
		{"a file over a pipe", expect(qmptest.Expect("m").File(nil)), `{"execute":"m"}`, nil},
		{"a file over a pipe, wanted", expect(qmptest.Expect("m").File(func(*os.File) {})), `{"execute":"m"}`, []string{"need Listen"}},
		{"unencodable", expect(qmptest.Expect("m").Return(func() {})), `{"execute":"m"}`, []string{"unsupported type"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tb := newProbe(t)
			p := newPeer(t, qmptest.Start(tb, tc.steps...))
			p.hear("x")
			if tc.say != "" {
				p.say(tc.say)
				if tc.want != nil {
					_, _ = p.r.ReadByte() // the connection ends when the mistake was seen
				}
			}
			text := strings.Join(tb.finish(), "\n")
			if (text == "") != (tc.want == nil) {
				t.Errorf("failures: %q", text)
			}
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("the failure does not say %q:\n%s", want, text)
				}
			}
		})
	}
}

// The transcript is bounded, however long the conversation was.
func TestTranscriptIsBounded(t *testing.T) {
	tb := newProbe(t)
	steps := make([]qmptest.Step, 0, 100)
	for range 99 {
		steps = append(steps, qmptest.Raw(strings.Repeat("y", 5000)+"\r\n"))
	}
	p := newPeer(t, qmptest.Start(tb, append(steps, qmptest.Expect("m"))...))
	for range 99 {
		p.hear("y")
	}
	p.say(`{"execute":"other"}`)
	_, _ = p.r.ReadByte()
	if text := strings.Join(tb.finish(), ""); len(text) > 4000 || !strings.Contains(text, "(5000 bytes)") {
		t.Errorf("%d bytes: %.300s", len(text), text)
	}
}

func TestListen(t *testing.T) {
	tb := newProbe(t)
	path := qmptest.Listen(tb,
		[]qmptest.Step{qmptest.Greeting(), qmptest.Hang()},
		[]qmptest.Step{qmptest.Expect("getfd").File(func(f *os.File) {
			_, _ = f.WriteString("hello") // the test reads it
			_ = f.Close()
		}).Return(nil), qmptest.Expect("getfd").File(func(*os.File) {})},
		[]qmptest.Step{qmptest.Greeting()},
	)
	first := dialUnix(t, path)
	newPeer(t, first).hear("QMP")
	second := dialUnix(t, path)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, _, err := second.WriteMsgUnix([]byte(`{"execute":"getfd"}`), syscall.UnixRights(int(w.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	newPeer(t, second).hear("return")
	b := make([]byte, 5)
	if _, err := r.Read(b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	newPeer(t, second).say(`{"execute":"getfd"}`)
	_, _ = second.Read(b) // ends when the mistake was seen
	text := strings.Join(tb.finish(), "\n")
	for _, want := range []string{"no descriptor came", "script 3 of 3 was never played"} {
		if !strings.Contains(text, want) {
			t.Errorf("the failure does not say %q:\n%s", want, text)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is still there")
	}
	_ = first.Close()
	_ = second.Close()
}

func dialUnix(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ExampleStart() {
	t := &testing.T{} // the test's own in real life
	conn := qmptest.Start(t,
		qmptest.Negotiate(),
		qmptest.Expect("query-status").Return(map[string]any{"status": "running", "running": true}),
	)
	dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)
	var reply struct{ Return json.RawMessage }
	_ = dec.Decode(&reply) // the greeting
	for _, command := range []string{"qmp_capabilities", "query-status"} {
		_ = enc.Encode(map[string]string{"execute": command})
		_ = dec.Decode(&reply)
		fmt.Println(command, string(reply.Return))
	}
	_ = conn.Close()
	// Output:
	// qmp_capabilities {}
	// query-status {"running":true,"status":"running"}
}
