package agent

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/vmmigrate/vmmigrate/migrate"
)

// maxDisks bounds the disks of a guest, maxDiskSize the bytes of one.
const (
	maxDisks    = 256
	maxDiskSize = 1 << 60
)

// targetName is what a disk may be called: it becomes part of file names and of names of exports.
var targetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// checkDisks checks what a coordinator says of disks, before anything is made of it.
func checkDisks[D any](mode DiskMode, disks []D, of func(D) (target string, size int64)) error {
	if mode != DisksAfter && mode != DisksMirror {
		return fmt.Errorf("%q is no way to move disks", mode)
	}
	if len(disks) == 0 || len(disks) > maxDisks {
		return fmt.Errorf("%d disks are not 1 to %d", len(disks), maxDisks)
	}
	seen := map[string]bool{}
	for _, d := range disks {
		target, size := of(d)
		switch {
		case !targetName.MatchString(target):
			return fmt.Errorf("%.100q is no name of a disk", target)
		case seen[target]:
			return fmt.Errorf("disk %s is there twice", target)
		case size <= 0 || size > maxDiskSize:
			return fmt.Errorf("disk %s of %d bytes", target, size)
		}
		seen[target] = true
	}
	return nil
}

// Check tells what of it makes no sense, whatever the host.
func (s DiskSourceSpec) Check() error {
	return checkDisks(s.Mode, s.Disks, func(d SourceDisk) (string, int64) { return d.Target, d.Size })
}

// Check tells what of it makes no sense, whatever the host.
func (s DiskDestSpec) Check() error {
	return checkDisks(s.Mode, s.Disks, func(d DestDisk) (string, int64) { return d.Target, d.Size })
}

// closingDisks is how a destination's end for disks is closed.
type closingDisks struct {
	Handle uint64      `json:"handle"`
	How    DiskClosing `json:"how"`
}

func (s *session) openDiskSource(ctx context.Context, spec *DiskSourceSpec) (*opened, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	d, err := s.impl.OpenDiskSource(ctx, *spec)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // nobody will know that it is open
		return nil, errors.Join(ctx.Err(), d.Close(context.WithoutCancel(ctx)))
	}
	return &opened{Handle: s.register(&end{diskFrom: d})}, nil
}

func (s *session) openDiskDest(ctx context.Context, spec *DiskDestSpec) (*opened, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	d, err := s.impl.OpenDiskDest(ctx, *spec)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // nobody will know that it is open; if a guest may need it, it refuses, and goes on
		return nil, errors.Join(ctx.Err(), d.Close(context.WithoutCancel(ctx), DiskClosing{}))
	}
	return &opened{Handle: s.register(&end{diskTo: d}), Addr: d.Addr()}, nil
}

// atDisks runs f on open ends for disks.
func (s *session) atDisks(ctx context.Context, handle uint64, f func(*end) error) error {
	e, err := s.find(handle)
	switch {
	case err != nil:
		return err
	case e == nil || e.diskFrom == nil && e.diskTo == nil:
		return fmt.Errorf("the end for disks: %w", ErrClosed)
	}
	leave, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return f(e)
}

// atDiskDest runs f on an open destination's end for disks.
func (s *session) atDiskDest(ctx context.Context, handle uint64, f func(DiskDest) error) error {
	return s.atDisks(ctx, handle, func(e *end) error {
		if e.diskTo == nil {
			return fmt.Errorf("number %d is no destination's end for disks", handle)
		}
		return f(e.diskTo)
	})
}

// atDiskSource runs f on an open source's end for disks.
func (s *session) atDiskSource(ctx context.Context, handle uint64, f func(DiskSource) error) error {
	return s.atDisks(ctx, handle, func(e *end) error {
		if e.diskFrom == nil {
			return fmt.Errorf("number %d is no source's end for disks", handle)
		}
		return f(e.diskFrom)
	})
}

func (s *session) freeze(ctx context.Context, m *ofEnd) (*empty, error) {
	return &empty{}, s.atDiskSource(ctx, m.Handle, func(d DiskSource) error { return d.Freeze(ctx) })
}

func (s *session) disksReady(ctx context.Context, m *ofEnd) (*empty, error) {
	return &empty{}, s.atDiskDest(ctx, m.Handle, func(d DiskDest) error { return d.Ready(ctx) })
}

func (s *session) thaw(ctx context.Context, m *ofEnd) (*empty, error) {
	return &empty{}, s.atDiskDest(ctx, m.Handle, func(d DiskDest) error { return d.Thaw(ctx) })
}

func (s *session) settle(ctx context.Context, m *ofEnd) (*empty, error) {
	return &empty{}, s.atDiskDest(ctx, m.Handle, func(d DiskDest) error { return d.Settle(ctx) })
}

