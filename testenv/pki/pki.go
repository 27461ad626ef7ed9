package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// Validity of certificates for which the caller chose none. It starts early, so
// that a clock that is slightly behind is no error.
const (
	defaultBefore = time.Hour
	defaultAfter  = 30 * 24 * time.Hour
)

// CA is a certificate authority whose key lives in memory.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Pair is a certificate and its private key, both PEM.
type Pair struct {
	Cert []byte
	Key  []byte
}

// Request says what a certificate is for.
type Request struct {
	// Name is the common name.
	Name string
	// DNS and IPs are the names under which a server is reached.
	DNS []string
	IPs []netip.Addr
	// Server and Client say which side of a connection may use it.
	Server, Client bool
	// NotBefore and NotAfter bound the validity. Zero values mean an hour ago
	// and 30 days from now.
	NotBefore, NotAfter time.Time
}

// NewCA makes an authority with a fresh key.
func NewCA(name string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: make authority %s: %w", name, err)
	}
	template, err := newTemplate(Request{Name: name})
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("pki: sign authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("pki: read authority %s back: %w", name, err)
	}
	return &CA{cert: cert, key: key, pem: encode("CERTIFICATE", der)}, nil
}

// LoadCA takes up an authority that Pair wrote down.
func LoadCA(p Pair) (*CA, error) {
	certBlock, _ := pem.Decode(p.Cert)
	keyBlock, _ := pem.Decode(p.Key)
	if certBlock == nil || keyBlock == nil {
		return nil, errors.New("pki: load authority: no PEM block")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("pki: load authority: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("pki: load authority: %w", err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("pki: load authority: the key does not belong to the certificate")
	}
	return &CA{cert: cert, key: ec, pem: encode("CERTIFICATE", cert.Raw)}, nil
}

// Cert returns the authority's certificate as PEM.
func (ca *CA) Cert() []byte { return bytes.Clone(ca.pem) }

// Pair returns the authority's certificate and key, to be kept for LoadCA.
func (ca *CA) Pair() (Pair, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return Pair{}, fmt.Errorf("pki: encode authority: %w", err)
	}
	return Pair{Cert: ca.Cert(), Key: encode("PRIVATE KEY", der)}, nil
}

// Issue signs a certificate for r with a fresh key.
func (ca *CA) Issue(r Request) (Pair, error) {
	template, err := newTemplate(r)
	if err != nil {
		return Pair{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("pki: make key for %s: %w", r.Name, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Pair{}, fmt.Errorf("pki: sign %s: %w", r.Name, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("pki: encode key for %s: %w", r.Name, err)
	}
	return Pair{Cert: encode("CERTIFICATE", der), Key: encode("PRIVATE KEY", keyDER)}, nil
}

// newTemplate turns a request into what x509 signs.
func newTemplate(r Request) (*x509.Certificate, error) {
	if r.Name == "" {
		return nil, errors.New("pki: a certificate needs a name")
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("pki: serial for %s: %w", r.Name, err)
	}
	now := time.Now()
	if r.NotBefore.IsZero() {
		r.NotBefore = now.Add(-defaultBefore)
	}
	if r.NotAfter.IsZero() {
		r.NotAfter = now.Add(defaultAfter)
	}
	if !r.NotBefore.Before(r.NotAfter) {
		return nil, fmt.Errorf("pki: %s would end (%v) before it starts (%v)", r.Name, r.NotAfter, r.NotBefore)
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: r.Name, Organization: []string{"vmmigrate lab"}},
		NotBefore:    r.NotBefore,
		NotAfter:     r.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		DNSNames:     r.DNS,
	}
	for _, ip := range r.IPs {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
	}
	if r.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	return t, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
