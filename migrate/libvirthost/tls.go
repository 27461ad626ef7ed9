package libvirthost

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// pki names the files of one certificate.
type pki struct{ ca, cert, key string }

// CertError says what is wrong with a certificate.
type CertError struct {
	// File is the certificate's file; one of the daemon's host is written HOST:PATH.
	File string
	// Reason says what is wrong, such as "expired on 2026-01-02".
	Reason string
	// Err is the cause, if there is one below it.
	Err error
}

func (e *CertError) Error() string { return "certificate " + e.File + ": " + e.Reason }

// Unwrap gives the cause.
func (e *CertError) Unwrap() error { return e.Err }

func certFail(file, reason, fix string, err error) error {
	return migrate.Fail("set up TLS", "", &CertError{File: file, Reason: reason, Err: err}, fix)
}

// files finds the certificates where libvirt's client looks for them.
func (e environment) pki(t target) pki {
	in := func(dir string) pki {
		return pki{filepath.Join(dir, "cacert.pem"), filepath.Join(dir, "clientcert.pem"), filepath.Join(dir, "clientkey.pem")}
	}
	if t.pkipath != "" {
		return in(t.pkipath)
	}
	if e.uid != 0 {
		if own := in(filepath.Join(e.home, ".pki", "libvirt")); e.exists(own.ca) {
			return own
		}
	}
	return pki{"/etc/pki/CA/cacert.pem", "/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem"}
}

// tlsConfig reads the certificates. A client certificate is optional, as a daemon may do without; what is there must
// be good.
func (e environment) tlsConfig(t target, now time.Time) (*tls.Config, error) {
	f := e.pki(t)
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.host,
		InsecureSkipVerify: true} // verify below does it, because libvirt accepts names that crypto/tls does not
	if !t.noVerify {
		pool, err := e.caPool(f.ca, now)
		if err != nil {
			return nil, err
		}
		cfg.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, pool, t.host, f.ca, now) }
	}
	certPEM, err := e.read(f.cert)
	if errors.Is(err, fs.ErrNotExist) {
		return cfg, nil
	}
	if err != nil {
		return nil, certFail(f.cert, "cannot be read", "make "+f.cert+" readable for this user", err)
	}
	keyPEM, err := e.read(f.key)
	if err != nil {
		return nil, certFail(f.key, "the key of "+f.cert+" cannot be read", "put the key at "+f.key+", readable for this user", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, certFail(f.cert, "it and "+f.key+" are no pair: "+err.Error(), "install certificate and key of the same pair", err)
	}
	if err := inForce(pair.Leaf, f.cert, now); err != nil {
		return nil, err
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

func (e environment) caPool(file string, now time.Time) (*x509.CertPool, error) {
	b, err := e.read(file)
	if err != nil {
		return nil, certFail(file, "the CA's certificate cannot be read", "copy the CA's certificate to "+file, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, certFail(file, "it holds no certificate", "copy the CA's certificate, in PEM, to "+file, nil)
	}
	if block, _ := pem.Decode(b); block != nil {
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
			if err := inForce(ca, file, now); err != nil {
				return nil, err
			}
		}
	}
	return pool, nil
}

// inForce refuses a certificate outside of its dates.
func inForce(c *x509.Certificate, file string, now time.Time) error {
	switch {
	case c == nil:
		return nil
	case now.After(c.NotAfter):
		return certFail(file, "expired on "+c.NotAfter.Format(time.DateTime), "renew "+file, nil)
	case now.Before(c.NotBefore):
		return certFail(file, "not valid before "+c.NotBefore.Format(time.DateTime), "set this machine's clock, or renew "+file, nil)
	}
	return nil
}

// verify checks the daemon's certificate: its dates, its CA and its name. The name may stand in the common name if
// there is no alternative name, as libvirt allows.
func verify(s tls.ConnectionState, pool *x509.CertPool, host, caFile string, now time.Time) error {
	leaf := s.PeerCertificates[0]
	file := host + ":/etc/pki/libvirt/servercert.pem"
	if err := inForce(leaf, file, now); err != nil {
		return err
	}
	inter := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: inter, CurrentTime: now})
	if err != nil {
		return certFail(file, "not signed by "+caFile+" ("+err.Error()+")",
			"install the CA that signed "+file+" as "+caFile+", or use pkipath=", err)
	}
	if leaf.VerifyHostname(host) == nil || (noNames(leaf) && leaf.Subject.CommonName == host) {
		return nil
	}
	return certFail(file, fmt.Sprintf("made out to %v, not to %s", names(leaf), host),
		"write the host in the URI as one of these names, or renew "+file+" with "+host+" in it", nil)
}

func noNames(c *x509.Certificate) bool { return len(c.DNSNames) == 0 && len(c.IPAddresses) == 0 }

func names(c *x509.Certificate) []string {
	out := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	if len(out) == 0 {
		out = append(out, c.Subject.CommonName)
	}
	return out
}

// dialTLS makes an encrypted connection and waits for the daemon's word that it accepts us.
func (e environment) dialTLS(ctx context.Context, t target) (net.Conn, error) {
	cfg, err := e.tlsConfig(t, time.Now())
	if err != nil {
		return nil, err
	}
	raw, err := dialTCP(ctx, t, "16514")
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, cfg)
	stop := closeOn(ctx, raw)
	defer stop()
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, tlsFail(e.pki(t), t, err)
	}
	// libvirt sends one byte once it has checked our certificate.
	ok := []byte{0}
	if _, err := io.ReadFull(c, ok); err != nil || ok[0] != 1 {
		raw.Close()
		if err == nil {
			err = errors.New("the daemon refuses this client")
		}
		return nil, tlsFail(e.pki(t), t, err)
	}
	return c, nil
}

// tlsFail explains a failed handshake. What verify found stands as it is.
func tlsFail(f pki, t target, err error) error {
	var ce *CertError
	if errors.As(err, &ce) {
		return err
	}
	return migrate.Fail("set up TLS with "+t.host, "", link(err),
		fmt.Sprintf("see that %s is signed by a CA that %s trusts, has the use \"TLS client\" and is allowed by tls_allowed_dn_list there", f.cert, t.host))
}
