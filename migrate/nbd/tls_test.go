package nbd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// authority makes certificates.
type authority struct {
	testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	a := &authority{TB: tb}
	cert := a.issue("authority", true)
	var err error
	if a.cert, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		tb.Fatal(err)
	}
	a.key = cert.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

func (a *authority) issue(name string, ca bool) tls.Certificate {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := form, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, signer)
	if err != nil {
		a.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// mutual makes both ends' configurations: each shows a certificate, and wants one of this authority.
func (a *authority) mutual() (server, client *tls.Config) {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	server = &tls.Config{Certificates: []tls.Certificate{a.issue("host", false)}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	client = &tls.Config{Certificates: []tls.Certificate{a.issue("guest", false)}, RootCAs: pool, ServerName: "host"}
	return server, client
}

// Over mutual TLS what is read and written is right; whoever has no certificate, or no TLS, gets nothing.
func TestMutualTLS(t *testing.T) {
	server, client := newAuthority(t).mutual()
	data := pattern(3<<20, 8)
	_, dial := start(t, Config{Exports: NewExports(Export{Name: "d", Backend: sparse{&memory{p: bytes.Clone(data)}}}), TLS: server, RequireTLS: true})
	c := open(t, ClientConfig{Dial: dial, Export: "d", Conns: 2, TLS: client})
	checkRead(t, c, data, 0, int64(len(data)))
	more := pattern(1<<20, 9)
	if err := c.WriteAt(t.Context(), more, 4096); err != nil {
		t.Fatal(err)
	}
	copy(data[4096:], more)
	checkRead(t, c, data, 0, int64(len(data)))

	if _, err := Open(t.Context(), ClientConfig{Dial: dial, Export: "d"}); !isRefused(err, repErrTLSRequired) {
		t.Errorf("without TLS: %v", err)
	}
	nobody := client.Clone()
	nobody.Certificates = nil
	if c, err := Open(t.Context(), ClientConfig{Dial: dial, Export: "d", TLS: nobody}); err == nil {
		t.Error("without a certificate: taken")
		_ = c.Close()
	}
	_, stranger := newAuthority(t).mutual()
	if c, err := Open(t.Context(), ClientConfig{Dial: dial, Export: "d", TLS: stranger}); err == nil {
		t.Error("with another authority: taken")
		_ = c.Close()
	}
}

func isRefused(err error, reply uint32) bool {
	var refused *OptionError
	return errors.As(err, &refused) && refused.Reply == reply
}

// TLS that was there before NBD counts as TLS.
func TestTLSBelow(t *testing.T) {
	server, client := newAuthority(t).mutual()
	srv, err := NewServer(Config{Exports: NewExports(Export{Backend: &memory{p: pattern(4096, 1)}}), TLS: server, RequireTLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close() //nolint:errcheck // it always succeeds
	c := open(t, ClientConfig{Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go srv.ServeConn(context.Background(), tls.Server(Batch(far), server)) //nolint:errcheck // Close waits for it
		return tls.Client(Batch(near), client), nil
	}})
	checkRead(t, c, pattern(4096, 1), 0, 4096)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// below shows, as a data link does, what it is made of.
type below struct{ net.Conn }

func (b below) Below() net.Conn { return b.Conn }

// writes counts those of a connection.
type writes struct {
	net.Conn
	n *atomic.Int64
}

func (w writes) Write(p []byte) (int, error) {
	w.n.Add(1)
	return w.Conn.Write(p)
}

// Records of TLS are gathered, also where TLS is hidden by somebody who counts what passes.
func TestTLSHiddenIsBatched(t *testing.T) {
	const size = 1 << 20
	server, client := newAuthority(t).mutual()
	srv, err := NewServer(Config{Exports: NewExports(Export{Backend: &memory{p: pattern(size, 1)}}), TLS: server, RequireTLS: false})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close() //nolint:errcheck // it always succeeds
	var n atomic.Int64
	c := open(t, ClientConfig{Dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		secured := tls.Server(Batch(writes{far, &n}), server)
		go srv.ServeConn(context.Background(), below{secured}) //nolint:errcheck // Close waits for it
		return tls.Client(Batch(near), client), nil
	}})
	before := n.Load()
	checkRead(t, c, pattern(size, 1), 0, size)
	if most, got := int64(2+size/batchSize), n.Load()-before; got > most {
		t.Errorf("%d writes for %d bytes, want %d at most", got, size, most)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// Options that were sent in the clear do not count after STARTTLS, and nothing may be smuggled in before it.
func TestSTARTTLSForgetsAndTakesNothingIn(t *testing.T) {
	server, _ := newAuthority(t).mutual()
	cfg := Config{Exports: NewExports(Export{Backend: &memory{p: make([]byte, 1)}}), TLS: server, RequireTLS: true}
	r := rawTo(t, cfg).greet()
	for _, opt := range []uint32{optList, optStructuredReply, optGo, optSetMeta, 99} {
		if got := r.ends(opt, nil); got != repErrTLSRequired {
			t.Errorf("option %d before TLS: %#x", opt, got)
		}
	}
	if got := r.ends(optStartTLS, []byte{1}); got != repErrInvalid {
		t.Errorf("STARTTLS with data: %#x", got)
	}
	r.write(append(optionHead(optStartTLS, 0), optionHead(optList, 0)...))
	r.gone()
	r = rawTo(t, cfg).greet()
	r.write(optionHead(optExportName, 0))
	r.gone()
	r = rawTo(t, Config{Exports: cfg.Exports}).greet()
	if got := r.ends(optStartTLS, nil); got != repErrPolicy {
		t.Errorf("STARTTLS where there is none: %#x", got)
	}
}
