package qemuhost

import (
	"context"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/qmp"
)

// Names of what this driver makes inside QEMU. Everything begins with the prefix, so that what a dead coordinator left
// is found again.
const (
	prefix     = "vmmigrate-"
	tlsObject  = prefix + "tls"
	waitObject = prefix + "waiting"
)

// makeTLS makes the credentials object of one end, "server" or "client", out of the files ca-cert.pem and
// <end>-cert.pem, <end>-key.pem in the directory of the URI. The peer's certificate is verified.
func (h *Host) makeTLS(ctx context.Context, end string) error {
	if err := h.dropObject(ctx, tlsObject); err != nil {
		return err
	}
	err := qmp.ObjectAddTLSX509(ctx, h.c, tlsObject, qmp.TLSCredsX509{Endpoint: end, Dir: h.addr.tlsDir, VerifyPeer: new(true)})
	return migrate.Fail("load the TLS certificates", "", err,
		"put ca-cert.pem, "+end+"-cert.pem and "+end+"-key.pem into "+h.addr.tlsDir+", or name another ?tls-dir= in the URI")
}
