package disks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// image is what a disk holds, for reading: a backend of the NBD server.
type image interface {
	ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error)
	Extents(ctx context.Context, off, length int64) ([]nbd.Status, error)
	Close() error
}

// openFrozen opens an image that nobody writes to. A qemu-nbd takes QEMU's locks on all of its layers.
func openFrozen(ctx context.Context, d agent.SourceDisk) (image, error) {
	if d.Format == "raw" {
		if im, err := openFile(d); im != nil || err != nil {
			return im, err
		}
	}
	return openChild(ctx, d, "--format="+d.Format, d.Path)
}

// openLive opens what a running guest's disk holds: by its QEMU, if that exports it. Otherwise it is read beside a QEMU that
// writes, and what is not raw may not fit together.
func openLive(ctx context.Context, d agent.SourceDisk) (image, error) {
	if d.Live != "" {
		return openNBD(ctx, d, d.Target, 1, nil, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.Live)
		})
	}
	if d.Format == "raw" {
		if im, err := openFile(d); im != nil || err != nil {
			return im, err
		}
	}
	name := strings.ReplaceAll(d.Path, ",", ",,")
	return openChild(ctx, d, "--image-opts", "driver="+d.Format+",force-share=on,file.filename="+name)
}

// checkDisk refuses what must not come to a command line.
func checkDisk(d agent.SourceDisk) error {
	switch {
	case d.Target == "" || len(d.Target) > 200:
		return errors.New("a disk needs a name of 1 to 200 bytes")
	case !filepath.IsAbs(d.Path):
		return fmt.Errorf("disk %s: the path %q does not start at the root", d.Target, d.Path)
	case d.Format == "" || strings.ContainsFunc(d.Format, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }):
		return fmt.Errorf("disk %s: there is no format %q", d.Target, d.Format)
	case d.Size <= 0:
		return fmt.Errorf("disk %s: it cannot have %d bytes", d.Target, d.Size)
	}
	return nil
}

// fileImage is a raw image.
type fileImage struct {
	*nbd.File
	f *os.File
}

// openFile gives nil for a file that is not of the disk's size: QEMU rounds it, and knows how.
func openFile(d agent.SourceDisk) (image, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, err
	}
	b, err := nbd.NewFile(f, nbd.FileOptions{})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if size, err := b.Size(); err != nil || size != d.Size {
		return nil, errors.Join(err, b.Close(), f.Close())
	}
	return fileImage{b, f}, nil
}

func (i fileImage) Close() error { return errors.Join(i.File.Close(), i.f.Close()) }

// remoteImage is read from another NBD server of this host.
type remoteImage struct {
	c     *nbd.Client
	child *child // nil if the server is not ours
}

func openChild(ctx context.Context, d agent.SourceDisk, args ...string) (image, error) {
	c, err := newChild(args...)
	if err != nil {
		return nil, err
	}
	im, err := openNBD(ctx, d, childExport, 4, c, c.dial)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return im, nil
}

func openNBD(ctx context.Context, d agent.SourceDisk, export string, conns int, own *child, dial func(context.Context) (net.Conn, error)) (image, error) {
	c, err := nbd.Open(ctx, nbd.ClientConfig{Dial: dial, Export: export, Conns: conns, Window: 64 << 20, Contexts: []string{nbd.BaseAllocation}})
	if err != nil {
		return nil, err
	}
	if c.Size() != d.Size {
		return nil, errors.Join(fmt.Errorf("it has %d bytes, and not %d", c.Size(), d.Size), c.Close())
	}
	return &remoteImage{c, own}, nil
}

// ReadSparse implements nbd.SparseReader.
func (i *remoteImage) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	return i.c.ReadData(ctx, p, off)
}

// statusAtOnce is how many bytes a server that others wrote is asked about at once.
const statusAtOnce = 1 << 30

// Extents implements nbd.Extenter.
func (i *remoteImage) Extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	if !slices.Contains(i.c.Info().Contexts, nbd.BaseAllocation) {
		return []nbd.Status{{Length: length}}, nil
	}
	return i.c.BlockStatus(ctx, nbd.BaseAllocation, off, min(length, statusAtOnce))
}

// Close ends the server, too, if it is ours.
func (i *remoteImage) Close() error {
	err := i.c.Close()
	if i.child != nil {
		err = errors.Join(err, i.child.close())
	}
	return err
}

// served is a backend of the NBD server whose image may be exchanged.
type served struct {
	size int64
	now  atomic.Pointer[image]
}

func serveImage(size int64, im image) *served {
	s := &served{size: size}
	s.now.Store(&im)
	return s
}

func (s *served) image() image { return *s.now.Load() }

// Size implements backend.Backend.
func (s *served) Size() (int64, error) { return s.size, nil }

// ReadAt implements backend.Backend.
func (s *served) ReadAt(p []byte, off int64) (int, error) {
	holes, err := s.image().ReadSparse(context.Background(), p, off)
	for _, h := range holes {
		clear(p[h.Offset-off : h.End()-off])
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// ReadSparse implements nbd.SparseReader.
func (s *served) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	return s.image().ReadSparse(ctx, p, off)
}

// Extents implements nbd.Extenter.
func (s *served) Extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	return s.image().Extents(ctx, off, length)
}

// WriteAt implements backend.Backend.
func (s *served) WriteAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

// Sync implements backend.Backend.
func (s *served) Sync() error { return nil }

var _ io.ReaderAt = (*served)(nil)
