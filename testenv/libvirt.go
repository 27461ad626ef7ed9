package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// withLibvirt runs fn on a connection to the host's libvirtd and closes it. When
// ctx ends, the connection is cut, and with it whatever fn waits for.
func (h *Host) withLibvirt(ctx context.Context, fn func(*libvirt.Libvirt) error) error {
	if h.lab.state.Plan.Bare {
		return errBare
	}
	if !h.owner.Alive() {
		return fmt.Errorf("%s: %w", h.what, ErrHostDown)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", h.host.Socket())
	if err != nil {
		return fmt.Errorf("connect to libvirtd of %s: %w", h.what, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l := libvirt.NewWithDialer(dialers.NewAlreadyConnected(conn))
	err = l.ConnectToURI(libvirt.QEMUSystem)
	if err == nil {
		err = fn(l)
		if ctx.Err() == nil {
			err = errors.Join(err, l.Disconnect())
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("libvirtd of %s: %w", h.what, err)
	}
	return nil
}

// errBare is the error for what needs a libvirtd in a lab without.
var errBare = errors.New("the hosts of this lab have no libvirtd")

// noDomain reports whether libvirt says that there is no such domain.
func noDomain(err error) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == uint32(libvirt.ErrNoDomain)
}
