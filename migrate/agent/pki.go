package agent

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// PKI names the PEM files of one end of a control connection.
type PKI struct {
	CA, Cert, Key string
	// CRL lists what the CA has revoked; a file that is not there is no list.
	CRL string
}

const pkiDir = "/etc/pki"

// ServerPKI is where libvirt's daemons have their certificate; an agent shows the same.
func ServerPKI() PKI {
	return PKI{CA: pkiDir + "/CA/cacert.pem", CRL: pkiDir + "/CA/cacrl.pem",
		Cert: pkiDir + "/libvirt/servercert.pem", Key: pkiDir + "/libvirt/private/serverkey.pem"}
}

// ClientPKI is where libvirt's clients have theirs: for other users than root in their home, if there is a CA's certificate.
func ClientPKI() PKI {
	if home, err := os.UserHomeDir(); err == nil && os.Geteuid() != 0 {
		own := filepath.Join(home, ".pki", "libvirt")
		if _, err := os.Stat(filepath.Join(own, "cacert.pem")); err == nil {
			return PKI{CA: filepath.Join(own, "cacert.pem"), CRL: filepath.Join(own, "cacrl.pem"),
				Cert: filepath.Join(own, "clientcert.pem"), Key: filepath.Join(own, "clientkey.pem")}
		}
	}
	return PKI{CA: pkiDir + "/CA/cacert.pem", CRL: pkiDir + "/CA/cacrl.pem",
		Cert: pkiDir + "/libvirt/clientcert.pem", Key: pkiDir + "/libvirt/private/clientkey.pem"}
}

// credentials are what the files hold.
type credentials struct {
	pair    tls.Certificate
	roots   *x509.CertPool
	cas     []*x509.Certificate
	revoked map[string]bool // serial numbers
}

func pkiFail(reason, fix string, err error) error {
	return migrate.Fail("set up TLS between agents", "", fmt.Errorf("%s: %w", reason, err), fix)
}

// load reads the files and refuses what is out of date.
func (p PKI) load(now time.Time) (*credentials, error) {
	c := &credentials{roots: x509.NewCertPool(), revoked: map[string]bool{}}
	text, err := os.ReadFile(p.CA)
	if err != nil {
		return nil, pkiFail("the CA's certificate", "copy the CA's certificate to "+p.CA, err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil {
			c.roots.AddCert(ca)
			c.cas = append(c.cas, ca)
		}
	}
	if len(c.cas) == 0 {
		return nil, pkiFail(p.CA, "copy the CA's certificate, in PEM, to "+p.CA, errors.New("holds no certificate"))
	}
	if c.pair, err = tls.LoadX509KeyPair(p.Cert, p.Key); err != nil {
		return nil, pkiFail("our certificate", "install a certificate of the CA as "+p.Cert+" and its key as "+p.Key, err)
	}
	if err := inForce(c.pair.Leaf, now); err != nil {
		return nil, pkiFail(p.Cert, "renew "+p.Cert, err)
	}
	return c, c.loadCRL(p.CRL)
}

// loadCRL reads the list of revoked certificates. One that cannot be read, or is not the CA's, lets nobody in.
func (c *credentials) loadCRL(file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	fix := "renew " + file + ", or remove it"
	if err != nil {
		return pkiFail("the list of revoked certificates", fix, err)
	}
	if block, _ := pem.Decode(text); block != nil {
		text = block.Bytes
	}
	list, err := x509.ParseRevocationList(text)
	if err != nil {
		return pkiFail(file, fix, err)
	}
	var signed error = errors.New("is of another CA")
	for _, ca := range c.cas {
		if signed != nil {
			signed = list.CheckSignatureFrom(ca)
		}
	}
	if signed != nil {
		return pkiFail(file, fix, signed)
	}
	for _, e := range list.RevokedCertificateEntries {
		c.revoked[e.SerialNumber.String()] = true
	}
	return nil
}

func inForce(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("expired on %s", c.NotAfter.Format(time.DateTime))
	case now.Before(c.NotBefore):
		return fmt.Errorf("is not valid before %s", c.NotBefore.Format(time.DateTime))
	}
	return nil
}

// verify checks the peer's certificate: its dates, its CA, whether it was revoked, and its use.
func (c *credentials) verify(s tls.ConnectionState, use x509.ExtKeyUsage, now time.Time) (*x509.Certificate, error) {
	if len(s.PeerCertificates) == 0 {
		return nil, errors.New("it shows no certificate")
	}
	leaf := s.PeerCertificates[0]
	if err := inForce(leaf, now); err != nil {
		return nil, fmt.Errorf("its certificate %w", err)
	}
	between := x509.NewCertPool()
	for _, i := range s.PeerCertificates[1:] {
		between.AddCert(i)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}})
	if err == nil && c.revoked[leaf.SerialNumber.String()] {
		err = errors.New("it was revoked")
	}
	if err != nil {
		return nil, fmt.Errorf("its certificate is not accepted: %w", err)
	}
	return leaf, nil
}

// Server is the configuration of an agent: it shows the certificate and lets only those in whom the CA has signed; see
// Options.Allow for who of them. The files are read now, and again for each connection, so that renewed ones count.
func (p PKI) Server() (*tls.Config, error) {
	if _, err := p.load(time.Now()); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := p.load(time.Now())
		if err != nil {
			return nil, err
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{c.pair},
			ClientAuth: tls.RequireAnyClientCert, ClientCAs: c.roots, SessionTicketsDisabled: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				_, err := c.verify(s, x509.ExtKeyUsageClientAuth, time.Now())
				return err
			}}, nil
	}}, nil
}

// Client is the configuration of a coordinator that dials the agent of the host, a name or an address. The agent's
// certificate has to be made out to it: as an alternative name, or, if it has none, as the common name, as libvirt allows.
func (p PKI) Client(host string) (*tls.Config, error) {
	c, err := p.load(time.Now())
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, Certificates: []tls.Certificate{c.pair},
		InsecureSkipVerify: true, // VerifyConnection does it, because libvirt accepts names that crypto/tls does not
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf, err := c.verify(s, x509.ExtKeyUsageServerAuth, time.Now())
			if err != nil {
				return pkiFail("the agent of "+host, "see that "+p.CA+" here is the CA of the agent's certificate, and that that is in force", err)
			}
			if leaf.VerifyHostname(host) == nil || madeOutTo(leaf, host) {
				return nil
			}
			return pkiFail("the agent of "+host, "name the host as its certificate does, or renew that with "+host+" in it",
				fmt.Errorf("its certificate is made out to %.200q", leaf.Subject.String()))
		}}, nil
}

// madeOutTo is for certificates without alternative names.
func madeOutTo(c *x509.Certificate, host string) bool {
	return len(c.DNSNames) == 0 && len(c.IPAddresses) == 0 && strings.EqualFold(c.Subject.CommonName, host)
}
