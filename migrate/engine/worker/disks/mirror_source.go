package disks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// openMirrored is openLive for a disk that is mirrored. A raw one is read from its file, which is quicker: what does not fit
// together there is about to be mirrored.
func openMirrored(ctx context.Context, d agent.SourceDisk) (image, error) {
	if d.Format == "raw" && d.Live != "" {
		if im, err := openFile(d); im != nil && err == nil {
			return im, nil
		}
	}
	return openLive(ctx, d)
}

// offerSums offers checksums of what the disks hold at the moment.
func (s *sourceEnd) offerSums() {
	for _, d := range s.disks {
		s.exports.Add(nbd.Export{Name: sumsExport + d.Target, Backend: &mirrorSums{newSums(d.live, d.Size), &d.mirror}, ReadOnly: true})
	}
}

// mirrorSums are the checksums of a disk, and behind them, instead of one more, how its mirror stands: the first byte is 1 if
// QEMU is connected and always was since it connected first.
type mirrorSums struct {
	*sums
	up *standing
}

// standing is how the mirror of a disk stands.
type standing struct{ began, ended atomic.Bool }

// Size implements backend.Backend.
func (s *mirrorSums) Size() (int64, error) { return sumsSize(s.size) + sumSize, nil }

// ReadSparse implements nbd.SparseReader. What is read is either checksums or how the mirror stands.
func (s *mirrorSums) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	if off != sumsSize(s.size) {
		return s.sums.ReadSparse(ctx, p, off)
	}
	clear(p)
	if s.up.began.Load() && !s.up.ended.Load() {
		p[0] = 1
	}
	return nil, nil
}

// mirrors are the sockets on which the source's QEMU writes what its guest writes, and its connections. What comes is passed
// on to the destination's end.
type mirrors struct {
	s    *sourceEnd
	lis  []net.Listener
	ctx  context.Context // ends with close
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// openMirrors listens for the source's QEMU. The link has to be up.
func (s *sourceEnd) openMirrors(ctx context.Context) error {
	m := &mirrors{s: s}
	m.ctx, m.stop = context.WithCancel(context.Background())
	s.mirrors = m
	for i, d := range s.disks {
		if d.Mirror == "" {
			continue
		}
		l, err := listenFor(ctx, d.Mirror)
		if err != nil {
			return fmt.Errorf("wait for what QEMU writes to disk %s: %w", d.Target, err)
		}
		m.lis = append(m.lis, l)
		m.wg.Go(func() { m.accept(l, i, d.SourceDisk) })
	}
	return nil
}

// listenFor listens on a unix socket for whoever owns the folder that it is in, and the superuser. One that a dead agent
// left is removed.
func listenFor(ctx context.Context, path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	folder, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if st, ok := folder.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		err = os.Lchown(path, int(st.Uid), int(st.Gid))
	}
	if err = errors.Join(err, os.Chmod(path, 0o600)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// accept takes QEMU's connections for one disk.
func (m *mirrors) accept(l net.Listener, index int, d agent.SourceDisk) {
	log := m.s.e.o.Log
	for {
		qemu, err := l.Accept()
		if err != nil {
			if m.ctx.Err() == nil {
				log.Warn("no more connections for what QEMU writes to a disk", "disk", d.Target, "err", err)
			}
			return
		}
		m.wg.Go(func() {
			if err := m.pass(qemu, index); err != nil && m.ctx.Err() == nil {
				log.Info("what QEMU writes to a disk is passed on no more", "disk", d.Target, "err", err)
			}
		})
	}
}

// pass passes on what one connection brings, and closes it.
func (m *mirrors) pass(qemu net.Conn, index int) error {
	peer, err := m.s.link.Dial(m.ctx, datalink.Mirror, index)
	if err != nil {
		return errors.Join(err, qemu.Close())
	}
	up := &m.s.disks[index].mirror
	up.began.Store(true)
	// Said before QEMU can notice: from then on it acknowledges writes to its guest that the destination never saw.
	ends := func() { up.ended.Store(true) }
	stop := context.AfterFunc(m.ctx, func() {
		ends()
		_ = errors.Join(qemu.Close(), peer.Close()) // wakes the copying
	})
	defer stop()
	return splice(qemu, peer, ends)
}

// splice passes everything both ways until one of them has ended, and closes both connections after it has said so: neither QEMU
// nor a server has anything to say to one who does not listen.
func splice(a, b net.Conn, ends func()) error {
	var wg sync.WaitGroup
	var there error
	wg.Go(func() {
		_, there = io.Copy(b, a)
		ends()
		_ = errors.Join(a.Close(), b.Close()) // wakes the other way
	})
	_, back := io.Copy(a, b)
	ends()
	_ = errors.Join(a.Close(), b.Close()) // the same
	wg.Wait()
	for _, err := range []error{there, back} {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

// close ends all connections. It may be called on nil.
func (m *mirrors) close() error {
	if m == nil {
		return nil
	}
	m.stop()
	var errs []error
	for _, l := range m.lis {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	m.wg.Wait()
	return errors.Join(errs...)
}
