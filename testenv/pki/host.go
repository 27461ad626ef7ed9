package pki

import (
	"io/fs"
	"net/netip"
	"time"
)

// Host is what one host needs to talk TLS as both sides.
type Host struct {
	// CA is the certificate of the authority that signed both pairs, PEM.
	CA []byte
	// Server answers under the host's names and addresses; Client dials.
	Server, Client Pair
}

// File is one file of a host's PKI directory.
type File struct {
	Content []byte
	// Mode is 0600 for private keys and 0644 for the rest.
	Mode fs.FileMode
}

// IssueHost issues both pairs for a host that is reached as name, localhost or
// one of the addresses. A zero notAfter means the usual validity; one in the past
// gives certificates that have expired.
func (ca *CA) IssueHost(name string, addresses []netip.Addr, notAfter time.Time) (Host, error) {
	r := Request{Name: name, NotAfter: notAfter}
	if !notAfter.IsZero() {
		r.NotBefore = notAfter.Add(-24 * time.Hour)
		if hourAgo := time.Now().Add(-defaultBefore); hourAgo.Before(r.NotBefore) {
			r.NotBefore = hourAgo
		}
	}
	server, client := r, r
	server.Server = true
	server.DNS = []string{name, "localhost"}
	server.IPs = append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, addresses...)
	client.Client = true
	h := Host{CA: ca.Cert()}
	var err error
	if h.Server, err = ca.Issue(server); err != nil {
		return Host{}, err
	}
	if h.Client, err = ca.Issue(client); err != nil {
		return Host{}, err
	}
	return h, nil
}

// Files returns the content of /etc/pki by path below it: libvirt's layout for
// its own connections, and QEMU's for migration and NBD (the directory that
// default_tls_x509_cert_dir names).
func (h Host) Files() map[string]File {
	public := func(b []byte) File { return File{Content: b, Mode: 0o644} }
	private := func(b []byte) File { return File{Content: b, Mode: 0o600} }
	return map[string]File{
		"CA/cacert.pem":                 public(h.CA),
		"libvirt/servercert.pem":        public(h.Server.Cert),
		"libvirt/private/serverkey.pem": private(h.Server.Key),
		"libvirt/clientcert.pem":        public(h.Client.Cert),
		"libvirt/private/clientkey.pem": private(h.Client.Key),
		"qemu/ca-cert.pem":              public(h.CA),
		"qemu/server-cert.pem":          public(h.Server.Cert),
		"qemu/server-key.pem":           private(h.Server.Key),
		"qemu/client-cert.pem":          public(h.Client.Cert),
		"qemu/client-key.pem":           private(h.Client.Key),
	}
}
