package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// serviceName stands before each method's name, as gRPC has it.
const serviceName = "vmmigrate.agent.v1.Agent"

func method(name string) string { return "/" + serviceName + "/" + name }

// service describes what a code generator would otherwise: each method with its handler on a *session.
func service() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: serviceName, HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary("Hello", (*session).hello),
			unary("OpenSource", (*session).openSource),
			unary("OpenDest", (*session).openDest),
			unary("Harvest", (*session).harvest),
			unary("SourceStats", (*session).sourceStats),
			unary("StreamUp", (*session).streamUp),
			unary("CloseSource", (*session).closeSource),
			unary("Tune", (*session).tune),
			unary("Pass", (*session).pass),
			unary("Switch", (*session).doSwitch),
			unary("Release", (*session).release),
			unary("CloseDest", (*session).closeDest),
			unary("Export", (*session).export),
			unary("WaitExport", (*session).waitExport),
			unary("Written", (*session).written),
			unary("CloseExport", (*session).closeExport),
			unary("DescribeImage", (*session).describeImage),
			unary("StageImage", (*session).stageImage),
			unary("PlaceImage", (*session).placeImage),
			unary("RemoveImage", (*session).removeImage),
			unary("SyncImages", (*session).syncImages),
			unary("OpenDiskSource", (*session).openDiskSource),
			unary("OpenDiskDest", (*session).openDiskDest),
			unary("Freeze", (*session).freeze),
			unary("DisksReady", (*session).disksReady),
			unary("Thaw", (*session).thaw),
			unary("Settle", (*session).settle),
			unary("TuneDisks", (*session).tuneDisks),
			unary("CloseDiskSource", (*session).closeDiskSource),
			unary("CloseDiskDest", (*session).closeDiskDest),
		},
		Streams: []grpc.StreamDesc{
			watched("Fetch", (*session).fetch),
			watched("Page", (*session).page),
			watched("Keep", (*session).keep),
			watched("FetchDisks", (*session).fetchDisks),
			serving(),
		},
	}
}

func unary[Req, Resp any](name string, f func(*session, context.Context, *Req) (*Resp, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name,
		Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			s, req := srv.(*session), new(Req)
			if err := decode(req); err != nil {
				return nil, err
			}
			var resp *Resp
			err := s.guard(name, func() (err error) { resp, err = f(s, ctx, req); return err })
			if err != nil {
				_ = grpc.SetTrailer(ctx, trailerOf(err)) // without it the text has to do
				return nil, status.Error(codeOf(err), clip(err.Error()))
			}
			return resp, nil
		}}
}

// watched is a method that tells of its progress.
func watched[Req any](name string, f func(*session, context.Context, *Req, func(Progress)) (Progress, error)) grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: name, ServerStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			s, req := srv.(*session), new(Req)
			if err := stream.RecvMsg(req); err != nil {
				return err
			}
			out := newTeller(stream)
			var last Progress
			err := s.guard(name, func() (err error) { last, err = f(s, stream.Context(), req, out.tell); return err })
			out.close()
			if err != nil {
				stream.SetTrailer(trailerOf(err))
				return status.Error(codeOf(err), clip(err.Error()))
			}
			return stream.SendMsg(&progressing{Progress: last, Done: true})
		}}
}

// guard keeps a fault in what one request touches from ending the process: it may be serving the pages of a guest.
func (s *session) guard(name string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("fault in the agent", "method", name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the agent has a fault, see its log: %v", p)
		}
	}()
	return f()
}

// codeOf is gRPC's code for an error, for tools that look at it; our own client reads the trailer.
func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, migrate.ErrNoDomain):
		return codes.NotFound
	case errors.Is(err, migrate.ErrNotSupported):
		return codes.Unimplemented
	case errors.Is(err, migrate.ErrPaused), errors.Is(err, migrate.ErrBusy), errors.Is(err, ErrClosed):
		return codes.FailedPrecondition
	}
	return codes.Unknown
}

// teller sends the newest progress and leaves out what a slow coordinator has not yet taken, so that it never holds up
// the work. It owns one goroutine, from newTeller to close.
type teller struct {
	stream grpc.ServerStream
	mu     sync.Mutex
	newest *Progress
	wake   chan struct{}
	wg     sync.WaitGroup
}

func newTeller(stream grpc.ServerStream) *teller {
	t := &teller{stream: stream, wake: make(chan struct{}, 1)}
	t.wg.Go(t.run)
	return t
}

// tell is safe for use by several goroutines, until close.
func (t *teller) tell(p Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest = &p
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *teller) run() {
	for range t.wake {
		t.mu.Lock()
		p := t.newest
		t.newest = nil
		t.mu.Unlock()
		if p == nil {
			continue
		}
		if err := t.stream.SendMsg(&progressing{Progress: *p}); err != nil {
			break // the coordinator is gone, and the call's context with it
		}
	}
	for range t.wake { // until close
	}
}

// close waits for the goroutine; what is newest has been sent then.
func (t *teller) close() {
	close(t.wake)
	t.wg.Wait()
}
