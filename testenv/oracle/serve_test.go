package oracle

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// station is a guest's server on the loopback.
type station struct {
	*lab
	server *Server
	runner *Runner
	addr   string
	off    chan struct{}
}

func newStation(t *testing.T) *station {
	t.Helper()
	s := &station{lab: newLab(t), off: make(chan struct{}, 8)}
	s.server = NewServer(func() { s.off <- struct{}{} })
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = conn.LocalAddr().String()
	spec := workload.Spec{Kind: workload.Idle, Size: 4 * PageSize}
	if s.runner, err = NewRunner(s.Keeper, spec, 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.server.Serve(ctx, conn); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { s.runner.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s
}

func (s *station) attach() { s.server.Attach(s.Keeper, s.runner) }

func (s *station) dial(t *testing.T) *Client {
	t.Helper()
	c, err := Dial(t.Context(), new(net.Dialer), s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAClientChecksAGuest(t *testing.T) {
	s := newStation(t)
	s.attach()
	c := s.dial(t)
	r, err := c.Verify(t.Context())
	if err != nil || !r.OK || r.Pages != labPages || r.Blocks != labBlocks || r.Workload != "idle:size=16KiB" || r.Guest != "lab" {
		t.Fatalf("%+v, %v", r, err)
	}
	// A report that takes several datagrams.
	s.work.Lock()
	clear(s.region[:200*PageSize])
	for i := range uint64(200) {
		s.blockAt(i)[1] = 7
	}
	s.work.Unlock()
	r, err = c.Verify(t.Context())
	if err != nil || r.OK || r.Findings.Counts[LostPage] != 200 || r.Findings.Counts[TornBlock] != 200 {
		t.Fatalf("%+v, %v", r, err)
	}
	if p, err := c.Ping(t.Context()); err != nil || !p.Ready {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestAClientChangesTheWorkload(t *testing.T) {
	s := newStation(t)
	s.attach()
	c := s.dial(t)
	if err := c.SetWorkload(t.Context(), "uniform:size=64KiB,rate=max"); err != nil {
		t.Fatal(err)
	}
	for {
		st, err := c.Stats(t.Context())
		if err != nil || st.Workload != "uniform:size=64KiB,rate=10000000" {
			t.Fatalf("%+v, %v", st, err)
		}
		if st.PagesWritten > 1000 {
			break
		}
	}
	for _, bad := range []string{"busy", "uniform:size=1GiB", strings.Repeat("x", MaxArgument)} {
		if err := c.SetWorkload(t.Context(), bad); !errors.Is(err, ErrGuest) {
			t.Errorf("SetWorkload(%.20q) = %v, want ErrGuest", bad, err)
		}
	}
	if err := c.SetWorkload(t.Context(), strings.Repeat("x", MaxArgument+1)); err == nil {
		t.Error("an argument that does not fit was sent")
	}
	if st, err := c.Stats(t.Context()); err != nil || st.Workload != "uniform:size=64KiB,rate=10000000" {
		t.Errorf("after refusals: %+v, %v", st, err)
	}
}

func TestDialWaitsForTheGuest(t *testing.T) {
	s := newStation(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		c, err := Dial(t.Context(), new(net.Dialer), s.addr)
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	})
	s.attach()
}

func TestDialGivesUpWhenItsContextEnds(t *testing.T) {
	s := newStation(t) // never attached
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, new(net.Dialer), s.addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v", err)
	}
}

func TestAGuestThatCouldNotBeSetUpSaysWhy(t *testing.T) {
	s := newStation(t)
	s.server.Fail("no disk")
	if _, err := Dial(t.Context(), new(net.Dialer), s.addr); !errors.Is(err, ErrGuest) || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("Dial = %v", err)
	}
}

func TestPowerOffIsAnsweredFirst(t *testing.T) {
	s := newStation(t)
	s.attach()
	c := s.dial(t)
	if err := c.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-s.off
}

func TestACallIsRunOnce(t *testing.T) {
	s := newStation(t)
	s.attach()
	conn, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{conn: conn, buf: make([]byte, MaxMessage+1)}
	defer c.Close()
	before := s.Seal().Pages
	m := message{kind: msgCall, id: 5, op: opWorkload, data: []byte("idle:size=4KiB")}
	var first message
	for first.status != statusDone {
		if first, err = c.ask(t.Context(), m, msgReply); err != nil {
			t.Fatal(err)
		}
	}
	m.data = []byte("uniform:rate=max,size=4KiB") // the same id: not looked at again
	if again, err := c.ask(t.Context(), m, msgReply); err != nil || again.status != statusDone {
		t.Errorf("%+v, %v", again, err)
	}
	if w := s.runner.Workload(); w != "idle:size=4KiB" || s.Seal().Pages != before {
		t.Errorf("a repeated call was run again: %s", w)
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	s := newStation(t)
	s.attach()
	var wg sync.WaitGroup
	for range 2 * maxCalls {
		c := s.dial(t)
		wg.Go(func() {
			if r, err := c.Verify(t.Context()); err != nil || !r.OK {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
}

func TestAServerIgnoresGarbage(t *testing.T) {
	s := newStation(t)
	s.attach()
	conn, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, b := range [][]byte{{}, {1}, make([]byte, 3000), message{kind: msgPong}.append(nil),
		message{kind: msgReply, status: statusDone}.append(nil)} {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	s.dial(t) // it still answers
}

func TestServeEndsWithItsConnection(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := NewServer(nil).Serve(t.Context(), conn); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v", err)
	}
}

// A guest whose timers are dead answers, and its memory is whole.
func TestAGuestThatAnswersAndDoesNotTick(t *testing.T) {
	s := newStation(t)
	s.attach()
	c, seal := s.dial(t), s.Seal()
	if f, ok, err := c.Ticks(t.Context(), seal, TickPeriod); err != nil || ok || f.Kind != NoTicks {
		t.Errorf("no tick: %+v, %t, %v", f, ok, err)
	}
	s.Tick(seal.Mono+1, 0)
	if f, ok, err := c.Ticks(t.Context(), seal, TickPeriod); err != nil || !ok {
		t.Errorf("a tick: %+v, %t, %v", f, ok, err)
	}
}

func TestAWitnessOnTheNetwork(t *testing.T) {
	s := newStation(t)
	s.attach()
	w, err := StartWitness(t.Context(), new(net.Dialer), s.addr, WitnessOptions{Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for w.Report().Answers < 20 {
		s.Tick(s.Seal().Mono+1, 0)
	}
	r := w.Stop()
	if !r.OK || r.Guest != s.addr || r.High.Answers == 0 || r.Interval != time.Millisecond || r.RTT.Max == 0 {
		t.Errorf("%+v", r)
	}
	if again := w.Stop(); again.Answers != r.Answers {
		t.Error("a second Stop has another answer")
	}
	report, err := s.dial(t).Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fs := Judge(report, r); fs.Total() != 0 {
		t.Errorf("judged: %v", fs.List)
	}
}

func TestAWitnessOutlivesARefusedSocket(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := conn.LocalAddr().String()
	conn.Close()
	w, err := StartWitness(t.Context(), new(net.Dialer), addr, WitnessOptions{Interval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for w.Report().Errors == 0 {
		runtime.Gosched()
	}
	if r := w.Stop(); r.OK || r.LastError == "" {
		t.Errorf("%+v", r)
	}
}

func TestAWitnessRefusesABadInterval(t *testing.T) {
	for _, d := range []time.Duration{-1, time.Hour} {
		if _, err := StartWitness(t.Context(), new(net.Dialer), "127.0.0.1:1", WitnessOptions{Interval: d}); err == nil {
			t.Errorf("interval %v was taken", d)
		}
	}
}

// An answer to a question that the client gave up on comes in late.
func TestAClientTakesOnlyTheAnswerToItsQuestion(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		b := make([]byte, MaxMessage)
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			t.Error(err)
			return
		}
		m, err := decode(b[:n])
		if err != nil {
			t.Error(err)
		}
		for _, answer := range []message{
			{kind: msgPong, id: m.id + 1, pong: Pong{Ready: true, Seal: Seal{Ticks: 1}}},
			{kind: msgReply, id: m.id, status: statusDone},
			{kind: msgPong, id: m.id, pong: Pong{Ready: true, Seal: Seal{Ticks: 2}}},
		} {
			if _, err := conn.WriteTo(answer.append(nil), from); err != nil {
				t.Error(err)
			}
		}
	})
	raw, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{conn: raw, buf: make([]byte, MaxMessage+1)}
	defer c.Close()
	if p, err := c.Ping(t.Context()); err != nil || p.Ticks != 2 {
		t.Errorf("%+v, %v", p, err)
	}
}
