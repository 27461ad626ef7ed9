package oracle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/workload"
)

// Server answers a guest's clients. Make it with NewServer. It answers pings
// before it has anything to keep, so that the lab sees the guest as soon as it
// is on the network.
type Server struct {
	off func()

	mu     sync.Mutex
	keeper *Keeper  // guarded by mu; nil until Attach
	runner *Runner  // guarded by mu; nil until Attach
	broken string   // guarded by mu; why there will be none
	calls  callList // guarded by mu
}

// NewServer makes a Server. powerOff is called, once the reply is out, when a
// client asks for it; nil refuses.
func NewServer(powerOff func()) *Server { return &Server{off: powerOff} }

// Attach gives the server what it answers for.
func (s *Server) Attach(k *Keeper, r *Runner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeper, s.runner = k, r
}

// Fail makes every call return why the guest could not be set up.
func (s *Server) Fail(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = why
}

// Serve answers on conn until ctx ends or conn fails for good, then closes
// conn and waits for the calls that it started. It returns nil when ctx ended.
func (s *Server) Serve(ctx context.Context, conn net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	var running sync.WaitGroup
	defer func() {
		cancel()
		stop()
		running.Wait()
		conn.Close()
	}()
	in, out := make([]byte, MaxMessage+1), make([]byte, 0, MaxMessage)
	for failures := 0; ; {
		n, from, err := conn.ReadFrom(in)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			// A connection that failed once in a row with an ICMP error is
			// well; one that only ever fails is not.
			if failures++; failures > 100 || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("oracle: serve: %w", err)
			}
			continue
		}
		failures = 0
		m, err := decode(in[:n])
		if err != nil {
			continue // not for us; an answer would only invite more
		}
		reply, ok, after := s.handle(ctx, m, &running)
		if !ok {
			continue
		}
		out = reply.append(out[:0])
		_, _ = conn.WriteTo(out, from) // lost is lost: the client asks again
		if after != nil {
			after()
		}
	}
}

// handle answers one message; after, when not nil, is to be called once the
// answer is out.
func (s *Server) handle(ctx context.Context, m message, running *sync.WaitGroup) (reply message, ok bool, after func()) {
	switch m.kind {
	case msgPing:
		return message{kind: msgPong, id: m.id, pong: s.pong()}, true, nil
	case msgCall:
		reply := s.call(ctx, m, running)
		if m.op == opPowerOff && reply.status == statusDone {
			after = s.off
		}
		return reply, true, after
	}
	return message{}, false, nil
}

func (s *Server) pong() Pong {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keeper == nil {
		return Pong{Failed: s.broken != ""}
	}
	return Pong{Seal: s.keeper.Answer(), Ready: true, Findings: s.keeper.seals.any()}
}

// call finds the result of a call that was asked before, or starts it.
func (s *Server) call(ctx context.Context, m message, running *sync.WaitGroup) message {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.calls.find(m.id)
	if c == nil {
		if s.broken == "" && s.keeper == nil {
			return message{kind: msgReply, id: m.id, status: statusPending}
		}
		c = s.calls.add(m.id)
		arg := string(m.data)
		if s.broken != "" {
			c.status, c.result = statusFailed, []byte(s.broken)
		} else {
			running.Go(func() { s.run(ctx, c, m.op, arg) })
		}
	}
	reply := message{kind: msgReply, id: m.id, status: c.status, total: uint32(len(c.result))}
	if int(m.offset) < len(c.result) {
		reply.offset = m.offset
		reply.data = c.result[m.offset:]
		reply.data = reply.data[:min(len(reply.data), maxPart)]
	}
	return reply
}

// run does what a call asks for and keeps the result.
func (s *Server) run(ctx context.Context, c *call, o op, arg string) {
	result, err := s.do(ctx, o, arg)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(result) > MaxResult {
		err = fmt.Errorf("a result of %d bytes cannot be sent", len(result))
	}
	if err != nil {
		c.status, c.result = statusFailed, []byte(err.Error())
		return
	}
	c.status, c.result = statusDone, result
}

func (s *Server) do(ctx context.Context, o op, arg string) ([]byte, error) {
	s.mu.Lock()
	k, r := s.keeper, s.runner
	s.mu.Unlock()
	switch o {
	case opStats:
		return json.Marshal(r.Stats())
	case opVerify:
		report := k.Verify(ctx)
		report.Workload = r.Workload()
		return json.Marshal(report)
	case opWorkload:
		spec, err := workload.Parse(arg)
		if err != nil {
			return nil, err
		}
		return nil, r.SetWorkload(spec)
	case opPowerOff:
		if s.off == nil {
			return nil, errors.New("this guest cannot be turned off from here")
		}
		return nil, k.Flush()
	}
	return nil, fmt.Errorf("unknown call %d", o)
}

// call is one call and its result.
type call struct {
	id     uint64
	status status
	result []byte
}

// callList keeps the last calls, for clients that ask again.
type callList struct {
	calls []*call
}

// maxCalls bounds how many results are kept.
const maxCalls = 16

func (l *callList) find(id uint64) *call {
	for _, c := range l.calls {
		if c.id == id {
			return c
		}
	}
	return nil
}

// add makes room by forgetting the oldest call that is done.
func (l *callList) add(id uint64) *call {
	if len(l.calls) >= maxCalls {
		for i, c := range l.calls {
			if c.status != statusPending {
				l.calls = append(l.calls[:i], l.calls[i+1:]...)
				break
			}
		}
	}
	c := &call{id: id, status: statusPending}
	l.calls = append(l.calls, c)
	return c
}
