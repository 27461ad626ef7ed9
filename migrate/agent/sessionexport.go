package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

func (s *session) export(ctx context.Context, spec *ExportSpec) (*opened, error) {
	blocks, err := blocksOf(spec.Regions)
	if err != nil {
		return nil, err
	}
	x, err := s.impl.Export(ctx, *spec)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // nobody will know that it is open
		return nil, errors.Join(ctx.Err(), x.Close(context.WithoutCancel(ctx)))
	}
	return &opened{Handle: s.register(&end{exported: x, blocks: blocks})}, nil
}

// exported finds open exports; none, and no error, if they are closed. Requests to them do not wait for each other.
func (s *session) exported(handle uint64) (Exported, error) {
	e, err := s.find(handle)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, nil
	case e.exported == nil:
		return nil, fmt.Errorf("number %d is no export", handle)
	}
	return e.exported, nil
}

func (s *session) waitExport(ctx context.Context, m *ofEnd) (*empty, error) {
	x, err := s.exported(m.Handle)
	if x == nil || err != nil {
		return &empty{}, err
	}
	return &empty{}, x.Wait(ctx)
}

func (s *session) written(ctx context.Context, m *ofEnd) (*harvested, error) {
	x, err := s.exported(m.Handle)
	if x == nil && err == nil {
		err = fmt.Errorf("the exports: %w", ErrClosed)
	}
	if err != nil {
		return nil, err
	}
	h, err := x.Written(ctx)
	if err != nil {
		return nil, err
	}
	e, err := s.find(m.Handle)
	if e == nil && err == nil {
		err = fmt.Errorf("the exports: %w", ErrClosed)
	}
	if err == nil {
		err = h.Dirty.Fits(e.blocks)
	}
	if err != nil {
		return nil, err
	}
	out := &harvested{Took: h.Took, Tracker: h.Tracker}
	out.set, err = encodeSet(h.Dirty)
	return out, err
}

func (s *session) closeExport(ctx context.Context, m *ofEnd) (*empty, error) {
	x, err := s.exported(m.Handle)
	if x == nil || err != nil {
		return &empty{}, err
	}
	if err := x.Close(ctx); err != nil {
		return nil, err
	}
	s.forget(m.Handle)
	return &empty{}, nil
}

// serving is the method that carries one NBD connection.
func serving() grpc.StreamDesc {
	const name = "ServeExport"
	return grpc.StreamDesc{StreamName: name, ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			s, first := srv.(*session), new(chunk)
			if err := stream.RecvMsg(first); err != nil {
				return err
			}
			if err := s.guard(name, func() error { return s.serveExport(stream, first.Handle) }); err != nil {
				stream.SetTrailer(trailerOf(err))
				return status.Error(codeOf(err), clip(err.Error()))
			}
			return nil
		}}
}

// serveExport hands one connection to the exports. It returns when all that they said is sent and the client's side has
// ended, or the coordinator is gone.
func (s *session) serveExport(stream grpc.ServerStream, handle uint64) error {
	x, err := s.exported(handle)
	if err == nil && x == nil {
		err = fmt.Errorf("the exports: %w", ErrClosed)
	}
	if err != nil {
		return err
	}
	ours, theirs, err := connPair()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var sent, came error
	wg.Go(func() {
		sent = sendAll(stream, ours)
	})
	wg.Go(func() {
		if came = receiveAll(stream, ours); came != nil {
			_ = ours.Close() // the coordinator is gone
			return
		}
		if c, ok := ours.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite() // the server answers what it was asked, and ends
		}
	})
	err = x.Serve(stream.Context(), theirs)
	wg.Wait()
	_ = ours.Close() // both directions have ended
	if stream.Context().Err() != nil {
		return stream.Context().Err()
	}
	return errors.Join(err, sent, came)
}

// connPair is a connection within the process, with all that a socket can.
func connPair() (a, b net.Conn, err error) {
	a, f, err := socketpair()
	if err != nil {
		return nil, nil, err
	}
	b, err = net.FileConn(f)
	_ = f.Close() // FileConn has its own
	if err != nil {
		_ = a.Close() // nobody has the other end
		return nil, nil, err
	}
	return a, b, nil
}
