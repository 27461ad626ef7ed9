package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// DialFinding makes a finding of the error with which connecting to a host ended, so that a wrong URI or an expired
// certificate reads like any other finding. It is a blocker in every case, and the fix is the driver's own if it has
// one. err must not be nil.
func DialFinding(uri string, side migrate.Side, err error) Finding {
	f := classifyDial(uri, err)
	f.Severity, f.Side = Blocker, side
	f.Detail = err.Error()
	if fix := migrate.FixOf(err); fix != "" {
		f.Fix = fix
	}
	return f
}

// DialResult is the result of a check that got no further than connecting.
func DialResult(domain, srcURI, dstURI string, findings ...Finding) Result {
	return Result{Domain: domain, Source: srcURI, Destination: dstURI, Findings: findings}
}

// classifyDial finds out what kind of failure it was: by type where there is one, by libvirt's and ssh's words where
// there is not.
func classifyDial(uri string, err error) Finding {
	host := uri
	if u, perr := url.Parse(uri); perr == nil && u.Hostname() != "" {
		host = u.Hostname()
	}
	if badURI(uri) {
		return Finding{ID: IDURIInvalid, Title: "the URI cannot be used", Fix: uriForms}
	}
	if f, ok := certFinding(host, err); ok {
		return f
	}
	var dns *net.DNSError
	said := strings.ToLower(err.Error())
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(said, w) })
	}
	switch {
	case errors.As(err, &dns) && dns.IsNotFound, has("could not resolve hostname", "name or service not known", "no such host"):
		return Finding{ID: IDConnectName, Title: fmt.Sprintf("the name %s cannot be resolved", host),
			Fix: "correct the name, or enter it into DNS or /etc/hosts: getent hosts " + shellWord(host)}
	case errors.Is(err, fs.ErrPermission), has("authentication", "permission denied", "access denied", "host key verification"):
		return Finding{ID: IDConnectAuth, Title: "the host does not let us in", Fix: authFix(uri, host)}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist), has("connection refused"):
		return Finding{ID: IDConnectRefused, Title: "nothing listens at " + uri, Fix: listenFix(uri)}
	case timedOut(err), has("timed out", "no route to host", "unreachable"):
		return Finding{ID: IDConnectTimeout, Title: host + " does not answer",
			Fix: fmt.Sprintf("see that it is up and its port open: ping -c1 %s", shellWord(host))}
	case errors.Is(err, migrate.ErrNotSupported), has("is not a libvirt uri"):
		return Finding{ID: IDURIInvalid, Title: "the URI cannot be used", Fix: uriForms}
	}
	return Finding{ID: IDConnectFailed, Title: "the host cannot be connected to", Fix: virsh(uri, "version") + " tells more"}
}

const uriForms = "use qemu:///system, qemu+ssh://HOST/system, qemu+tls://HOST/system or qemu+qmp:///PATH/qmp.sock"

// badURI tells that the URI itself is wrong, whatever became of connecting.
func badURI(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil {
		return true
	}
	if u.Scheme == "" {
		return false // an alias of libvirt.conf, or nonsense that the driver has named so
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	known := slices.Contains([]string{"", "unix", "tcp", "tls", "ssh", "qmp"}, transport)
	if driver != "qemu" || !known {
		return true
	}
	if transport == "qmp" {
		return u.Path == ""
	}
	return u.Path != "/system" && u.Path != "/session"
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ETIMEDOUT)
}

// certFinding is about certificates: the daemon's as we judge it, or ours as the daemon does.
func certFinding(host string, err error) (Finding, bool) {
	var (
		invalid  x509.CertificateInvalidError
		name     x509.HostnameError
		unknown  x509.UnknownAuthorityError
		alert    tls.AlertError
		verify   *tls.CertificateVerificationError
		renew    = "issue a new certificate for " + host + " with certtool and restart the daemon there"
		said     = strings.ToLower(err.Error())
		mentions = strings.Contains(said, "certificate")
	)
	expired := Finding{ID: IDConnectExpired, Title: "a certificate has expired or is not yet valid", Fix: renew}
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired,
		mentions && (strings.Contains(said, "expired") || strings.Contains(said, "not yet valid") || strings.Contains(said, "not valid before")):
		return expired, true
	case errors.As(err, &name):
		return Finding{ID: IDConnectCert, Title: "the daemon's certificate is not for " + host,
			Fix: "use the name in the certificate, or issue one for " + host}, true
	case errors.As(err, &unknown):
		return Finding{ID: IDConnectCert, Title: "the daemon's certificate is not signed by our CA",
			Fix: "put the CA's certificate of " + host + " at /etc/pki/CA/cacert.pem"}, true
	case errors.As(err, &alert), errors.As(err, &verify), errors.As(err, &invalid), mentions:
		return Finding{ID: IDConnectCert, Title: "the certificates of the two ends do not agree",
			Fix: "see what each end has: virt-pki-validate"}, true
	}
	return Finding{}, false
}

func authFix(uri, host string) string {
	switch {
	case strings.Contains(uri, "+ssh://"):
		return "see that this works without a question: ssh " + shellWord(host)
	case strings.Contains(uri, "+tls://"), strings.HasPrefix(uri, "qemu://") && !strings.HasPrefix(uri, "qemu:///"):
		return "let the daemon know our certificate's name (tls_allowed_dn_list in /etc/libvirt/libvirtd.conf)"
	}
	return "run as root, or add this user to the group libvirt"
}

func listenFix(uri string) string {
	switch _, port, ok := daemonPort(uri); {
	case ok:
		return daemonFix(fmt.Sprint(port))
	case strings.HasPrefix(uri, "qemu+qmp:"):
		return "start QEMU with -qmp unix:PATH,server=on,wait=off"
	}
	return "start the daemon: systemctl start libvirtd"
}
