package qemuhost

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"
)

// processGone tells for certain that the QEMU behind a lost connection has ended: nobody listens on its socket any
// more. Anything else counts as alive.
func (h *Host) processGone(ctx context.Context) bool {
	if h.isGone() {
		return true
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", h.addr.socket)
	if err == nil {
		_ = c.Close() // it was opened to see that somebody listens
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}
