package qmp

import "context"

// NBDServerArgs are the arguments of NBDServerStart.
type NBDServerArgs struct {
	Addr SocketAddress // where to listen
	// TLSCreds names server credentials; empty means no TLS.
	TLSCreds string
	// TLSAuthz names the authorization object that checks clients.
	TLSAuthz string
	// MaxConnections is how many clients may be connected; 100 where absent, 0 for
	// no limit.
	MaxConnections *uint32
	// HandshakeMaxSeconds bounds a client's negotiation; QEMU 10.0.
	HandshakeMaxSeconds *uint32
}

// NBDServerStart starts QEMU's NBD server, of which it has one.
func NBDServerStart(ctx context.Context, x Executor, a NBDServerArgs) error {
	addr, err := a.Addr.legacy()
	if err != nil {
		return &CallError{Command: "nbd-server-start", Err: err}
	}
	return run(ctx, x, "nbd-server-start", struct {
		Addr                legacyAddress `json:"addr"`
		TLSCreds            string        `json:"tls-creds,omitempty"`
		TLSAuthz            string        `json:"tls-authz,omitempty"`
		MaxConnections      *uint32       `json:"max-connections,omitempty"`
		HandshakeMaxSeconds *uint32       `json:"handshake-max-seconds,omitempty"`
	}{addr, a.TLSCreds, a.TLSAuthz, a.MaxConnections, a.HandshakeMaxSeconds})
}

// NBDServerStop stops the server, with all exports and clients.
func NBDServerStop(ctx context.Context, x Executor) error {
	return run(ctx, x, "nbd-server-stop", nil)
}

// NBDExport describes a node as an NBD export.
type NBDExport struct {
	// ID names the export in QEMU.
	ID string `json:"id"`
	// NodeName is the node to export.
	NodeName string `json:"node-name"`
	// Name is what clients ask for; empty means as the node.
	Name string `json:"name,omitempty"`
	// Description is shown to clients.
	Description string `json:"description,omitempty"`
	Writable    bool   `json:"writable"` // whether clients may write
	// AllowInactive exports a node that another process may still own; QEMU 10.0.
	AllowInactive *bool `json:"allow-inactive,omitempty"`
	// AllocationDepth adds that metadata context.
	AllocationDepth *bool `json:"allocation-depth,omitempty"`
	// Bitmaps adds the metadata contexts of these dirty bitmaps.
	Bitmaps []string `json:"bitmaps,omitempty"`
	// IOThread runs the export.
	IOThread string `json:"iothread,omitempty"`
}

// BlockExportAdd exports a node over the NBD server, which must be running.
func BlockExportAdd(ctx context.Context, x Executor, e NBDExport) error {
	return run(ctx, x, "block-export-add", struct {
		Type string `json:"type"`
		NBDExport
	}{"nbd", e})
}

// BlockExportDel takes an export back. With hard clients are cut off; without, it
// fails while there are any. QEMU reports BLOCK_EXPORT_DELETED when it is gone.
func BlockExportDel(ctx context.Context, x Executor, id string, hard bool) error {
	mode := "safe"
	if hard {
		mode = "hard"
	}
	return run(ctx, x, "block-export-del", map[string]string{"id": id, "mode": mode})
}

// BlockExport is an export of any kind.
type BlockExport struct {
	ID       string `json:"id"`        // name
	Type     string `json:"type"`      // nbd and so on
	NodeName string `json:"node-name"` // what is exported
	// ShuttingDown tells whether it is on its way out.
	ShuttingDown bool `json:"shutting-down"`
}

// QueryBlockExports lists all exports.
func QueryBlockExports(ctx context.Context, x Executor) ([]BlockExport, error) {
	return query[[]BlockExport](ctx, x, "query-block-exports", nil)
}
