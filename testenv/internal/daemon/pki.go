package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/pki"
)

// authorityFiles is where the lab keeps the certificate and key of its authority, so that tests can
// issue more certificates.
func authorityFiles(p layout.Plan) (cert, key string) {
	return filepath.Join(p.Dir, "ca-cert.pem"), filepath.Join(p.Dir, "ca-key.pem")
}

// makeAuthority makes the lab's certificate authority.
func makeAuthority(p layout.Plan) (*pki.CA, error) {
	ca, err := pki.NewCA("vmmigrate lab " + p.Name)
	if err != nil {
		return nil, err
	}
	pair, err := ca.Pair()
	if err != nil {
		return nil, err
	}
	cert, key := authorityFiles(p)
	if err := os.WriteFile(cert, pair.Cert, 0o644); err != nil {
		return nil, fmt.Errorf("keep the lab's authority: %w", err)
	}
	if err := os.WriteFile(key, pair.Key, 0o600); err != nil {
		return nil, fmt.Errorf("keep the lab's authority: %w", err)
	}
	return ca, nil
}

// Authority loads the certificate authority of the lab.
func Authority(p layout.Plan) (*pki.CA, error) {
	cert, key := authorityFiles(p)
	var pair pki.Pair
	var err error
	if pair.Cert, err = os.ReadFile(cert); err == nil {
		pair.Key, err = os.ReadFile(key)
	}
	if err != nil {
		return nil, fmt.Errorf("load the lab's authority: %w", err)
	}
	return pki.LoadCA(pair)
}

// InstallPKI issues certificates for the host, valid until notAfter (zero is the
// usual validity), and puts them where its libvirt and QEMU look.
func InstallPKI(ca *pki.CA, h layout.Host, notAfter time.Time) error {
	certs, err := ca.IssueHost(h.Name, []netip.Addr{h.Address.Addr()}, notAfter)
	if err != nil {
		return err
	}
	for path, f := range certs.Files() {
		full := filepath.Join(h.PKI(), path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return fmt.Errorf("install certificates of host %s: %w", h.Name, err)
		}
		// A new file, so that the mode is right whatever was there before.
		if err := os.WriteFile(full+".new", f.Content, f.Mode); err != nil {
			return fmt.Errorf("install certificates of host %s: %w", h.Name, err)
		}
		if err := os.Rename(full+".new", full); err != nil {
			return fmt.Errorf("install certificates of host %s: %w", h.Name, err)
		}
	}
	return nil
}
