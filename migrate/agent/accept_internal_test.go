package agent

import (
	"context"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// poorListener lacks descriptors for the first few connections.
type poorListener struct {
	fails int
	conns chan net.Conn
}

func (l *poorListener) Accept() (net.Conn, error) {
	if l.fails--; l.fails >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *poorListener) Close() error   { return nil }
func (l *poorListener) Addr() net.Addr { return &net.UnixAddr{Name: "poor"} }

// A service that lacks descriptors for the moment goes on when it has some.
func TestServiceThatLacksDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		l := &poorListener{fails: 5, conns: make(chan net.Conn, 1)}
		l.conns <- theirs
		ctx, stop := context.WithCancel(t.Context())
		began, came := time.Now(), 0
		done := make(chan error, 1)
		go func() {
			done <- acceptAll(ctx, l, Options{}, func(c net.Conn) { came++; _ = c.Close(); stop(); close(l.conns) })
		}()
		if err := <-done; err != nil || came != 1 || time.Since(began) != 5*acceptAgain {
			t.Errorf("%d came after %v: %v", came, time.Since(began), err)
		}
		_ = ours.Close()
	})
}
