package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// askKeep is Job.Keep: it hands the images to the loop, which owns the journal, and waits for its answer.
func (r *run) askKeep(ctx context.Context, images []storage.Made) error {
	k := keepAsk{images: slices.Clone(images), reply: make(chan error, 1)}
	select {
	case r.keeps <- k:
		return <-k.reply
	case <-r.quit:
		return ErrCancelled
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep writes the images down.
func (r *run) keep(images []storage.Made) error {
	before := r.images
	r.images = images
	err := r.write(r.machine.Record())
	if err != nil {
		r.images = before
	}
	return Fail("write the journal", SideCoordinator, err, "look at the state directory: is it full or read-only?")
}

// ImageRemover removes images at a destination.
type ImageRemover interface {
	Remove(ctx context.Context, images []storage.Made) error
	Close() error
}

// reachImages makes sure, ahead of the removal of a waiting guest, that what was made for it can be removed after it: a host that
// is a QEMU and nothing else is gone with it, and so is the way to its files. What fails is tried again then.
func (r *run) reachImages(ctx context.Context) {
	if len(r.images) == 0 || r.remover != nil || r.c.cfg.RemoveImages == nil {
		return
	}
	_, dest := r.hosts.both()
	if a, err := r.c.cfg.RemoveImages(ctx, dest); err == nil {
		r.remover = a
	}
}

// removeAll removes the images.
func (r *run) removeAll(ctx context.Context) error {
	if r.c.cfg.RemoveImages == nil {
		return errors.New("nobody knows how")
	}
	a := r.remover
	if a == nil {
		_, dest := r.hosts.both()
		var err error
		if a, err = r.c.cfg.RemoveImages(ctx, dest); err != nil {
			return err
		}
		defer func() { _ = a.Close() }() // it has told
	}
	return a.Remove(ctx, r.images)
}

// leaveImages ends what reachImages began.
func (r *run) leaveImages() {
	if r.remover == nil {
		return
	}
	_ = r.remover.Close() // it has told
	r.remover = nil
}

// removeImages removes what was made at the destination for a guest that did not come, if it is sure that it did not, and that
// nothing is left there that has them open. It is best effort: what is left is named.
func (r *run) removeImages(end End) {
	if len(r.images) == 0 || !end.Final || end.Runs != SideSource {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), r.c.cfg.Limits.Undo)
	defer stop()
	err := r.mayRemove(ctx)
	if err == nil {
		err = r.removeAll(ctx)
	}
	if err == nil {
		r.images = nil
		return
	}
	paths := make([]string, 0, len(r.images))
	for _, m := range r.images {
		paths = append(paths, m.Path)
	}
	r.rec.note(fmt.Sprintf("images that were made at the destination may be left there, remove them yourself if no guest uses them (%s): %v",
		strings.Join(paths, ", "), err))
}

// mayRemove makes sure that the guest never ran at the destination, and waits there no more. Where an operator had to say
// who owns the guest, the images may be the better copy.
func (r *run) mayRemove(ctx context.Context) error {
	switch {
	case r.machine.Landed():
		return errors.New("the guest ran there")
	case r.late, !r.committed.IsZero() && errors.Is(r.cause, ErrLinkLost): // its events may not have been heard
		return errors.New("it may have run there and ended, after the commit")
	case r.chosen:
		return errors.New("the operator chose the source: it is not known whether the guest ran there")
	}
	st, err := r.hosts.state(ctx, SideDestination, r.destName())
	switch {
	case errors.Is(err, ErrNoDomain), err == nil && st.Run == RunStopped:
		return nil
	case err == nil:
		return fmt.Errorf("the guest is still %q there (%s)", st.Run, st.Reason)
	}
	return err
}
