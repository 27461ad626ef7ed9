package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent/internal/hall"
)

// Options of an agent's server.
type Options struct {
	// Version is the program's, for the greeting.
	Version string
	// TLS is for Serve and Front: who shows no certificate that it takes is not let in. nil is no TLS, for tests.
	TLS *tls.Config
	// Allow lists who is let in, with TLS; see Allowed for the patterns. Empty lets nobody in.
	Allow []string
	// Patience is how long requests that were given up may take to end once the coordinator is gone; 0 is 10 s.
	Patience time.Duration
	// Log hears who connects and why somebody is refused; nil is silence.
	Log *slog.Logger
}

func (o Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// window is the flow control window of HTTP/2 in bytes: a large set of pages must not wait for the other end's consent.
const window = 16 << 20

// A connection on which nothing is heard for these times together is lost.
const (
	pingAfter   = 10 * time.Second
	pingTimeout = 20 * time.Second
)

// maxSessions bounds the connections of an installed agent. Of those that have not yet shown who they are there may be
// maxStrangers more, and maxStrangersEach of them from one address.
const (
	maxSessions      = 64
	maxStrangers     = 64
	maxStrangersEach = 16
)

// ServeConn lets impl do what comes over one connection, until that ends or ctx does. Then requests that are under way are
// cancelled, impl is closed, also if one of them hangs, and ServeConn returns when that has returned: an impl that still pages
// a guest in stays for it, although nobody listens any more. It takes over both conn and impl.
func ServeConn(ctx context.Context, conn net.Conn, impl Agent, o Options) error {
	return serveConn(ctx, conn, impl, o, nil)
}

// serveConn refuses the coordinator if refused is an error.
func serveConn(ctx context.Context, conn net.Conn, impl Agent, o Options, refused error) error {
	peer, err := greetAsAgent(ctx, conn, o.Version, refused)
	if err != nil {
		o.log().Warn("coordinator refused", "from", conn.RemoteAddr(), "err", err)
		return errors.Join(migrate.Fail("meet the coordinator", "", err, ""), conn.Close(), impl.Close())
	}
	o.log().Info("coordinator connected", "from", conn.RemoteAddr(), "version", peer)
	s := &session{impl: impl, log: o.log(), ends: map[uint64]*end{}}
	g := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window), grpc.WriteBufferSize(128<<10), grpc.ReadBufferSize(128<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true))
	g.RegisterService(service(), s)
	once := newOnce(conn)
	served := make(chan error, 1)
	go func() { served <- g.Serve(once) }()
	select {
	case <-once.ended:
	case <-ctx.Done():
	}
	o.log().Info("coordinator gone", "from", conn.RemoteAddr())
	idle := make(chan struct{})
	go func() { // if a request hangs, it ends with it
		defer close(idle)
		g.Stop()
		<-served // it says only that it was stopped
	}()
	select {
	case <-idle:
	case <-time.After(o.patience()):
		o.log().Warn("a request that was given up does not end", "from", conn.RemoteAddr())
	}
	return impl.Close()
}

func (o Options) patience() time.Duration {
	if o.Patience == 0 {
		return 10 * time.Second
	}
	return o.Patience
}

// Serve takes connections until ctx ends, and gives each an agent of its own, made by open, in this process. It returns when
// the last of them is closed: after ctx has ended it still waits for guests that are being paged in. It takes over lis.
func Serve(ctx context.Context, lis net.Listener, open func() (Agent, error), o Options) error {
	return acceptAll(ctx, lis, o, func(conn net.Conn, known func()) { welcome(ctx, conn, open, o, known) })
}

// acceptAll hands each connection to f, in a goroutine of its own, until ctx ends, and waits for them. f calls known once it knows
// that whoever connects may.
func acceptAll(ctx context.Context, lis net.Listener, o Options, f func(conn net.Conn, known func())) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = lis.Close() }) // wakes Accept
	defer stop()
	defer func() { _ = lis.Close() }() // nobody accepts any more
	room, strangers := make(chan struct{}, maxSessions+maxStrangers), hall.New(maxStrangers, maxStrangersEach)
	for {
		conn, err := lis.Accept()
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if passing(err) {
			o.log().Warn("accept a coordinator", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptAgain):
			}
			continue
		}
		if err != nil {
			return migrate.Fail("wait for coordinators", "", err, "")
		}
		known, ok := strangers.Enter(conn.RemoteAddr())
		if !ok {
			o.log().Warn("too many connections that do not say who they are", "from", conn.RemoteAddr())
			_ = conn.Close() // it will come again, if it is a coordinator
			continue
		}
		select {
		case room <- struct{}{}:
			wg.Go(func() {
				defer func() { known(); <-room }()
				f(conn, known)
			})
		default:
			known()
			o.log().Warn("too many coordinators", "from", conn.RemoteAddr())
			_ = conn.Close() // it will say so itself
		}
	}
}

// acceptAgain is the pause after a connection could not be taken for the moment.
const acceptAgain = 100 * time.Millisecond

// passing tells of an error that it is the machine's, or one connection's, and passes: a service that ended for it would be deaf
// until the last guest that it serves is whole.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// welcome finds out who connects and serves it. What fails is in the log.
func welcome(ctx context.Context, raw net.Conn, open func() (Agent, error), o Options, known func()) {
	conn, refused, err := o.admit(ctx, raw)
	if err != nil {
		_ = raw.Close() // it has had an alert
		return
	}
	if refused == nil {
		known()
	}
	impl, err := open()
	if err != nil {
		o.log().Error("open an agent", "err", err)
		_ = conn.Close() // nobody will serve it
		return
	}
	if err := serveConn(ctx, conn, impl, o, refused); err != nil {
		o.log().Error("close an agent", "err", err)
	}
}

// onceListener gives one connection and tells when it has ended.
type onceListener struct {
	conn  chan net.Conn
	addr  net.Addr
	ended chan struct{}
	once  sync.Once
}

func newOnce(c net.Conn) *onceListener {
	l := &onceListener{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), ended: make(chan struct{})}
	l.conn <- &watchedConn{Conn: c, closed: l.end}
	return l
}

func (l *onceListener) end() { l.once.Do(func() { close(l.ended) }) }

// Accept gives the connection, and then waits until it has ended.
func (l *onceListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

// Close closes a connection that nobody has taken.
func (l *onceListener) Close() error {
	select {
	case c := <-l.conn:
		return c.Close()
	default:
		l.end()
		return nil
	}
}

func (l *onceListener) Addr() net.Addr { return l.addr }

// watchedConn tells when it is closed.
type watchedConn struct {
	net.Conn
	closed func()
}

func (c *watchedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}
