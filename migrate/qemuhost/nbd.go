package qemuhost

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// The ports that a destination tries for its disks when the user names none; libvirt uses the same.
const (
	firstPort = 49152
	lastPort  = 49215
)

// serveDisks starts QEMU's NBD server and exports the disks for writing. It returns what the source connects to.
func (h *Host) serveDisks(ctx context.Context, u *undo, disks []disk, p migrate.Params, bind, announce endpoint) (*qmp.SocketAddress, error) {
	at, told, err := nbdListener(p, bind, announce)
	if err != nil {
		return nil, err
	}
	if at.port, err = h.startNBD(ctx, at, p.TLS); err != nil {
		return nil, err
	}
	told.port = at.port
	u.push(func(ctx context.Context) error { return qmp.NBDServerStop(ctx, h.c) })
	for _, d := range disks {
		err := qmp.BlockExportAdd(ctx, h.c, qmp.NBDExport{ID: exportID(d.Target), NodeName: d.Node, Name: d.Target, Writable: true})
		if err != nil {
			return nil, migrate.Fail("export disk "+d.Target, migrate.SideDestination, err, "")
		}
	}
	return new(told.socket()), nil
}

// nbdListener decides where the NBD server listens and what the source is told. Disks take the host of the RAM unless
// DisksURI says otherwise; RAM over a unix socket leaves them the loopback address.
func nbdListener(p migrate.Params, bind, announce endpoint) (at, told endpoint, err error) {
	if p.DisksURI != "" {
		told, err = parseEndpoint(p.DisksURI)
		at = told
		if err == nil && told.network == "tcp" && (p.ListenAddress != "" || bind.network == "tcp") {
			at.host = bind.host
		}
	} else {
		at, told = bind, announce
		if bind.network == "unix" {
			at = endpoint{network: "tcp", host: "127.0.0.1"}
			told = at
		}
		at.port, told.port = "", ""
	}
	if at.network == "tcp" && at.port == "" && p.DisksPort > 0 {
		at.port = strconv.Itoa(p.DisksPort)
	}
	return at, told, err
}

// startNBD starts the server on the given port or on the first free one. QEMU does not tell which port the kernel
// chose, so the choice is made here.
func (h *Host) startNBD(ctx context.Context, at endpoint, tls bool) (string, error) {
	first, last := firstPort, lastPort
	if at.port != "" {
		n, err := strconv.Atoi(at.port)
		if err != nil {
			return "", fmt.Errorf("port %q: %w", at.port, err)
		}
		first, last = n, n
	}
	if at.network == "unix" {
		first, last = 0, 0
	}
	var err error
	for n := first; n <= last; n++ {
		if at.network == "tcp" {
			at.port = strconv.Itoa(n)
		}
		a := qmp.NBDServerArgs{Addr: at.socket()}
		if tls {
			a.TLSCreds = tlsObject
		}
		if err = qmp.NBDServerStart(ctx, h.c, a); err == nil {
			return at.port, nil
		}
		if !refused(err) || !strings.Contains(err.Error(), "in use") {
			break
		}
	}
	return "", migrate.Fail("serve the disks on "+at.uri(), migrate.SideDestination, err,
		"free that port or choose another with --disks-port; QEMU has one NBD server, so end any other use of it")
}

func exportID(target string) string { return prefix + "export-" + safeID(target) }

// safeID makes an id that QEMU accepts: letters, digits, dot, dash and underscore.
func safeID(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, s)
}
