package sys

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// threadPair is a connection of a thread and its peer.
func threadPair(t *testing.T) (*ThreadConn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	own, err := TakeConn(c.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = own.Close(), peer.Close() }) // a test may have done so
	return own, peer
}

// Both directions carry more than the socket holds, at once.
func TestThreadConnCarries(t *testing.T) {
	own, peer := threadPair(t)
	const size = 16 << 20
	data := make([]byte, size)
	_, _ = rand.Read(data)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(peer, peer) })
	wg.Go(func() {
		if n, err := own.Write(data); n != size || err != nil {
			t.Error(n, err)
		}
	})
	got := make([]byte, size)
	if _, err := io.ReadFull(own, got); err != nil || !bytes.Equal(got, data) {
		t.Fatal("what came back is something else", err)
	}
	if err := own.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	_ = peer.Close()
	if n, err := own.Read(got); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
}

// A deadline ends what waits, and what comes later is not lost.
func TestThreadConnDeadlines(t *testing.T) {
	own, peer := threadPair(t)
	var buf [1 << 20]byte
	for _, early := range []bool{true, false} {
		ended := make(chan error, 1)
		if early {
			_ = own.SetReadDeadline(time.Unix(1, 0))
		}
		go func() { _, err := own.Read(buf[:]); ended <- err }()
		if !early {
			_ = own.SetReadDeadline(time.Unix(1, 0))
		}
		var timeout net.Error
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatal(err)
		}
		_ = own.SetDeadline(time.Time{})
	}
	if err := own.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := own.Read(buf[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	_ = own.SetReadDeadline(time.Time{})
	if _, err := peer.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	if n, err := own.Read(buf[:]); string(buf[:n]) != "late" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	_ = own.SetWriteDeadline(time.Now().Add(time.Millisecond))
	for {
		if _, err := own.Write(buf[:]); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			return
		}
	}
}

// Close ends what waits.
func TestThreadConnClose(t *testing.T) {
	own, _ := threadPair(t)
	ended := make(chan error, 2)
	go func() { _, err := own.Read(make([]byte, 1)); ended <- err }()
	go func() {
		for {
			if _, err := own.Write(make([]byte, 1<<20)); err != nil {
				ended <- err
				return
			}
		}
	}()
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	if own.FD() != -1 || !errors.Is(own.Close(), net.ErrClosed) || !errors.Is(own.SetDeadline(time.Time{}), net.ErrClosed) {
		t.Error("closed, and yet in use")
	}
	if _, err := own.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// A read that is only tried says that there is nothing, and TLS goes on after it, in the middle of a record, too.
func TestThreadConnTries(t *testing.T) {
	own, peer := threadPair(t)
	cut := &cutter{Conn: peer, cut: make(chan int, 100)}
	server := tls.Server(cut, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}})
	client := tls.Client(own, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("a")); err != nil { // session tickets and the first byte
		t.Fatal(err)
	}
	var buf [64]byte
	if n, err := client.Read(buf[:]); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	own.Try(true)
	if _, err := client.Read(buf[:]); !errors.Is(err, ErrNotYet) {
		t.Fatal(err)
	}
	cut.cut <- 9
	if _, err := server.Write([]byte("record")); err != nil {
		t.Fatal(err)
	}
	if _, err := Wait(nil, own.FD()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(buf[:]); !errors.Is(err, ErrNotYet) {
		t.Fatal(err)
	}
	if _, err := peer.Write(cut.rest); err != nil {
		t.Fatal(err)
	}
	own.Try(false)
	if n, err := client.Read(buf[:]); string(buf[:n]) != "record" || err != nil {
		t.Fatalf("%q, %v", buf[:n], err)
	}
}

// cutter keeps back what is behind the first bytes of a write.
type cutter struct {
	net.Conn
	cut  chan int
	rest []byte
}

func (c *cutter) Write(p []byte) (int, error) {
	select {
	case n := <-c.cut:
		c.rest = bytes.Clone(p[n:])
		_, err := c.Conn.Write(p[:n])
		return len(p), err
	default:
		return c.Conn.Write(p)
	}
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