func (s *session) tuneDisks(ctx context.Context, m *tuning) (*empty, error) {
	return &empty{}, s.atDiskDest(ctx, m.Handle, func(d DiskDest) error { return d.Tune(ctx, m.Bandwidth) })
}

func (s *session) fetchDisks(ctx context.Context, m *ofEnd, tell func(Progress)) (p Progress, err error) {
	err = s.atDiskDest(ctx, m.Handle, func(d DiskDest) error {
		p, err = d.Fetch(ctx, tell)
		return err
	})
	return p, err
}

func (s *session) closeDiskSource(ctx context.Context, m *ofEnd) (*empty, error) {
	if e, err := s.find(m.Handle); err == nil && e == nil {
		return &empty{}, nil // it was closed before
	}
	err := s.atDiskSource(ctx, m.Handle, func(d DiskSource) error { return d.Close(ctx) })
	if err == nil {
		s.forget(m.Handle)
	}
	return &empty{}, err
}

func (s *session) closeDiskDest(ctx context.Context, m *closingDisks) (*empty, error) {
	if e, err := s.find(m.Handle); err == nil && e == nil {
		return &empty{}, nil // it was closed before
	}
	err := s.atDiskDest(ctx, m.Handle, func(d DiskDest) error { return d.Close(ctx, m.How) })
	if err == nil {
		s.forget(m.Handle)
	}
	return &empty{}, err
}

// OpenDiskSource opens the source's end for disks. See Disks.
func (c *Client) OpenDiskSource(ctx context.Context, spec DiskSourceSpec) (DiskSource, error) {
	const op = "open the source's end for disks"
	if err := spec.Check(); err != nil {
		return nil, migrate.Fail(op, migrate.SideSource, err, "")
	}
	var o opened
	if err := c.call(ctx, "OpenDiskSource", op, migrate.SideSource, &spec, &o); err != nil {
		return nil, err
	}
	return &diskSourceClient{c, o.Handle}, nil
}

// OpenDiskDest opens the destination's end for disks. See Disks.
func (c *Client) OpenDiskDest(ctx context.Context, spec DiskDestSpec) (DiskDest, error) {
	const op = "open the destination's end for disks"
	if err := spec.Check(); err != nil {
		return nil, migrate.Fail(op, migrate.SideDestination, err, "")
	}
	var o opened
	if err := c.call(ctx, "OpenDiskDest", op, migrate.SideDestination, &spec, &o); err != nil {
		return nil, err
	}
	return &diskDestClient{c, o.Handle, o.Addr}, nil
}

// diskSourceClient is a source's end for disks at the other end of a connection.
type diskSourceClient struct {
	c      *Client
	handle uint64
}

func (d *diskSourceClient) Freeze(ctx context.Context) error {
	return d.c.call(ctx, "Freeze", "freeze the disks", migrate.SideSource, &ofEnd{d.handle}, &empty{})
}

func (d *diskSourceClient) Close(ctx context.Context) error {
	return d.c.call(ctx, "CloseDiskSource", "close the source's end for disks", migrate.SideSource, &ofEnd{d.handle}, &empty{})
}

// diskDestClient is a destination's end for disks at the other end of a connection.
type diskDestClient struct {
	c      *Client
	handle uint64
	addr   string
}

func (d *diskDestClient) call(ctx context.Context, name, op string, req any) error {
	return d.c.call(ctx, name, op, migrate.SideDestination, req, &empty{})
}

func (d *diskDestClient) Addr() string { return d.addr }

func (d *diskDestClient) Ready(ctx context.Context) error {
	return d.call(ctx, "DisksReady", "see that the guest waits above its disks", &ofEnd{d.handle})
}

func (d *diskDestClient) Thaw(ctx context.Context) error {
	return d.call(ctx, "Thaw", "thaw the disks", &ofEnd{d.handle})
}

func (d *diskDestClient) Settle(ctx context.Context) error {
	return d.call(ctx, "Settle", "settle the disks", &ofEnd{d.handle})
}

func (d *diskDestClient) Tune(ctx context.Context, bandwidth int64) error {
	return d.call(ctx, "TuneDisks", "change the disks' cap", &tuning{Handle: d.handle, Bandwidth: bandwidth})
}

func (d *diskDestClient) Fetch(ctx context.Context, progress func(Progress)) (Progress, error) {
	return d.c.watch(ctx, "FetchDisks", "fetch the disks", &ofEnd{d.handle}, progress)
}

func (d *diskDestClient) Close(ctx context.Context, how DiskClosing) error {
	return d.call(ctx, "CloseDiskDest", "close the destination's end for disks", &closingDisks{d.handle, how})
}
