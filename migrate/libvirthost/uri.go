package libvirthost

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// The transports of a libvirt URI.
const (
	transportUnix = "unix"
	transportTCP  = "tcp"
	transportTLS  = "tls"
	transportSSH  = "ssh"
)

// target is a parsed libvirt URI.
type target struct {
	raw       string
	transport string
	user      string
	host      string
	port      string
	// path is "/system" or "/session"; name is what the daemon is asked to open.
	path, name string
	// socket is a unix socket's path, here or on the ssh host; empty is the usual one.
	socket string
	// ssh only: the program, the key file, netcat's path there, how the socket is reached (auto, native, netcat).
	command, keyfile, netcat, proxy string
	// tls only: the folder of the certificates, and that the daemon's is not to be checked.
	pkipath  string
	noVerify bool
}

const uriForms = "use qemu:///system, qemu:///session, qemu+ssh://HOST/system, qemu+tls://HOST/system, " +
	"qemu+tcp://HOST/system or qemu+unix:///system?socket=PATH"

// uriError is about a URI that cannot be used as it is written.
func uriError(raw, fix, format string, args ...any) error {
	return &migrate.OpError{Op: fmt.Sprintf("read the URI %q", redact(raw)), Err: fmt.Errorf(format, args...), Fix: fix}
}

// redact drops what a URI might hold of a password.
func redact(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		return u.Redacted()
	}
	return raw
}

// parseURI reads a libvirt URI of the QEMU driver.
func parseURI(raw string) (target, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return target{}, uriError(raw, uriForms, "it is not a libvirt URI")
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	if driver != "qemu" {
		return target{}, uriError(raw, uriForms, "driver %q: %w; only qemu is", driver, migrate.ErrNotSupported)
	}
	t := target{raw: u.Redacted(), transport: transport, host: u.Hostname(), port: u.Port(), path: u.Path}
	if u.User != nil {
		t.user = u.User.Username()
	}
	if t.transport == "" {
		t.transport = transportUnix
		if t.host != "" {
			t.transport = transportTLS
		}
	}
	if t.path != "/system" && t.path != "/session" {
		return target{}, uriError(raw, uriForms, "its path is %q, not /system or /session", t.path)
	}
	t.name = "qemu://" + t.path
	if err := t.checkTransport(); err != nil {
		return target{}, err
	}
	return t, t.readQuery(u.Query())
}

func (t *target) checkTransport() error {
	switch t.transport {
	case transportUnix:
		if t.host != "" || t.port != "" || t.user != "" {
			return uriError(t.raw, "leave the host out, or use qemu+ssh:// or qemu+tls://", "a unix socket has no host")
		}
		return nil
	case transportTCP, transportTLS, transportSSH:
		if t.host == "" {
			return uriError(t.raw, "write the host after qemu+"+t.transport+"://", "it names no host")
		}
		return nil
	case "libssh", "libssh2":
		return uriError(t.raw, "use qemu+ssh://, which runs your own ssh", "transport %q: %w", t.transport, migrate.ErrNotSupported)
	case "ext":
		return uriError(t.raw, "use qemu+ssh://…?command=PROGRAM", "transport %q: %w", t.transport, migrate.ErrNotSupported)
	}
	return uriError(t.raw, uriForms, "transport %q: %w", t.transport, migrate.ErrNotSupported)
}

// accepts lists the parameters that mean something to each transport. Those that would be dropped in silence are
// refused instead.
func accepts(transport string) []string {
	switch transport {
	case transportUnix:
		return []string{"name", "socket", "mode"}
	case transportTLS:
		return []string{"name", "pkipath", "no_verify", "no_sanity"}
	case transportSSH:
		return []string{"name", "socket", "command", "keyfile", "netcat", "proxy", "no_tty", "mode"}
	}
	return []string{"name"}
}

func (t *target) readQuery(q url.Values) error {
	known := accepts(t.transport)
	for k := range q {
		if !slices.Contains(known, k) {
			return uriError(t.raw, "leave it out; qemu+"+t.transport+" knows "+strings.Join(known, ", "),
				"parameter %q: %w", k, migrate.ErrNotSupported)
		}
	}
	if n := q.Get("name"); n != "" {
		t.name = n
	}
	t.socket, t.command, t.keyfile = q.Get("socket"), q.Get("command"), q.Get("keyfile")
	t.netcat, t.proxy, t.pkipath = q.Get("netcat"), q.Get("proxy"), q.Get("pkipath")
	t.noVerify = q.Get("no_verify") != "" && q.Get("no_verify") != "0"
	if !slices.Contains([]string{"", "auto", "native", "netcat"}, t.proxy) {
		return uriError(t.raw, "use proxy=auto, native or netcat", "proxy %q is unknown", t.proxy)
	}
	return t.readMode(q.Get("mode"))
}

// readMode takes libvirt's choice between the one daemon libvirtd and the driver's own, virtqemud.
func (t *target) readMode(mode string) error {
	switch mode {
	case "", "auto":
	case "legacy", "direct":
		if t.socket == "" {
			t.socket = socketPath(t.path, socketNames[mode], defaultEnv())
		}
	default:
		return uriError(t.raw, "use mode=auto, legacy or direct", "mode %q is unknown", mode)
	}
	return nil
}

// local tells that the connection does not leave this machine.
func (t target) local() bool { return t.transport == transportUnix }

// encrypted tells that nobody on the way can read or change it.
func (t target) encrypted() bool { return t.transport != transportTCP }
