package agent

import "context"

// Disks is an agent's part in moving a guest's disks: two ends with data connections of their own, beside those for RAM.
//
// A disk moves in one of two ways. DisksAfter: the guest runs at the destination first, on an overlay whose lower layer is an
// export of the destination's agent, which fetches what is read, and the rest besides. DisksMirror: the guest runs at the source,
// whose QEMU mirrors what it writes from now on, while the destination's agent brings the rest in line.
type Disks interface {
	// OpenDiskSource serves disks of this host, and connects to the destination's end.
	OpenDiskSource(ctx context.Context, spec DiskSourceSpec) (DiskSource, error)
	// OpenDiskDest waits for the source's end to connect. Reads of an export may come at once.
	OpenDiskDest(ctx context.Context, spec DiskDestSpec) (DiskDest, error)
}

// DiskMode is the way in which disks move.
type DiskMode string

// The ways.
const (
	DisksAfter  DiskMode = "after"
	DisksMirror DiskMode = "mirror"
)

// DiskSourceSpec opens the source's end.
type DiskSourceSpec struct {
	Migration string       `json:"migration"`
	Mode      DiskMode     `json:"mode"`
	Link      Link         `json:"link"`
	Disks     []SourceDisk `json:"disks"`
	// Resume: the guest has left, what the images hold is final.
	Resume bool `json:"resume,omitempty"`
}

// SourceDisk is a disk at the source.
type SourceDisk struct {
	// Target is its name: vda.
	Target string `json:"target"`
	// Path and Format are the image's.
	Path   string `json:"path"`
	Format string `json:"format"`
	// Size is what the guest sees, in bytes.
	Size int64 `json:"size"`
	// Live is the unix socket of an NBD server in which the source's QEMU exports the disk under its Target, for reading;
	// empty if it does not. Without it a running guest's image is read as it is, which is good for raw ones only.
	Live string `json:"live,omitempty"`
	// Mirror is the unix socket to listen on for the source's QEMU, which writes there what its guest writes; what comes goes
	// to the destination. DisksMirror only.
	Mirror string `json:"mirror,omitempty"`
}

// DiskDestSpec opens the destination's end.
type DiskDestSpec struct {
	Migration string     `json:"migration"`
	Mode      DiskMode   `json:"mode"`
	Guest     string     `json:"guest"`
	Link      Link       `json:"link"`
	Disks     []DestDisk `json:"disks"`
	// Bandwidth caps what is fetched ahead, over all disks, in bytes a second; 0 is no cap. Reads of the guest are never held
	// back.
	Bandwidth int64 `json:"bandwidth,omitempty"`
	// Resume takes up disks of a guest that may run here: what the caches hold is there, the rest is not.
	Resume bool `json:"resume,omitempty"`
}

// DestDisk is a disk at the destination.
type DestDisk struct {
	Target string `json:"target"`
	Size   int64  `json:"size"`
	// Socket is the unix socket on which QEMU here finds the export named Target, and Cache the path of the sparse file that
	// keeps what was fetched. DisksAfter only.
	Socket string `json:"socket,omitempty"`
	Cache  string `json:"cache,omitempty"`
	// Path and Format are the image to write to, which is there. Reuse: it holds something that may be what the source has;
	// without it, it is known to be all zeros. DisksMirror only.
	Path   string `json:"path,omitempty"`
	Format string `json:"format,omitempty"`
	Reuse  bool   `json:"reuse,omitempty"`
}

// DiskSource is the source's end of the disks of one migration.
type DiskSource interface {
	// Freeze tells that the guest has left: its QEMU has written everything and let go of the images. It refuses with
	// ErrBusy as long as somebody has one of them open for writing. From now on they are served as they are, and nobody
	// can open them for writing here.
	Freeze(ctx context.Context) error
	// Close ends the connections and lets go of the images. It is idempotent.
	Close(ctx context.Context) error
}

// DiskDest is the destination's end of the disks of one migration.
type DiskDest interface {
	// Addr is where it listens for the source's end.
	Addr() string
	// Ready fails unless somebody has opened each export: a guest that was to wait above them, and does not, would run on
	// empty images. DisksAfter only.
	Ready(ctx context.Context) error
	// Thaw tells that the source's end is frozen: reads that waited are answered, and what comes is kept. Before it, reads
	// get what the source has at the moment, for a QEMU that looks at its disks before the guest comes. DisksAfter only.
	Thaw(ctx context.Context) error
	// Fetch brings everything over and tells of progress: DisksAfter after Thaw, into the caches, and DisksMirror while the
	// guest runs at the source, into the images. When the link is lost it returns an error that wraps migrate.ErrLinkLost; it
	// can be called again and goes on where it was.
	Fetch(ctx context.Context, progress func(Progress)) (Progress, error)
	// Tune changes the cap, in bytes a second; 0 is no cap.
	Tune(ctx context.Context, bandwidth int64) error
	// Settle waits until all that was mirrored is in the images, and lets go of them: a QEMU may open them for writing then.
	// It is for use after Fetch, with the guest at a standstill and the source's QEMU still connected: it refuses when a mirror
	// has ended, or was lost for a moment. DisksMirror only.
	Settle(ctx context.Context) error
	// Close lets go of the disks. With DisksAfter it refuses while the guest may still need what the source has, unless how
	// says so. It is idempotent.
	Close(ctx context.Context, how DiskClosing) error
}

// DiskClosing is how a destination's end is closed.
type DiskClosing struct {
	// Abandon: the guest is given up, or did not come. The caches are removed.
	Abandon bool `json:"abandon,omitempty"`
	// Done: no disk of the guest needs the exports any more. The caches are removed.
	Done bool `json:"done,omitempty"`
}

// DiskProgress are figures of one disk since its end was opened, in bytes.
type DiskProgress struct {
	Target string `json:"target"`
	// Size is what the guest sees; Data how much of it holds something at the source, as far as is known.
	Size int64 `json:"size"`
	Data int64 `json:"data"`
	// Fetched came over the link, Reused was there already, Mirrored came from the source's QEMU, Remaining is still to come.
	Fetched   int64 `json:"fetched"`
	Reused    int64 `json:"reused,omitempty"`
	Mirrored  int64 `json:"mirrored,omitempty"`
	Remaining int64 `json:"remaining"`
	// Reads counts those of the guest's reads that needed the source; ReadUS is how long they took, in microseconds.
	Reads  int64    `json:"reads,omitempty"`
	ReadUS *Latency `json:"read_us,omitempty"`
}
