package qemuhost

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// endpoint is where one QEMU listens and another connects to: tcp with host and port, or unix with a path.
type endpoint struct{ network, host, port, path string }

// parseEndpoint accepts tcp://host[:port], tcp:host[:port] and unix:///path.
func parseEndpoint(uri string) (endpoint, error) {
	if rest, ok := strings.CutPrefix(uri, "tcp:"); ok && !strings.HasPrefix(rest, "//") {
		uri = "tcp://" + rest
	}
	u, err := url.Parse(uri)
	if err != nil {
		return endpoint{}, fmt.Errorf("%q: %w", uri, err)
	}
	switch u.Scheme {
	case "tcp":
		if u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
			return endpoint{}, fmt.Errorf("%q is not tcp://host:port", uri)
		}
		return endpoint{network: "tcp", host: u.Hostname(), port: u.Port()}, nil
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return endpoint{}, fmt.Errorf("%q is not unix:///path", uri)
		}
		return endpoint{network: "unix", path: u.Path}, nil
	}
	return endpoint{}, fmt.Errorf("%q is neither tcp://host:port nor unix:///path", uri)
}

// uri is the form in which hosts and users write it.
func (e endpoint) uri() string {
	if e.network == "unix" {
		return "unix://" + e.path
	}
	return "tcp://" + net.JoinHostPort(e.host, e.port)
}

// qemu is the form that QEMU's migrate and migrate-incoming take.
func (e endpoint) qemu() string { return e.socket().String() }

// socket is the form of QEMU's SocketAddress.
func (e endpoint) socket() qmp.SocketAddress {
	if e.network == "unix" {
		return qmp.UnixAddress(e.path)
	}
	return qmp.InetAddress(e.host, e.port)
}

// listener decides where the destination listens for RAM and what the source is told, but for the port.
//
// With neither MigrateURI nor a listen address both ends are taken to be on one machine, as QMP sockets are: the
// destination listens on the loopback address alone.
func listener(migrateURI, listen string) (bind, announce endpoint, err error) {
	if migrateURI == "" {
		bind = endpoint{network: "tcp", host: listen, port: "0"}
		if listen == "" {
			bind.host = "127.0.0.1"
		}
		announce = bind
		if ip := net.ParseIP(bind.host); ip != nil && ip.IsUnspecified() {
			announce.host = loopback(ip)
		}
		return bind, announce, nil
	}
	if announce, err = parseEndpoint(migrateURI); err != nil || announce.network == "unix" {
		return announce, announce, err
	}
	if announce.port == "" {
		announce.port = "0"
	}
	bind = announce
	switch ip := net.ParseIP(announce.host); {
	case listen != "":
		bind.host = listen
	case ip != nil && ip.To4() == nil:
		bind.host = "::"
	default:
		bind.host = "0.0.0.0"
	}
	return bind, announce, nil
}

func loopback(ip net.IP) string {
	if ip.To4() == nil {
		return "::1"
	}
	return "127.0.0.1"
}
