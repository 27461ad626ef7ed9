package agent

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Export opens a guest's RAM for NBD clients. See Agent.
func (c *Client) Export(ctx context.Context, spec ExportSpec) (Exported, error) {
	const op = "export the guest's RAM"
	blocks, err := blocksOf(spec.Regions)
	if err != nil {
		return nil, migrate.Fail(op, "", err, "")
	}
	var o opened
	if err := c.call(ctx, "Export", op, "", &spec, &o); err != nil {
		return nil, err
	}
	return &exportClient{c, o.Handle, blocks}, nil
}

// exportClient is a guest's exports at the other end of a connection.
type exportClient struct {
	c      *Client
	handle uint64
	blocks []ram.Block
}

// Serve carries one NBD connection.
func (e *exportClient) Serve(ctx context.Context, conn net.Conn) error {
	const op = "serve an NBD client"
	defer func() { _ = conn.Close() }() // it has had everything
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a stream that is not read to its end would stay
	desc := &grpc.StreamDesc{StreamName: "ServeExport", ServerStreams: true, ClientStreams: true}
	stream, err := e.c.cc.NewStream(ctx, desc, method(desc.StreamName))
	if err == nil {
		err = stream.SendMsg(&chunk{Handle: e.handle})
	}
	if err != nil {
		return failure(ctx, op, "", err, nil)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		_ = sendAll(stream, conn) // the answer tells why it is over
		_ = stream.CloseSend()
	})
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // wakes what reads it
	defer stop()
	err = receiveAll(stream, conn)
	_ = conn.Close() // the agent has no more to say; this ends the other direction
	if err == nil {
		err = finalAnswer(stream)
	}
	return failure(ctx, op, "", err, stream.Trailer())
}

// finalAnswer is what a method returned, once it has sent all.
func finalAnswer(stream grpc.ClientStream) error {
	var m chunk
	if err := stream.RecvMsg(&m); !ended(err) {
		return err
	} else if err == nil {
		return errors.New("the agent goes on after the end")
	}
	return nil
}

// Wait waits at the agent.
func (e *exportClient) Wait(ctx context.Context) error {
	return e.c.call(ctx, "WaitExport", "serve the guest's RAM", "", &ofEnd{e.handle}, &empty{})
}

// Written reads the tracker at the agent.
func (e *exportClient) Written(ctx context.Context) (Harvest, error) {
	const op = "read what the guest wrote"
	var m harvested
	if err := e.c.call(ctx, "Written", op, "", &ofEnd{e.handle}, &m); err != nil {
		return Harvest{}, err
	}
	set, err := decodeSet(m.set, e.blocks)
	if err != nil {
		return Harvest{}, migrate.Fail(op, "", err, "")
	}
	return Harvest{Dirty: set, Took: m.Took, Tracker: m.Tracker}, nil
}

// Close closes the exports at the agent.
func (e *exportClient) Close(ctx context.Context) error {
	return e.c.call(ctx, "CloseExport", "close the exports", "", &ofEnd{e.handle}, &empty{})
}
