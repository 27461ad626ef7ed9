package qmp

import (
	"context"
	"encoding/json"
)

// BlockDevice is a disk, or another drive, as the guest has it.
type BlockDevice struct {
	// Device is the drive's name, empty for one made with blockdev-add.
	Device string `json:"device"`
	// Qdev is the path or id of the guest's device.
	Qdev      *string `json:"qdev"`
	Type      string  `json:"type"`      // always unknown, kept by QEMU for old clients
	Removable bool    `json:"removable"` // whether the medium can be taken out
	Locked    bool    `json:"locked"`    // whether the guest holds the medium
	TrayOpen  *bool   `json:"tray_open"` // absent without a tray
	// IOStatus is ok, failed or nospace.
	IOStatus *string `json:"io-status"`
	// Inserted is the medium; nil if there is none.
	Inserted *BlockNode `json:"inserted"`
}

// BlockNode is a node of the block graph. Sizes are bytes, rates per second.
type BlockNode struct {
	// File is the name of what it opened.
	File     string  `json:"file"`
	NodeName *string `json:"node-name"` // absent on nodes made without a name
	ReadOnly bool    `json:"ro"`        // whether QEMU refuses to write it
	// Driver is the format or protocol, such as qcow2 or nbd.
	Driver           string  `json:"drv"`
	BackingFile      *string `json:"backing_file"`       // absent without one
	BackingFileDepth int64   `json:"backing_file_depth"` // images beneath
	// Active tells whether QEMU may write it; an inactive node belongs to another
	// process. QEMU 10.0.
	Active       *bool  `json:"active"`
	Encrypted    bool   `json:"encrypted"`     // whether the image is encrypted
	DetectZeroes string `json:"detect_zeroes"` // off, on or unmap
	// BPS and IOPS are limits, 0 for none.
	BPS   int64         `json:"bps"`
	IOPS  int64         `json:"iops"`                    // requests; see BPS
	Image BlockImage    `json:"image"`                   // its image
	Cache *BlockCache   `json:"cache"`                   // how it is cached
	Dirty []DirtyBitmap `json:"dirty-bitmaps,omitempty"` // dirty bitmaps
}

// BlockImage is what a node's image says of itself.
type BlockImage struct {
	Filename    string `json:"filename"` // what was opened
	Format      string `json:"format"`   // raw, qcow2 and so on
	VirtualSize int64  `json:"virtual-size"`
	// ActualSize is what it takes on its disk.
	ActualSize          *int64  `json:"actual-size"`
	ClusterSize         *int64  `json:"cluster-size"`            // bytes
	Encrypted           *bool   `json:"encrypted"`               // absent means not
	BackingFilename     *string `json:"backing-filename"`        // as the image names it
	FullBackingFilename *string `json:"full-backing-filename"`   // as QEMU resolved it
	BackingFormat       *string `json:"backing-filename-format"` // absent if unknown
	// DirtyFlag tells whether it was not closed properly.
	DirtyFlag *bool `json:"dirty-flag"`
	// BackingImage is the image beneath.
	BackingImage *BlockImage `json:"backing-image"`
	// FormatSpecific is as QEMU sends it; its kinds grow with each version.
	FormatSpecific json.RawMessage `json:"format-specific,omitempty"`
}

// BlockCache is how a node treats the host's cache.
type BlockCache struct {
	Writeback bool `json:"writeback"` // writes are done before they are on disk
	Direct    bool `json:"direct"`    // bypasses the host's cache
	NoFlush   bool `json:"no-flush"`  // flushes are ignored
}

// DirtyBitmap is a dirty bitmap of a node.
type DirtyBitmap struct {
	Name *string `json:"name"` // absent for those of a job
	// Count is dirty bytes.
	Count int64 `json:"count"`
	// Granularity is bytes a bit.
	Granularity  uint32 `json:"granularity"`
	Recording    bool   `json:"recording"`    // new writes are recorded
	Busy         bool   `json:"busy"`         // in use by a job or export
	Persistent   bool   `json:"persistent"`   // stored in the image
	Inconsistent *bool  `json:"inconsistent"` // not closed properly, of no use
}

// QueryBlock lists the guest's drives.
func QueryBlock(ctx context.Context, x Executor) ([]BlockDevice, error) {
	return query[[]BlockDevice](ctx, x, "query-block", nil)
}

// QueryNamedBlockNodes lists all nodes of the block graph, each without the images
// beneath it.
func QueryNamedBlockNodes(ctx context.Context, x Executor) ([]BlockNode, error) {
	return query[[]BlockNode](ctx, x, "query-named-block-nodes", map[string]bool{"flat": true})
}

// BlockdevAdd adds a node. Options is encoded as JSON: a map, or a struct such as
// NBDNode.
func BlockdevAdd(ctx context.Context, x Executor, options any) error {
	return run(ctx, x, "blockdev-add", options)
}

// BlockdevDel removes a node, which nothing may use any more.
func BlockdevDel(ctx context.Context, x Executor, node string) error {
	return run(ctx, x, "blockdev-del", map[string]string{"node-name": node})
}

// BlockdevSnapshot puts a node that has no backing node yet above another, in whose place it is used from then on. The other is
// read-only afterwards.
func BlockdevSnapshot(ctx context.Context, x Executor, node, overlay string) error {
	return run(ctx, x, "blockdev-snapshot", map[string]string{"node": node, "overlay": overlay})
}

// BlockdevReopen gives a node other options, which it names whole. QEMU 6.1.
func BlockdevReopen(ctx context.Context, x Executor, options ...any) error {
	return run(ctx, x, "blockdev-reopen", map[string]any{"options": options})
}

// NBDNode describes a node that is the client of an NBD server.
type NBDNode struct {
	NodeName string        // name of the new node
	Server   SocketAddress // where the server listens
	Export   string        // which of its exports
	// TLSCreds names the credentials; empty means no TLS.
	TLSCreds string
	// TLSHostname is the name to verify, where it is not that of the server.
	TLSHostname string
	// ReconnectDelay is seconds for which requests wait for a lost server; absent
	// means that they fail at once.
	ReconnectDelay *uint32
	// OpenTimeout is seconds for which opening tries again.
	OpenTimeout *uint32
	ReadOnly    bool // do not write
	// Unmap lets zeros be told as holes, and not only as zeros that take their space.
	Unmap bool
}

// MarshalJSON gives it as blockdev-add wants it.
func (n NBDNode) MarshalJSON() ([]byte, error) {
	var discard string
	if n.Unmap {
		discard = "unmap"
	}
	return json.Marshal(struct {
		Driver         string        `json:"driver"`
		NodeName       string        `json:"node-name"`
		Server         SocketAddress `json:"server"`
		Export         string        `json:"export"`
		TLSCreds       string        `json:"tls-creds,omitempty"`
		TLSHostname    string        `json:"tls-hostname,omitempty"`
		ReconnectDelay *uint32       `json:"reconnect-delay,omitempty"`
		OpenTimeout    *uint32       `json:"open-timeout,omitempty"`
		ReadOnly       bool          `json:"read-only,omitempty"`
		Discard        string        `json:"discard,omitempty"`
	}{"nbd", n.NodeName, n.Server, n.Export, n.TLSCreds, n.TLSHostname, n.ReconnectDelay, n.OpenTimeout, n.ReadOnly, discard})
}
