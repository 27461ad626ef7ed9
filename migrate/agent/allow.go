package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// Allowed tells whether a certificate's owner is on the list; the error says why not, and what to do. A pattern is compared
// with the certificate's alternative names (DNS and IP) and its common name, whatever their case; one with an equals sign
// is compared with the whole distinguished name, as in libvirt's tls_allowed_dn_list, in the order C=…,O=…,CN=… and in the
// reverse one. In a pattern * is any text and ? any one character; * alone lets everybody in whom the CA has signed.
//
// Whoever is let in may take any guest of the host: an empty list lets nobody in.
func Allowed(patterns []string, cert *x509.Certificate) error {
	names := append([]string{}, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if cert.Subject.CommonName != "" {
		names = append(names, cert.Subject.CommonName)
	}
	dn := cert.Subject.String()
	whole := []string{dn, reverseDN(dn)}
	for _, p := range patterns {
		against := names
		if strings.Contains(p, "=") {
			against = whole
		}
		if p == "*" {
			return nil
		}
		for _, n := range against {
			if matches(strings.ToLower(p), strings.ToLower(n)) {
				return nil
			}
		}
	}
	return notAllowed(names, dn)
}

func notAllowed(names []string, dn string) error {
	who, hint := dn, "NAME"
	if len(names) > 0 {
		who, hint = strings.Join(names, ", "), names[0]
	}
	return migrate.Fail("let the coordinator in", "", fmt.Errorf("%w: the certificate of %.200q is on no list of this agent", errNotAllowed, who),
		fmt.Sprintf("start the agent with --allow '%.100s'", hint))
}

var errNotAllowed = errors.New("not allowed")

// reverseDN turns a distinguished name around: crypto/x509 begins with the common name, libvirt's lists end with it.
func reverseDN(dn string) string {
	var parts []string
	from, escaped := 0, false
	for i := range len(dn) {
		if dn[i] == ',' && !escaped { // one that is escaped belongs to a value
			parts, from = append(parts, dn[from:i]), i+1
		}
		escaped = dn[i] == '\\' && !escaped
	}
	parts = append(parts, dn[from:])
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ",")
}

// matches compares a text with a pattern of * and ?. Its time is the product of both lengths at worst.
func matches(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	i, j, star, back := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, back = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			back++
			i, j = star+1, back
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
