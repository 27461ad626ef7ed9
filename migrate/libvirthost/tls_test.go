package libvirthost

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// testCA makes certificates as libvirt's documentation has them made.
type testCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCA(t *testing.T) *testCA {
	t.Helper()
	ca := &testCA{t: t}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	ca.cert, ca.key, ca.pem, _ = ca.sign(tmpl, tmpl, nil)
	return ca
}

func (ca *testCA) sign(tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte, []byte) {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// issue makes a certificate; with names in it, or in its common name alone.
func (ca *testCA) issue(cn string, ips []net.IP, notAfter time.Time) (certPEM, keyPEM []byte) {
	_, _, certPEM, keyPEM = ca.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn}, IPAddresses: ips,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca.cert, ca.key)
	return certPEM, keyPEM
}

// dir writes a client's certificates as pkipath= wants them.
func (ca *testCA) dir(clientNotAfter time.Time) string {
	d := ca.t.TempDir()
	cert, key := ca.issue("client", nil, clientNotAfter)
	for name, b := range map[string][]byte{"cacert.pem": ca.pem, "clientcert.pem": cert, "clientkey.pem": key} {
		if err := os.WriteFile(filepath.Join(d, name), b, 0o600); err != nil {
			ca.t.Fatal(err)
		}
	}
	return d
}

// serveTLS runs a daemon that speaks as libvirt does over TLS; verdict is its word on the client.
func (ca *testCA) serveTLS(certPEM, keyPEM []byte, verdict byte) (port string) {
	ca.t.Helper()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		ca.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12})
	if err != nil {
		ca.t.Fatal(err)
	}
	f := &fake{t: ca.t}
	f.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() {
				if _, err := c.Write([]byte{verdict}); err != nil || verdict != 1 {
					c.Close()
					return
				}
				f.serve(c)
			})
		}
	})
	ca.t.Cleanup(func() { l.Close(); f.wg.Wait() })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func TestTLS(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	later, before := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	local := []net.IP{net.IPv4(127, 0, 0, 1)}
	for _, c := range []struct {
		name     string
		serverOf *testCA
		cn       string
		ips      []net.IP
		until    time.Time
		pki      string
		query    string
		verdict  byte
		says     string // empty: it works
		fix      string
	}{
		{"good", ca, "x", local, later, ca.dir(later), "", 1, "", ""},
		{"the name stands in the common name alone", ca, "127.0.0.1", nil, later, ca.dir(later), "", 1, "", ""},
		{"wrong name", ca, "x", []net.IP{net.IPv4(10, 0, 0, 9)}, later, ca.dir(later), "", 1, "made out to [10.0.0.9], not to 127.0.0.1", "servercert.pem"},
		{"common name beside other names", ca, "127.0.0.1", []net.IP{net.IPv4(10, 0, 0, 9)}, later, ca.dir(later), "", 1, "made out to", "servercert.pem"},
		{"expired at the daemon", ca, "x", local, before, ca.dir(later), "", 1, "expired on", "renew 127.0.0.1:/etc/pki/libvirt/servercert.pem"},
		{"of another CA", other, "x", local, later, ca.dir(later), "", 1, "not signed by", "cacert.pem"},
		{"of another CA, not verified", ca, "x", []net.IP{net.IPv4(10, 0, 0, 9)}, later, ca.dir(later), "&no_verify=1", 1, "", ""},
		{"own one expired", ca, "x", local, later, ca.dir(before), "", 1, "expired on", "clientcert.pem"},
		{"no CA here", ca, "x", local, later, t.TempDir(), "", 1, "cannot be read", "cacert.pem"},
		{"refused by the daemon", ca, "x", local, later, ca.dir(later), "", 0, "refuses this client", "tls_allowed_dn_list"},
	} {
		cert, key := c.serverOf.issue(c.cn, c.ips, c.until)
		uri := "qemu+tls://127.0.0.1:" + ca.serveTLS(cert, key, c.verdict) + "/system?pkipath=" + c.pki + c.query
		h, err := Open(t.Context(), uri, Options{})
		if err == nil {
			if f := h.t; !f.encrypted() || f.local() {
				t.Errorf("%s: encrypted %v, local %v", c.name, f.encrypted(), f.local())
			}
			h.Close()
		}
		if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || !strings.Contains(migrate.FixOf(err), c.fix)) {
			t.Errorf("%s: %v (fix %q), want %q (fix %q)", c.name, err, migrate.FixOf(err), c.says, c.fix)
		}
	}
}

func TestTLSErrorsHaveAType(t *testing.T) {
	ca := newCA(t)
	cert, key := ca.issue("x", nil, time.Now().Add(time.Hour))
	uri := "qemu+tls://127.0.0.1:" + ca.serveTLS(cert, key, 1) + "/system?pkipath=" + ca.dir(time.Now().Add(time.Hour))
	_, err := Open(t.Context(), uri, Options{})
	var ce *CertError
	if !errors.As(err, &ce) || ce.File != "127.0.0.1:/etc/pki/libvirt/servercert.pem" {
		t.Errorf("%v", err)
	}
}

func TestTLSWithoutAClientCertificate(t *testing.T) {
	ca := newCA(t)
	d := ca.dir(time.Now().Add(time.Hour))
	if err := os.Remove(filepath.Join(d, "clientcert.pem")); err != nil {
		t.Fatal(err)
	}
	cfg, err := defaultEnv().tlsConfig(target{host: "h", pkipath: d}, time.Now())
	if err != nil || len(cfg.Certificates) != 0 {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(d, "clientcert.pem"), ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := defaultEnv().tlsConfig(target{host: "h", pkipath: d}, time.Now()); err == nil || !strings.Contains(err.Error(), "no pair") {
		t.Errorf("certificate and key of two pairs: %v", err)
	}
}

func TestPKIPaths(t *testing.T) {
	own := map[string]string{"/home/u/.pki/libvirt/cacert.pem": ""}
	for _, c := range []struct {
		e    environment
		t    target
		want pki
	}{
		{fakeEnv(0, nil, own), target{}, pki{"/etc/pki/CA/cacert.pem", "/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem"}},
		{fakeEnv(1, nil, nil), target{}, pki{"/etc/pki/CA/cacert.pem", "/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem"}},
		{fakeEnv(1, nil, own), target{}, pki{"/home/u/.pki/libvirt/cacert.pem", "/home/u/.pki/libvirt/clientcert.pem", "/home/u/.pki/libvirt/clientkey.pem"}},
		{fakeEnv(1, nil, own), target{pkipath: "/p"}, pki{"/p/cacert.pem", "/p/clientcert.pem", "/p/clientkey.pem"}},
	} {
		if got := c.e.pki(c.t); got != c.want {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
}
