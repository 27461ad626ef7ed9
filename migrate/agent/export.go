package agent

import (
	"context"
	"net"
	"strings"
)

// ExportSpec says of which guest the RAM is to be served.
type ExportSpec struct {
	Guest   Guest    `json:"guest"`
	Regions []Region `json:"regions"`
	// Track tells which pages the guest wrote since the exports were opened, as the dirty bitmap "vmmigrate".
	Track bool `json:"track,omitempty"`
}

// Exported is the RAM of a guest that stays where it is, as read-only NBD exports: "ram" is all of it, and each block is
// ExportName of its name. What is read is what the guest has there at that moment.
type Exported interface {
	// Serve speaks NBD with the client on conn, which it closes, until the client leaves, ctx ends or the exports do. It
	// may be called for many connections at a time. A client that breaks the protocol is no error of the exports.
	Serve(ctx context.Context, conn net.Conn) error
	// Wait returns when the exports ended by themselves, and why: ErrNoDomain for a guest that is gone, ErrBusy for a
	// migration that needs the tracker's place. After Close it returns nil; the error of ctx if that ends first.
	Wait(ctx context.Context) error
	// Written gives the pages written since the last call, at first since the exports were opened, and takes nothing from
	// the dirty bitmap. It is for exports that track; others fail. When it fails, what was written until the next
	// call that does not fail is not known.
	Written(ctx context.Context) (Harvest, error)
	// Close ends all connections and takes the tracker out of QEMU. It is idempotent.
	Close(ctx context.Context) error
}

// WholeRAM is the export of all blocks, back to back.
const WholeRAM = "ram"

// ExportName is the export of one RAM block. QEMU names a block by the path of its backend or by that's last part,
// depending on its options; here it is always the latter.
func ExportName(block string) string {
	return WholeRAM + "/" + strings.TrimPrefix(block, "/objects/")
}
