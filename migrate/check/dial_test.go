package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestDialFinding(t *testing.T) {
	const tlsURI, sshURI, qmpURI = "qemu+tls://b/system", "qemu+ssh://b/system", "qemu+qmp:///run/q.sock"
	op := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	tests := []struct {
		name, uri string
		err       error
		id        string
	}{
		{"scheme", "xen:///system", errors.New("x"), IDURIInvalid},
		{"transport", "qemu+carrier://b/system", errors.New("x"), IDURIInvalid},
		{"path", "qemu:///sytem", errors.New("x"), IDURIInvalid},
		{"garbage", "qemu://[b/system", errors.New("x"), IDURIInvalid},
		{"no socket path", "qemu+qmp://", errors.New("x"), IDURIInvalid},
		{"not supported", "qemu:///system?x=y", fmt.Errorf("x: %w", migrate.ErrNotSupported), IDURIInvalid},
		{"alias that is none", "nohost", errors.New(`it is not a libvirt URI`), IDURIInvalid},
		{"alias, refused", "box", op(syscall.ECONNREFUSED), IDConnectRefused},
		{"name", tlsURI, op(&net.DNSError{Err: "no such host", Name: "b", IsNotFound: true}), IDConnectName},
		{"name by ssh", sshURI, errors.New("ssh: Could not resolve hostname b: Name or service not known"), IDConnectName},
		{"refused", tlsURI, op(syscall.ECONNREFUSED), IDConnectRefused},
		{"no socket", "qemu:///system", &fs.PathError{Op: "dial", Err: syscall.ENOENT}, IDConnectRefused},
		{"no QMP socket", qmpURI, op(syscall.ECONNREFUSED), IDConnectRefused},
		{"time-out", tlsURI, op(os.ErrDeadlineExceeded), IDConnectTimeout},
		{"deadline", tlsURI, context.DeadlineExceeded, IDConnectTimeout},
		{"no route", tlsURI, op(syscall.EHOSTUNREACH), IDConnectTimeout},
		{"time-out by ssh", sshURI, errors.New("ssh: connect to host b port 22: Connection timed out"), IDConnectTimeout},
		{"expired", tlsURI, x509.CertificateInvalidError{Reason: x509.Expired}, IDConnectExpired},
		{"expired, wrapped", tlsURI, fmt.Errorf("x: %w", &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}), IDConnectExpired},
		{"expired in words", tlsURI, errors.New("certificate b: expired on 2026-01-02"), IDConnectExpired},
		{"our certificate expired", tlsURI, fmt.Errorf("remote error: %w", tls.AlertError(45)), IDConnectExpired},
		{"untrusted", tlsURI, x509.UnknownAuthorityError{}, IDConnectCert},
		{"name in certificate", tlsURI, x509.HostnameError{Certificate: &x509.Certificate{}, Host: "b"}, IDConnectCert},
		{"bad certificate", tlsURI, fmt.Errorf("remote error: %w", tls.AlertError(42)), IDConnectCert},
		{"no certificate", tlsURI, errors.New("certificate /etc/pki/x: cannot be read"), IDConnectCert},
		{"socket permission", "qemu:///system", op(syscall.EACCES), IDConnectAuth},
		{"ssh key", sshURI, errors.New("root@b: Permission denied (publickey)."), IDConnectAuth},
		{"ssh host key", sshURI, errors.New("Host key verification failed."), IDConnectAuth},
		{"auth", tlsURI, errors.New("authentication failed: Failed to verify peer's identity"), IDConnectAuth},
		{"anything else", tlsURI, errors.New("boo"), IDConnectFailed},
	}
	for _, tc := range tests {
		f := DialFinding(tc.uri, dst, tc.err)
		if f.ID != tc.id || f.Severity != Blocker || f.Side != dst || f.Title == "" || f.Fix == "" || f.Detail == "" {
			t.Errorf("%s: %+v, want %s", tc.name, f, tc.id)
		}
	}
	err := migrate.Fail("connect", "", syscall.ECONNREFUSED, "do this")
	f := DialFinding(tlsURI, src, err)
	if f.Fix != "do this" || f.ID != IDConnectRefused {
		t.Errorf("the driver's fix is lost: %+v", f)
	}
	if r := DialResult("web", "a", "b", f); !r.Blocked() || r.Err() == nil {
		t.Errorf("result %+v", r)
	}
}
