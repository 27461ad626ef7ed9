package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// handshake runs TLS between the two over a pipe, as libvirt does: both verify.
func handshake(t *testing.T, server, client Host, serverName string) (serverErr, clientErr error) {
	t.Helper()
	config := func(h Host, p Pair) *tls.Config {
		cert, err := tls.X509KeyPair(p.Cert, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(h.CA)
		return &tls.Config{
			Certificates: []tls.Certificate{cert}, RootCAs: pool, ClientCAs: pool,
			ClientAuth: tls.RequireAndVerifyClientCert, ServerName: serverName,
		}
	}
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		defer a.Close()
		done <- tls.Server(a, config(server, server.Server)).Handshake()
	}()
	conn := tls.Client(b, config(client, client.Client))
	clientErr = conn.Handshake()
	if clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1)) // the server's verdict on our certificate
		var refused *net.OpError
		if !errors.As(clientErr, &refused) {
			clientErr = nil
		}
	}
	b.Close()
	return <-done, clientErr
}

func issue(t *testing.T, ca *CA, name, addr string, notAfter time.Time) Host {
	t.Helper()
	h, err := ca.IssueHost(name, []netip.Addr{netip.MustParseAddr(addr)}, notAfter)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHostsTrustEachOther(t *testing.T) {
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	a := issue(t, ca, "a", "10.0.0.1", time.Time{})
	b := issue(t, ca, "b", "10.0.0.2", time.Time{})
	for _, name := range []string{"b", "10.0.0.2", "localhost"} {
		if se, ce := handshake(t, b, a, name); se != nil || ce != nil {
			t.Errorf("a to b as %s: server %v, client %v", name, se, ce)
		}
	}
	if _, err := handshake(t, b, a, "c"); err == nil {
		t.Error("b is accepted as c")
	}
	other, _ := NewCA("test")
	if se, ce := handshake(t, b, issue(t, other, "a", "10.0.0.1", time.Time{}), "b"); se == nil && ce == nil {
		t.Error("a certificate of another authority with the same name is accepted")
	}
}

func TestExpired(t *testing.T) {
	ca, _ := NewCA("test")
	good := issue(t, ca, "a", "10.0.0.1", time.Time{})
	expired := issue(t, ca, "b", "10.0.0.2", time.Now().Add(-time.Minute))
	if _, err := handshake(t, expired, good, "b"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired server: client says %v", err)
	}
	if err, _ := handshake(t, good, expired, "a"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired client: server says %v", err)
	}
	soon := issue(t, ca, "b", "10.0.0.2", time.Now().Add(time.Hour))
	if se, ce := handshake(t, soon, good, "b"); se != nil || ce != nil {
		t.Errorf("valid for another hour: server %v, client %v", se, ce)
	}
}

func TestServerCertificateIsNoClientCertificate(t *testing.T) {
	ca, _ := NewCA("test")
	a := issue(t, ca, "a", "10.0.0.1", time.Time{})
	swapped := a
	swapped.Client = a.Server
	if se, ce := handshake(t, a, swapped, "a"); se == nil && ce == nil {
		t.Error("a server certificate is accepted from a client")
	}
}

func TestLoadCA(t *testing.T) {
	ca, _ := NewCA("test")
	pair, err := ca.Pair()
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadCA(pair)
	if err != nil {
		t.Fatal(err)
	}
	a := issue(t, ca, "a", "10.0.0.1", time.Time{})
	b := issue(t, again, "b", "10.0.0.2", time.Time{})
	if se, ce := handshake(t, b, a, "b"); se != nil || ce != nil {
		t.Errorf("before and after loading: server %v, client %v", se, ce)
	}
	other, _ := NewCA("test")
	otherPair, _ := other.Pair()
	for _, p := range []Pair{{}, {Cert: pair.Cert}, {Cert: pair.Cert, Key: otherPair.Key}, {Cert: pair.Key, Key: pair.Cert}} {
		if _, err := LoadCA(p); err == nil {
			t.Error("a broken pair is loaded")
		}
	}
}

func TestIssueRefusesNonsense(t *testing.T) {
	ca, _ := NewCA("test")
	if _, err := ca.Issue(Request{}); err == nil {
		t.Error("a certificate without a name is issued")
	}
	now := time.Now()
	if _, err := ca.Issue(Request{Name: "a", NotBefore: now, NotAfter: now}); err == nil {
		t.Error("a certificate that is never valid is issued")
	}
}

func TestFilesKeepKeysPrivate(t *testing.T) {
	ca, _ := NewCA("test")
	files := issue(t, ca, "a", "10.0.0.1", time.Time{}).Files()
	if len(files) != 10 {
		t.Errorf("%d files", len(files))
	}
	for path, f := range files {
		secret := strings.Contains(string(f.Content), "PRIVATE KEY")
		if secret != strings.HasSuffix(path, "key.pem") || secret != (f.Mode == 0o600) {
			t.Errorf("%s: mode %v, holds a key: %v", path, f.Mode, secret)
		}
	}
}
