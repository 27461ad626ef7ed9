package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/vmmigrate/vmmigrate/migrate"
)

var _ Agent = (*Client)(nil)

// Client is an agent at the other end of a connection. It is safe for use by several goroutines.
//
// What it returns behaves as the agent itself would, with these differences: progress may leave out steps; a call whose
// context has ended returns at once, and the next call to the same end of the migration waits for it at the agent; and
// every call fails with migrate.ErrLinkLost once the connection is gone.
type Client struct {
	version string // the agent's
	cc      *grpc.ClientConn
	conn    net.Conn
	once    sync.Once
	err     error
	end     func() error // what else belongs to the connection; may be nil
}

// NewClient greets the agent at the other end of conn, which it takes over: over a pipe, a socket, or TLS. version is the
// program's own, for the greeting. Another protocol is ErrVersion, with both versions in the text. ctx bounds the greeting
// only. The caller closes the client.
func NewClient(ctx context.Context, conn net.Conn, version string) (*Client, error) {
	return newClient(ctx, conn, version, 0)
}

func newClient(ctx context.Context, conn net.Conn, version string, noise int) (*Client, error) {
	g, err := greetAsCoordinator(ctx, conn, version, noise)
	if err != nil {
		_ = conn.Close() // it is of no use
		return nil, migrate.Fail("meet the agent", "", err, "")
	}
	conns := make(chan net.Conn, 1)
	conns <- conn
	cc, err := grpc.NewClient("passthrough:///agent",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-conns:
				return c, nil
			default:
				return nil, migrate.ErrLinkLost // a connection is never made anew: the agent's state went with it
			}
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS, where there is any, is below
		grpc.WithIdleTimeout(0), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithWriteBufferSize(128<<10), grpc.WithReadBufferSize(128<<10),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, errors.Join(migrate.Fail("meet the agent", "", err, ""), conn.Close())
	}
	cc.Connect()
	return &Client{version: g.Version, cc: cc, conn: conn}, nil
}

// Version is the version of the agent's program.
func (c *Client) Version() string { return c.version }

// Close ends the connection. The agent cancels what is under way, and stays as long as a guest is being paged in.
func (c *Client) Close() error {
	c.once.Do(func() {
		c.err = c.cc.Close()
		_ = c.conn.Close() // gRPC closes it too, a little later
		if c.end != nil {
			c.err = errors.Join(c.err, c.end())
		}
	})
	return c.err
}

// Hello tells who the agent is.
func (c *Client) Hello(ctx context.Context) (Identity, error) {
	var id Identity
	if err := c.call(ctx, "Hello", "ask the agent who it is", "", &empty{}, &id); err != nil {
		return Identity{}, err
	}
	if id.Protocol != Protocol {
		return Identity{}, versionError(roleAgent, looseGreeting{roleAgent, id.Protocol, id.Version}, c.version)
	}
	return id, nil
}

// OpenSource opens the source's end. See Agent.
func (c *Client) OpenSource(ctx context.Context, spec SourceSpec) (Source, error) {
	const op = "open the source's end"
	blocks, err := blocksOf(spec.Regions)
	if err != nil {
		return nil, migrate.Fail(op, migrate.SideSource, err, "")
	}
	var o opened
	if err := c.call(ctx, "OpenSource", op, migrate.SideSource, &spec, &o); err != nil {
		return nil, err
	}
	return &sourceClient{c: c, handle: o.Handle, blocks: blocks}, nil
}

// OpenDest opens the destination's end. See Agent.
func (c *Client) OpenDest(ctx context.Context, spec DestSpec) (Dest, error) {
	const op = "open the destination's end"
	blocks, err := blocksOf(spec.Regions)
	if err != nil {
		return nil, migrate.Fail(op, migrate.SideDestination, err, "")
	}
	var o opened
	if err := c.call(ctx, "OpenDest", op, migrate.SideDestination, &spec, &o); err != nil {
		return nil, err
	}
	return &destClient{c: c, handle: o.Handle, addr: o.Addr, held: o.Held, blocks: blocks}, nil
}

// call asks for one thing and waits for the answer.
func (c *Client) call(ctx context.Context, name, op string, side migrate.Side, req, resp any) error {
	var trailer metadata.MD
	err := c.cc.Invoke(ctx, method(name), req, resp, grpc.Trailer(&trailer))
	return failure(ctx, op, side, err, trailer)
}

// watch asks for one thing and hears of its progress until the answer.
func (c *Client) watch(ctx context.Context, name, op string, req any, progress func(Progress)) (Progress, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a stream that is not read to its end would stay
	desc := &grpc.StreamDesc{StreamName: name, ServerStreams: true}
	stream, err := c.cc.NewStream(ctx, desc, method(name))
	if err == nil {
		err = stream.SendMsg(req)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the reason comes with the answer
		return Progress{}, failure(ctx, op, migrate.SideDestination, err, nil)
	}
	for {
		var m progressing
		if err := stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the agent ended the answer too early")
			}
			return Progress{}, failure(ctx, op, migrate.SideDestination, err, stream.Trailer())
		}
		if m.Done {
			return m.Progress, nil
		}
		if progress != nil {
			progress(m.Progress)
		}
	}
}

// failure makes of gRPC's error the one that the agent had, or says what became of the connection.
func failure(ctx context.Context, op string, side migrate.Side, err error, trailer metadata.MD) error {
	if err == nil {
		return nil
	}
	if sent := errorOf(trailer); sent != nil {
		return sent
	}
	st := status.Convert(err)
	switch {
	case ctx.Err() != nil:
		return migrate.Fail(op, side, ctx.Err(), "")
	case st.Code() == codes.DeadlineExceeded:
		return migrate.Fail(op, side, context.DeadlineExceeded, "")
	case st.Code() == codes.Canceled:
		return migrate.Fail(op, side, ErrClosed, "") // by ourselves
	case st.Code() == codes.Unimplemented: // by gRPC: an agent that knows the request says why itself
		return migrate.Fail(op, side, fmt.Errorf("%w: the agent's answer: %s", migrate.ErrNotSupported, st.Message()), "install this version of vmmigrate there")
	case st.Code() == codes.Unavailable:
		return migrate.Fail(op, side, fmt.Errorf("%w: the agent's connection: %s", migrate.ErrLinkLost, st.Message()), "")
	}
	return migrate.Fail(op, side, fmt.Errorf("the agent's answer: %s", st.Message()), "")
}
