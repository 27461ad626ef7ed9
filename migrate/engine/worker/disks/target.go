package disks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// target is the image that a disk is brought into. It is safe for use by several goroutines, which do not write to the same
// bytes at once.
type target interface {
	sparse
	nbd.Extenter
	// write writes all of p at off.
	write(ctx context.Context, p []byte, off int64) error
	// zero makes a range read as zeros and gives its storage back.
	zero(ctx context.Context, off, length int64) error
	// flush makes durable what was written.
	flush(ctx context.Context) error
	// close lets go of the image.
	close(ctx context.Context) error
}

// openTarget opens a disk's image for writing. As long as it is open no QEMU can open it for writing.
func openTarget(ctx context.Context, d agent.DestDisk) (target, error) {
	if err := storage.CheckPath(d.Path); err != nil {
		return nil, err
	}
	var t target
	var size int64
	var err error
	switch d.Format {
	case "raw":
		t, size, err = openRaw(d.Path)
	case "qcow2":
		t, size, err = openByTool(ctx, d.Path, d.Format)
	default:
		return nil, fmt.Errorf("an image in the format %q: %w", d.Format, migrate.ErrNotSupported)
	}
	if err != nil {
		return nil, err
	}
	if size != d.Size && !(size > d.Size && isDevice(d.Path)) {
		err = fmt.Errorf("%s has %d bytes, and the disk %d", d.Path, size, d.Size)
		return nil, errors.Join(err, t.close(context.WithoutCancel(ctx)))
	}
	return t, nil
}

// isDevice is whether a path is a block device's, which may be larger than what is kept on it.
func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0
}

// targetError says on which disk and where something went wrong at the destination, and what to do.
func targetError(d agent.DestDisk, op string, off int64, err error) error {
	if err == nil {
		return nil
	}
	op = fmt.Sprintf("%s disk %s (%s) at offset %d", op, d.Target, d.Path, off)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return migrate.Fail(op, migrate.SideDestination, fmt.Errorf("%w: %w", storage.ErrNoRoom, err), "free some space there, or raise the quota")
	}
	return migrate.Fail(op, migrate.SideDestination, err, "")
}
