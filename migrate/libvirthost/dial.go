package libvirthost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// dial makes the connection that t asks for. It returns when ctx ends.
func (e environment) dial(ctx context.Context, t target) (net.Conn, error) {
	switch t.transport {
	case transportTCP:
		return dialTCP(ctx, t, "16509")
	case transportTLS:
		return e.dialTLS(ctx, t)
	case transportSSH:
		return e.dialSSH(ctx, t)
	}
	return e.dialUnix(ctx, t)
}

// closeOn closes c when ctx ends, until the returned function is called.
func closeOn(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.Close() })
}

func (e environment) dialUnix(ctx context.Context, t target) (net.Conn, error) {
	path := e.findSocket(t)
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return c, nil
	}
	fix := ""
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		fix = "start libvirt (systemctl start libvirtd), or name its socket with socket=PATH"
		if t.path == "/session" {
			fix = "start the session's daemon (any virsh -c qemu:///session command does), or use qemu:///system"
		}
	case errors.Is(err, fs.ErrPermission):
		fix = "run as root, or add this user to the group libvirt"
	}
	return nil, migrate.Fail("connect to libvirt's socket "+path, "", link(err), fix)
}

// dialTCP connects over TCP. A dead peer is found by the kernel's probes as well as by libvirt's own keepalive.
func dialTCP(ctx context.Context, t target, port string) (net.Conn, error) {
	if t.port != "" {
		port = t.port
	}
	addr := net.JoinHostPort(t.host, port)
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: pingEvery, Interval: pingEvery, Count: pingLimit,
	}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		return c, nil
	}
	fix := fmt.Sprintf("see that %s is up and port %s is open", t.host, port)
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		fix = "correct the host's name, or enter it into DNS or /etc/hosts"
	case errors.Is(err, syscall.ECONNREFUSED):
		fix = fmt.Sprintf("let libvirt listen on port %s there (systemctl start libvirtd-%s.socket), or use qemu+ssh://", port, t.transport)
	}
	return nil, migrate.Fail("connect to "+addr, "", link(err), fix)
}

// dialTimeout bounds dial, authentication and opening together where ctx sets no nearer deadline.
const dialTimeout = 20 * time.Second
