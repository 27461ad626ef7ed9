package worker

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// DescribeImage tells what is at a path of this host.
func (w *Worker) DescribeImage(ctx context.Context, q storage.Query) (storage.Image, error) {
	img, err := storage.Describe(ctx, q)
	return img, imageError("", err)
}

// StageImage makes an image beside where it is to be.
func (w *Worker) StageImage(ctx context.Context, s storage.Spec) (storage.Made, error) {
	if err := superuser(); err != nil {
		return storage.Made{}, err
	}
	m, err := storage.Stage(ctx, s)
	return m, imageError(migrate.SideDestination, err)
}

// PlaceImage gives a staged image its name.
func (w *Worker) PlaceImage(_ context.Context, m storage.Made) error {
	if err := superuser(); err != nil {
		return err
	}
	return imageError(migrate.SideDestination, storage.Place(m))
}

// RemoveImage removes what StageImage made.
func (w *Worker) RemoveImage(_ context.Context, m storage.Made) error {
	if err := superuser(); err != nil {
		return err
	}
	removed, err := storage.Remove(m)
	if removed {
		w.o.Log.Info("image removed", "path", m.Path)
	}
	return imageError(migrate.SideDestination, err)
}

// SyncImages has what this host's cache holds of images written to their storage, and with drop forgotten.
func (w *Worker) SyncImages(_ context.Context, paths []string, drop bool) error {
	if err := superuser(); err != nil {
		return err
	}
	return imageError("", storage.Sync(drop, paths...))
}

// superuser: images belong to whom their folder says, and only root can give them away.
func superuser() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return migrate.Fail("make disk images", migrate.SideDestination, fmt.Errorf("the agent is not root: %w", migrate.ErrNotSupported),
		"make the images there yourself, or run the agent as root")
}

// imageError gives an error of the storage its fix.
func imageError(side migrate.Side, err error) error {
	var e *storage.Error
	if !errors.As(err, &e) {
		return err
	}
	return &migrate.OpError{Op: e.Op + " " + e.Path, Side: side, Err: e.Err, Fix: e.Fix}
}
