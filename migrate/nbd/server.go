package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Limits bound what one connection of a server may take. Zero fields have defaults.
type Limits struct {
	// Handshake is how long a client may negotiate. Default 10 s.
	Handshake time.Duration
	// Requests is how many requests of a connection are in flight at most; those above wait in the socket. Default 128.
	Requests int
	// Bytes is how much data those may hold together. Default 64 MiB; one request is always let in.
	Bytes int64
	// Request is the largest read or write, in bytes. Default and most: 32 MiB.
	Request uint32
	// Grace is how long a connection that is ended may go on answering what it was asked. Default 5 s.
	Grace time.Duration
	// Patience is how long a peer may take none of the data it is sent before the connection is given up. Default 30 s.
	Patience time.Duration
}

func (l Limits) withDefaults() Limits {
	l.Handshake = orDefault(l.Handshake, 10*time.Second)
	l.Requests = orDefault(l.Requests, 128)
	l.Bytes = orDefault(l.Bytes, 64<<20)
	l.Request = orDefault(l.Request, maxPayload)
	l.Grace = orDefault(l.Grace, 5*time.Second)
	l.Patience = orDefault(l.Patience, 30*time.Second)
	return l
}

func orDefault[T comparable](v, def T) T {
	var none T
	if v == none {
		return def
	}
	return v
}

// Config is what a Server is made of.
type Config struct {
	// Exports is what is offered. Required.
	Exports Catalog
	// TLS, if set, is offered to clients by STARTTLS. For mutual TLS it asks for client certificates itself, by ClientAuth.
	TLS *tls.Config
	// RequireTLS refuses everything else before TLS; connections that are a *tls.Conn already are fine.
	RequireTLS bool
	// Log hears of connections that ended badly. Default: nothing.
	Log *slog.Logger
	// Limits are those of each connection.
	Limits Limits
}

// Server serves exports over NBD. It is safe for use by several goroutines.
type Server struct {
	cfg     Config
	log     *slog.Logger
	buffers bufferPool

	ctx    context.Context // ended by Close
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // connections and listeners
}

// ErrServerClosed is what Serve and ServeConn return after Close.
var ErrServerClosed = errors.New("nbd: server closed")

// NewServer makes a server. It does nothing until it is given connections.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Exports == nil {
		return nil, errors.New("nbd: a server needs exports")
	}
	if cfg.RequireTLS && cfg.TLS == nil {
		return nil, errors.New("nbd: a server that requires TLS needs its configuration")
	}
	if cfg.Limits.Request > maxPayload {
		return nil, fmt.Errorf("nbd: requests of %d bytes: more than the protocol's %d", cfg.Limits.Request, maxPayload)
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{cfg: cfg, log: cfg.Log, ctx: ctx, cancel: cancel}, nil
}

// begin counts one more connection or listener; false after Close.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Add(1)
	}
	return !s.closed
}

// Serve accepts connections until the context ends, which returns nil, or Close, which returns ErrServerClosed. It closes
// the listener, and returns when the connections it accepted have ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.begin() {
		_ = l.Close() // nobody else would
		return ErrServerClosed
	}
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // Accept then fails; why it does is asked of ctx
	var conns sync.WaitGroup
	err := s.accept(ctx, l, &conns)
	if err != nil {
		_ = l.Close() // it failed already
	}
	conns.Wait()
	if s.ctx.Err() != nil {
		return ErrServerClosed
	}
	return err
}

func (s *Server) accept(ctx context.Context, l net.Listener, conns *sync.WaitGroup) error {
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close() // it came too late
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("nbd: accept: %w", err)
		}
		conns.Go(func() {
			if err := s.ServeConn(ctx, conn); err != nil && !errors.Is(err, ErrServerClosed) {
				s.log.Warn("nbd connection ended", "peer", conn.RemoteAddr(), "err", err)
			}
		})
	}
}

// ServeConn serves one connection and closes it. It returns nil when the client said goodbye or the context ended, after
// answering what had been asked.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	defer conn.Close() //nolint:errcheck // nothing is left to be said to the peer
	if !s.begin() {
		return ErrServerClosed
	}
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	tuneSocket(conn, s.cfg.Limits.Patience)
	c, err := s.negotiate(ctx, conn)
	if err == nil && c != nil {
		err = c.run(ctx)
	}
	if s.ctx.Err() != nil {
		return ErrServerClosed
	}
	if err != nil && ctx.Err() != nil && c == nil {
		return nil // it was told to end while it negotiated
	}
	return err
}

// Close ends all connections: what they were asked is answered, for as long as Limits.Grace, and nothing more is taken. It
// returns when all have ended.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	return nil
}
