package migrate

import "context"

// Overlay is a disk that comes after its guest (CopyAfter): the guest starts at the destination on an empty image of its own,
// the overlay, below which an NBD export serves what the source has. When all of that is at hand the two are folded into the
// disk's final image, and the guest goes on with that alone.
type Overlay struct {
	// Target is the disk's name, and the export's.
	Target string
	// Path is the overlay's, a qcow2 image; Socket the unix socket of the export's server.
	Path, Socket string
	// Final is the disk as it is to be in the end: Path, Kind and Format count. It is there, of the right size, and all zeros.
	Final Disk
}

// Overlayer is a destination that can start a guest on overlays.
type Overlayer interface {
	// OnOverlays gives parameters, for Prepare, that have the guest start on overlays. A QEMU that its owner started has
	// the disks that it was started with: then they are as they were.
	OnOverlays(o Offer, p Params, overlays []Overlay) (Params, error)
	// PutOverlays puts a waiting guest onto overlays, after Prepare, where its description could not say so.
	PutOverlays(ctx context.Context, name string, overlays []Overlay) error
	// Fold copies what an overlay and the export below it hold into the final image while the guest runs, has the guest go
	// on with that, and returns when it does. What was begun before is taken up; a guest that is on its final image already is
	// left so. An error leaves the guest on its overlay, and Fold can be called again. progress is told bytes.
	Fold(ctx context.Context, name string, o Overlay, progress func(done, total int64)) error
	// Unstick lets a guest go on that stands still because a disk of it could not be written, and tells whether one did. It
	// stops again, and loses no write, if that is as before.
	Unstick(ctx context.Context, name string) (was bool, err error)
}
