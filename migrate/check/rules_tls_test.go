package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// authority is a CA of the test's own.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string, from, until time.Time) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue signs a certificate that is good for a year around noon, unless change says otherwise.
func (a authority) issue(change func(*x509.Certificate)) []byte {
	a.t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "b"}, DNSNames: []string{"b", "b.example"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.2"), net.ParseIP("2001:db8::2")},
		NotBefore:   noon.AddDate(0, -6, 0), NotAfter: noon.AddDate(0, 6, 0)}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, a.key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestRulesTLS(t *testing.T) {
	ca := newAuthority(t, "our CA", noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0))
	otherCA := newAuthority(t, "their CA", noon.AddDate(-1, 0, 0), noon.AddDate(1, 0, 0))
	oldCA := newAuthority(t, "old CA", noon.AddDate(-2, 0, 0), noon.AddDate(-1, 0, 0))
	qemu := Account{Name: "libvirt-qemu", UID: 64055, GIDs: []uint32{107}}
	good := CertFacts{
		Side: dst, Use: "migration", Server: true, Name: "b",
		CAPath: "/pki/ca-cert.pem", CertPath: "/pki/server-cert.pem", KeyPath: "/pki/server-key.pem",
		CA: Known(ca.pem), Cert: Known(ca.issue(func(*x509.Certificate) {})), PeerCA: Known(ca.pem),
		Key: Known(&sys.FileInfo{Mode: 0o100640, GID: 107}), Reader: Known(qemu),
	}
	server := func(change func(*CertFacts)) func(*Facts) {
		return func(f *Facts) {
			c := good
			change(&c)
			f.Certs = []CertFacts{c}
		}
	}
	cert := func(change func(*x509.Certificate)) func(*Facts) {
		return server(func(c *CertFacts) { c.Cert = Known(ca.issue(change)) })
	}
	named := func(name string) func(*Facts) { return server(func(c *CertFacts) { c.Name = name }) }
	commonNameOnly := func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }
	runCases(t, []ruleCase{
		{"good", server(func(*CertFacts) {}), "", "", "", "", nil},
		{"good for an IP", named("192.0.2.2"), "", "", "", "", nil},
		{"good for an IPv6 address", named("2001:db8::2"), "", "", "", "", nil},
		{"good by common name", cert(commonNameOnly), "", "", "", "", nil},
		{"any name", named(""), "", "", "", "", nil},
		{"expired", cert(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }), IDTLSExpired, Blocker, dst, "2026-05-01", nil},
		{"not yet valid", cert(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Hour) }), IDTLSNotYet, Blocker, dst, "not before", nil},
		{"expires in 6 days", cert(func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 0, 6) }), IDTLSExpiring, Warning, dst, "2026-05-07", nil},
		{"expires in 8 days", cert(func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 0, 8) }), "", "", "", "", nil},
		{"other name", named("c"), IDTLSName, Blocker, dst, "b.example", nil},
		{"other IP", named("192.0.2.3"), IDTLSName, Blocker, dst, "192.0.2.3", nil},
		{"other common name", server(func(c *CertFacts) { c.Name, c.Cert = "c", Known(ca.issue(commonNameOnly)) }), IDTLSName, Blocker, dst, "common name b", nil},
		{"common name does not count beside others", cert(func(c *x509.Certificate) { c.DNSNames = []string{"x"} }), IDTLSName, Blocker, dst, "x", nil},
		{"other CA there", server(func(c *CertFacts) { c.PeerCA = Known(otherCA.pem) }), IDTLSUntrusted, Blocker, dst, "our CA", nil},
		{"other CA beside it", server(func(c *CertFacts) { c.PeerCA, c.CA = Answer[[]byte]{}, Known(otherCA.pem) }), IDTLSUntrusted, Blocker, dst, "beside", nil},
		{"CA expired", server(func(c *CertFacts) { c.CA = Known(oldCA.pem) }), IDTLSExpired, Blocker, dst, "/pki/ca-cert.pem", nil},
		{"missing", server(func(c *CertFacts) { c.Cert = Known[[]byte](nil) }), IDTLSMissing, Blocker, dst, "/pki/server-cert.pem", nil},
		{"no PEM", server(func(c *CertFacts) { c.Cert = Known([]byte("x")) }), IDTLSInvalid, Blocker, dst, "/pki/server-cert.pem", nil},
		{"unknown", server(func(c *CertFacts) { c.Cert = CouldNotTell[[]byte]("hm") }), IDTLSMissing, Unknown, dst, "hm", nil},
		{"key missing", server(func(c *CertFacts) { c.Key = Known[*sys.FileInfo](nil) }), IDTLSMissing, Blocker, dst, "server-key", nil},
		{"key for root only", server(func(c *CertFacts) { c.Key = Known(&sys.FileInfo{Mode: 0o100600}) }), IDTLSKey, Blocker, dst, "0600", nil},
		{"key for root only, read by root", server(func(c *CertFacts) {
			c.Key, c.Reader = Known(&sys.FileInfo{Mode: 0o100600, UID: 5}), Known(Account{Name: "root"})
		}), "", "", "", "", nil},
		{"key unknown", server(func(c *CertFacts) { c.Key = CouldNotTell[*sys.FileInfo]("hm") }), IDTLSKey, Unknown, dst, "hm", nil},
		{"reader unknown", server(func(c *CertFacts) { c.Reader = CouldNotTell[Account]("hm") }), IDTLSKey, Unknown, dst, "hm", nil},
		{"client without certificate", func(f *Facts) {
			f.Certs = []CertFacts{{Side: src, Use: "migration", CAPath: "/pki/ca-cert.pem", CA: Known(ca.pem), PeerCA: Known(ca.pem)}}
		}, "", "", "", "", nil},
		{"client without CA", func(f *Facts) {
			f.Certs = []CertFacts{{Side: src, Use: "migration", CAPath: "/pki/ca-cert.pem", CA: Known[[]byte](nil)}}
		}, IDTLSMissing, Blocker, src, "/pki/ca-cert.pem", nil},
	})
}

// What is read as a certificate comes from another host.
func FuzzParseCert(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxFile {
			return
		}
		ruleCert(CertFacts{CA: Known(b), Cert: Known(b), PeerCA: Known(b), Server: true, Name: "b"}, noon)
	})
}
