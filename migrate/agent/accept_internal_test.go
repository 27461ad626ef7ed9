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
			done <- acceptAll(ctx, l, Options{}, func(c net.Conn, _ func()) { came++; _ = c.Close(); stop(); close(l.conns) })
		}()
		if err := <-done; err != nil || came != 1 || time.Since(began) != 5*acceptAgain {
			t.Errorf("%d came after %v: %v", came, time.Since(began), err)
		}
		_ = ours.Close()
	})
}

// Strangers who say nothing take no room from whoever shows who he is, nor do those of one address from another's.
func TestStrangersKeepNobodyOut(t *testing.T) {
	l := &poorListener{conns: make(chan net.Conn)}
	came, hold := make(chan func(), 2*maxSessions), make(chan struct{})
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		done <- acceptAll(ctx, l, Options{}, func(_ net.Conn, known func()) { came <- known; <-hold })
	}()
	knock := func(ip string) *strangeConn {
		c := &strangeConn{from: &net.TCPAddr{IP: net.ParseIP(ip)}, shut: make(chan struct{})}
		l.conns <- c
		return c
	}
	var known []func()
	for range maxStrangersEach {
		knock("192.0.2.1")
		known = append(known, <-came)
	}
	<-knock("192.0.2.1").shut
	knock("192.0.2.2") // another may
	<-came
	known[0]()
	knock("192.0.2.1") // one of them is known by now
	<-came
	stop()
	close(l.conns)
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// strangeConn is a connection from an address, on which nothing is said.
type strangeConn struct {
	net.Conn
	from net.Addr
	shut chan struct{}
}

func (c *strangeConn) RemoteAddr() net.Addr { return c.from }
func (c *strangeConn) Close() error         { close(c.shut); return nil }
