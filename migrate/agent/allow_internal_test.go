package agent

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestAllowed(t *testing.T) {
	cert := &x509.Certificate{DNSNames: []string{"a.Example.org", "mgmt"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 7)},
		Subject: pkix.Name{CommonName: "Host A", Organization: []string{"Acme"}, Country: []string{"DE"}}}
	for pattern, want := range map[string]bool{
		"*": true, "a.example.org": true, "*.example.org": true, "A.EXAMPLE.*": true, "mgm?": true, "10.0.0.7": true, "10.0.0.*": true,
		"host a": true, "CN=Host A,*": true, "C=DE,O=Acme,CN=Host A": true, "CN=Host A,O=Acme,C=DE": true, "*O=Acme*": true,
		"": false, "?": false, "b.example.org": false, "example.org": false, "mgmt?": false, "a.example.org.evil": false,
		"CN=Host": false, "O=Other,*": false, "a.example": false, "**.org": true, "=": false,
	} {
		if err := Allowed([]string{"nobody", pattern}, cert); (err == nil) != want {
			t.Errorf("%q: %v, want %t", pattern, err, want)
		}
	}
	err := Allowed(nil, cert)
	if !errors.Is(err, errNotAllowed) || !strings.Contains(migrate.FixOf(err), "--allow 'a.Example.org'") {
		t.Errorf("an empty list: %v, fix %s", err, migrate.FixOf(err))
	}
	if Allowed([]string{""}, &x509.Certificate{}) == nil {
		t.Error("a certificate of nobody is let in")
	}
}

// A comma within a name ends no part of it: who gets such a name from the CA is nobody else by it.
func TestAllowedWithACommaInAName(t *testing.T) {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: `x,CN=admin`, Organization: []string{"Acme"}}}
	for pattern, want := range map[string]bool{`O=Acme,CN=x\,CN=admin`: true, `CN=x\,CN=admin,O=Acme`: true, "O=Acme,CN=admin*": false, "CN=admin*": false} {
		if err := Allowed([]string{pattern}, cert); (err == nil) != want {
			t.Errorf("%q: %v, want %t", pattern, err, want)
		}
	}
}

// A pattern is matched in bounded time, whatever it is.
func FuzzMatches(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add(strings.Repeat("*a", 50), strings.Repeat("a", 100)+"b")
	f.Fuzz(func(t *testing.T, p, s string) {
		if len(p) > 200 || len(s) > 200 {
			return
		}
		got := matches(p, s)
		if p == "*" && !got || !strings.ContainsAny(p, "*?") && got != (string([]rune(p)) == string([]rune(s))) {
			t.Fatalf("%q and %q: %t", p, s, got)
		}
	})
}
