package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/vmmigrate/vmmigrate/testenv/link"
)

// Limits of one message in bytes.
const (
	maxRequest = 64 << 10
	maxAnswer  = 16 << 20
)

// Request asks for one operation. Which fields count depends on Op.
type Request struct {
	Op   string     `json:"op"`
	Host string     `json:"host,omitempty"`
	Link *link.Spec `json:"link,omitempty"`
	// Low and High are a range of ports.
	Low  uint16 `json:"low,omitempty"`
	High uint16 `json:"high,omitempty"`
	// Guest names a guest; Args holds what else the operation needs.
	Guest string          `json:"guest,omitempty"`
	Args  json.RawMessage `json:"args,omitempty"`
}

// answer is the other line.
type answer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Handler does what a request asks. Its result is sent as JSON.
type Handler func(context.Context, Request) (any, error)

// RemoteError is what the daemon answered instead of a result.
type RemoteError struct {
	Op   string
	Text string
}

// Error gives the daemon's text; it says what was tried.
func (e *RemoteError) Error() string { return e.Text }

// Call sends the request to the daemon behind the socket and decodes the answer
// into result, unless that is nil.
func Call(ctx context.Context, socket string, r Request, result any) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("reach the lab's daemon: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = exchange(conn, r, result)
	if ctx.Err() != nil {
		return fmt.Errorf("ask the lab's daemon to %s: %w", r.Op, context.Cause(ctx))
	}
	return err
}

func exchange(conn io.ReadWriter, r Request, result any) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("ask the lab's daemon to %s: %w", r.Op, err)
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("ask the lab's daemon to %s: %w", r.Op, err)
	}
	var a answer
	if err := readLine(conn, maxAnswer, &a); err != nil {
		return fmt.Errorf("ask the lab's daemon to %s: %w", r.Op, err)
	}
	if a.Error != "" {
		return &RemoteError{Op: r.Op, Text: a.Error}
	}
	if result == nil || len(a.Result) == 0 {
		return nil
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("read the daemon's answer to %s: %w", r.Op, err)
	}
	return nil
}

// errTooLong refuses a message before it is all in memory.
var errTooLong = errors.New("message too long")

// readLine reads one line of at most limit bytes and decodes it.
func readLine(from io.Reader, limit int, into any) error {
	in := bufio.NewReader(io.LimitReader(from, int64(limit)))
	line, err := in.ReadBytes('\n')
	if err != nil {
		if len(line) >= limit {
			return errTooLong
		}
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	return json.Unmarshal(line, into)
}

// Server answers requests until it is closed.
type Server struct {
	listener net.Listener
	handler  Handler
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// Serve listens on the socket, which must not exist, and serves in the background.
func Serve(ctx context.Context, socket string, handler Handler) (*Server, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for requests: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for requests: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{listener: l, handler: handler, ctx: ctx, cancel: cancel}
	s.wg.Go(s.accept)
	return s, nil
}

// Close stops listening, cancels what is under way and waits for it.
func (s *Server) Close() error {
	s.cancel()
	err := s.listener.Close()
	s.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.serve(conn) })
	}
}

// serve does the one request of a connection.
func (s *Server) serve(conn net.Conn) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	defer conn.Close()
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()
	var r Request
	if err := readLine(conn, maxRequest, &r); err != nil {
		s.reply(conn, nil, fmt.Errorf("read the request: %w", err))
		return
	}
	// The client sends nothing more: the end of its side is its leaving.
	s.wg.Go(func() {
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	})
	result, err := s.handler(ctx, r)
	s.reply(conn, result, err)
}

// reply sends the answer. A client that is gone has no use for it.
func (s *Server) reply(conn net.Conn, result any, err error) {
	var a answer
	if err == nil {
		a.Result, err = json.Marshal(result)
	}
	if err != nil {
		a = answer{Error: err.Error()}
	}
	line, err := json.Marshal(a)
	if err != nil {
		return
	}
	_, _ = conn.Write(append(line, '\n'))
}
