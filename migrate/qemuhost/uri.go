package qemuhost

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// Scheme begins the URI of a bare QEMU.
const Scheme = "qemu+qmp"

// DefaultTLSDir is where the certificates for TLS lie unless the URI says otherwise: libvirt's default as well.
const DefaultTLSDir = "/etc/pki/qemu"

// address is a parsed URI.
type address struct {
	uri    string
	socket string
	tlsDir string
}

// Handles tells whether uri is one of a bare QEMU.
func Handles(uri string) bool { return strings.HasPrefix(uri, Scheme+":") }

// parseURI accepts qemu+qmp:///absolute/path.sock[?tls-dir=/absolute/path].
func parseURI(uri string) (address, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return address{}, fmt.Errorf("%q is no URI: %w", uri, err)
	}
	switch {
	case u.Scheme != Scheme:
		return address{}, fmt.Errorf("%q does not begin with %s://", uri, Scheme)
	case u.Host != "" || u.User != nil:
		return address{}, fmt.Errorf("%q names a host: write three slashes, %s:///path/to/qmp.sock", uri, Scheme)
	case u.Opaque != "" || !filepath.IsAbs(u.Path) || u.Path == "/":
		return address{}, fmt.Errorf("%q has no absolute path of a socket: %s:///path/to/qmp.sock", uri, Scheme)
	case u.Fragment != "":
		return address{}, fmt.Errorf("%q has a fragment", uri)
	}
	a := address{uri: uri, socket: u.Path, tlsDir: DefaultTLSDir}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return address{}, fmt.Errorf("the options of %q: %w", uri, err)
	}
	for k, v := range q {
		if k != "tls-dir" || len(v) != 1 || !filepath.IsAbs(v[0]) {
			return address{}, fmt.Errorf("%q: the only option is tls-dir=/absolute/path", uri)
		}
		a.tlsDir = v[0]
	}
	return a, nil
}
