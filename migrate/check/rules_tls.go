package check

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// soon is how long before its end a certificate is worth a warning.
const soon = 7 * 24 * time.Hour

// ruleCerts: the certificates are there, valid now, for the right name, and trusted by the other end.
func ruleCerts(f Facts) []Finding {
	var out []Finding
	for _, c := range f.Certs {
		out = append(out, ruleCert(c, f.Now)...)
	}
	return out
}

func ruleCert(c CertFacts, now time.Time) []Finding {
	var out []Finding
	out = append(out, certFile(c, c.CAPath, c.CA, now)...)
	out = append(out, certFile(c, c.CertPath, c.Cert, now)...)
	out = append(out, certKey(c)...)
	if (Result{Findings: out}).Blocked() {
		return out // a chain or a name would only repeat it
	}
	cert := parseCert(c.Cert)
	if cert == nil {
		return out
	}
	out = append(out, certName(c, cert)...)
	return append(out, certChain(c, cert, now)...)
}

// certFile: one file holds a certificate, which is valid now.
func certFile(c CertFacts, path string, pemBytes Answer[[]byte], now time.Time) []Finding {
	renew := fmt.Sprintf("issue a new one with certtool and put it at %s on the %s", path, c.Side)
	what := fmt.Sprintf("certificate for %s", c.Use)
	switch {
	case pemBytes.Open():
		return untold(IDTLSMissing, c.Side, "whether the "+what+" is good", path+": "+pemBytes.Why, "")
	case !pemBytes.OK:
		return nil
	case pemBytes.Value == nil:
		return one(IDTLSMissing, Blocker, c.Side, "the "+what+" is missing", path+" does not exist", renew)
	}
	cert := parseCert(pemBytes)
	if cert == nil {
		return one(IDTLSInvalid, Blocker, c.Side, "the "+what+" cannot be read", path+" holds no PEM certificate", renew)
	}
	day := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
	switch {
	case now.After(cert.NotAfter):
		return one(IDTLSExpired, Blocker, c.Side, "the "+what+" has expired", path+" on "+day(cert.NotAfter), renew)
	case now.Before(cert.NotBefore):
		return one(IDTLSNotYet, Blocker, c.Side, "the "+what+" is not valid yet", path+": not before "+day(cert.NotBefore),
			"set the host's clock (timedatectl), or issue a new one")
	case now.Add(soon).After(cert.NotAfter):
		return one(IDTLSExpiring, Warning, c.Side, "the "+what+" expires within 7 days", path+" on "+day(cert.NotAfter), renew)
	}
	return nil
}

// certKey: the process that needs the key may read it.
func certKey(c CertFacts) []Finding {
	who := c.Reader.Value
	switch {
	case c.KeyPath == "" || !c.Key.asked():
		return nil
	case c.Key.Open():
		return untold(IDTLSKey, c.Side, "whether the key for "+c.Use+" is there", c.KeyPath+": "+c.Key.Why, "")
	case c.Key.Value == nil:
		return one(IDTLSMissing, Blocker, c.Side, "the key for "+c.Use+" is missing", c.KeyPath+" does not exist",
			"issue a certificate with its key and put the key there")
	case !c.Reader.OK:
		return untold(IDTLSKey, c.Side, "whether the key for "+c.Use+" can be read", c.KeyPath+": "+c.Reader.Why, "")
	case who.UID == 0, c.Key.Value.Allows(who.UID, who.GIDs, 4):
		return nil
	}
	return one(IDTLSKey, Blocker, c.Side, "the key for "+c.Use+" cannot be read by "+who.Name,
		fmt.Sprintf("%s: mode %04o, owner %d:%d", c.KeyPath, c.Key.Value.Mode&0o7777, c.Key.Value.UID, c.Key.Value.GID),
		fmt.Sprintf("setfacl -m u:%s:r %s", who.Name, shellWord(c.KeyPath)))
}

// certName: a server's certificate bears the name that it will be asked for. Like libvirt and QEMU, the common name
// counts if there are no alternative names.
func certName(c CertFacts, cert *x509.Certificate) []Finding {
	if !c.Server || c.Name == "" || bears(cert, c.Name) {
		return nil
	}
	has := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		has = append(has, ip.String())
	}
	if len(has) == 0 {
		has = []string{"the common name " + orUnknown(cert.Subject.CommonName)}
	}
	return one(IDTLSName, Blocker, c.Side, fmt.Sprintf("the certificate for %s is not for %s", c.Use, c.Name),
		fmt.Sprintf("%s is for %s", c.CertPath, strings.Join(has, ", ")),
		"use the name it has: --migrateuri tcp://NAME or --tls-destination NAME; or issue one for "+c.Name)
}

func bears(cert *x509.Certificate, name string) bool {
	if cert.VerifyHostname(bracketed(name)) == nil {
		return true
	}
	none := len(cert.DNSNames) == 0 && len(cert.IPAddresses) == 0
	return none && strings.EqualFold(cert.Subject.CommonName, name)
}

// bracketed writes an IPv6 address as VerifyHostname wants it.
func bracketed(name string) string {
	if ip, err := netip.ParseAddr(name); err == nil && ip.Is6() {
		return "[" + name + "]"
	}
	return name
}

// certChain: the CA of the other end has signed the certificate.
func certChain(c CertFacts, cert *x509.Certificate, now time.Time) []Finding {
	ca, path, whose := c.PeerCA, "the CA of the other end", "which the other end trusts"
	if !ca.OK {
		ca, path, whose = c.CA, c.CAPath, "which lies beside it"
	}
	if !ca.OK || ca.Value == nil {
		return nil // said already
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca.Value) {
		return nil
	}
	between := x509.NewCertPool()
	between.AppendCertsFromPEM(c.Cert.Value)
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	var untrusted x509.UnknownAuthorityError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &untrusted):
		err = fmt.Errorf("signed by %q", cert.Issuer.CommonName)
	}
	return one(IDTLSUntrusted, Blocker, c.Side, fmt.Sprintf("the certificate for %s is not signed by the CA %s", c.Use, whose),
		fmt.Sprintf("%s against %s: %v", c.CertPath, path, err), "use one CA on both hosts, and certificates that it signed")
}

// parseCert reads the first certificate of a PEM file; nil if there is none.
func parseCert(a Answer[[]byte]) *x509.Certificate {
	rest := a.Value
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			return cert
		}
	}
}
