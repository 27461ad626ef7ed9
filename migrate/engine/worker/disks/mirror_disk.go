package disks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/pojntfx/go-nbd/pkg/backend"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// mirrored is a disk at the destination, while the source's QEMU mirrors to it and the rest is brought in line. It is a backend
// for an NBD export, which QEMU writes to.
type mirrored struct {
	agent.DestDisk
	to     target
	spoil  func(ctx context.Context, point string) error
	claims claims

	mu      sync.Mutex
	under   int           // requests of the mirror that are under way
	idle    chan struct{} // closed when there are none; nil if nobody waits
	settled bool          // nothing is written any more
	owed    spans         // what a request of the mirror failed for, and none has written since
	broken  error         // why what was written may be lost: of a flush that failed no other tells again

	unflushed atomic.Bool // something was mirrored since the last flush
	joined    atomic.Bool // a mirror was connected once

	// planned: check and todo are known. check are the units to compare, todo those that are fetched, or made zero, without.
	planned     bool
	check, todo *ram.Bitmap
	// mayHold: what is not in line yet may hold something that is not the source's.
	mayHold bool

	data, fetched, reused, came, left atomic.Int64
}

// The interfaces by which QEMU's requests come.
var (
	_ backend.Backend    = (*mirrored)(nil)
	_ nbd.ContextBackend = (*mirrored)(nil)
	_ nbd.SparseReader   = (*mirrored)(nil)
	_ nbd.Extenter       = (*mirrored)(nil)
	_ nbd.ZeroWriter     = (*mirrored)(nil)
	_ nbd.Trimmer        = (*mirrored)(nil)
)

func newMirrored(d agent.DestDisk, to target, spoil func(context.Context, string) error) *mirrored {
	m := &mirrored{DestDisk: d, to: to, spoil: spoil, mayHold: d.Reuse}
	m.left.Store(d.Size)
	return m
}

// errSettled is what the mirror is told when it comes too late.
var errSettled = fmt.Errorf("the disk was handed over: %w", syscall.ESHUTDOWN)

// change does what the mirror asks for, after nobody can undo it any more.
func (m *mirrored) change(ctx context.Context, lo, n int64, do func() error) error {
	if err := m.enter(); err != nil {
		return err
	}
	err := m.spoil(ctx, "disk-mirror")
	if err == nil {
		err = m.claims.newer(ctx, lo, lo+n)
	}
	if err == nil {
		err = do()
		m.unflushed.Store(true)
	}
	m.leave(lo, lo+n, err)
	return targetError(m.DestDisk, "write what was mirrored of", lo, err)
}

func (m *mirrored) enter() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.settled {
		return errSettled
	}
	m.under++
	return nil
}

// leave notes how a request ended. One that failed may have written some of it, or none.
func (m *mirrored) leave(lo, hi int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.owed.add(lo, hi)
	} else {
		m.owed.remove(lo, hi)
	}
	m.under--
	if m.under == 0 && m.idle != nil {
		close(m.idle)
		m.idle = nil
	}
}

// quiet waits until no request is under way, and lets none in from then on.
func (m *mirrored) quiet(ctx context.Context) error {
	for {
		m.mu.Lock()
		if m.under == 0 {
			m.settled = true
			m.mu.Unlock()
			return nil
		}
		if m.idle == nil {
			m.idle = make(chan struct{})
		}
		idle := m.idle
		m.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("what was mirrored of disk %s is still being written: %w", m.Target, ctx.Err())
		}
	}
}

// settle lets go of the image, when all is in it.
func (m *mirrored) settle(ctx context.Context) error {
	if err := m.complete(); err != nil {
		return err
	}
	if err := m.quiet(ctx); err != nil {
		return err
	}
	if err := m.complete(); err != nil {
		return err
	}
	m.mu.Lock()
	to := m.to
	m.mu.Unlock()
	if to == nil { // it was done before
		return nil
	}
	if err := m.flush(ctx, to); err != nil {
		return err
	}
	return m.release(ctx)
}

// flush makes durable what was written.
func (m *mirrored) flush(ctx context.Context, to target) error {
	m.unflushed.Store(false)
	err := targetError(m.DestDisk, "flush", 0, to.flush(ctx))
	if err != nil && ctx.Err() == nil {
		m.mu.Lock()
		m.broken = err
		m.mu.Unlock()
	}
	return err
}

// complete tells what is missing.
func (m *mirrored) complete() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.planned || m.left.Load() > 0 {
		return fmt.Errorf("disk %s has not been fetched: %d bytes are missing", m.Target, m.left.Load())
	}
	if m.broken != nil {
		return m.broken
	}
	if len(m.owed) > 0 {
		o := m.owed[0]
		return fmt.Errorf("disk %s: what QEMU mirrored at offset %d (%d bytes) could not be written, and has not come again", m.Target, o.lo, o.hi-o.lo)
	}
	return nil
}

// release lets go of the image as it is. It is idempotent.
func (m *mirrored) release(ctx context.Context) error {
	m.mu.Lock()
	to := m.to
	m.to, m.settled = nil, true
	m.mu.Unlock()
	if to == nil {
		return nil
	}
	if err := to.close(ctx); err != nil {
		return targetError(m.DestDisk, "close", 0, err)
	}
	return nil
}

// Size implements backend.Backend.
func (m *mirrored) Size() (int64, error) { return m.DestDisk.Size, nil }

// WriteAtContext implements nbd.ContextBackend.
func (m *mirrored) WriteAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	if err := m.change(ctx, off, int64(len(p)), func() error { return m.to.write(ctx, p, off) }); err != nil {
		return 0, err
	}
	m.came.Add(int64(len(p)))
	return len(p), nil
}

// WriteAt implements backend.Backend.
func (m *mirrored) WriteAt(p []byte, off int64) (int, error) {
	return m.WriteAtContext(context.Background(), p, off) // only those without a context come here
}

// WriteZeroes implements nbd.ZeroWriter.
func (m *mirrored) WriteZeroes(ctx context.Context, off, length int64, _ bool) error {
	return m.change(ctx, off, length, func() error { return m.to.zero(ctx, off, length) })
}

// Trim implements nbd.Trimmer. What the guest does not need reads as zeros, as at the source most of the time.
func (m *mirrored) Trim(ctx context.Context, off, length int64) error {
	return m.WriteZeroes(ctx, off, length, true)
}

// Sync implements backend.Backend. What was handed over was flushed before.
func (m *mirrored) Sync() error {
	if err := m.enter(); errors.Is(err, errSettled) {
		return nil
	}
	defer m.leave(0, 0, nil)
	return m.flush(context.Background(), m.to)
}

// read does what reads the image.
func (m *mirrored) read(f func() error) error {
	if err := m.enter(); err != nil {
		return err
	}
	defer m.leave(0, 0, nil)
	return f()
}

// ReadSparse implements nbd.SparseReader.
func (m *mirrored) ReadSparse(ctx context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	err = m.read(func() error {
		holes, err = m.to.ReadSparse(ctx, p, off)
		return targetError(m.DestDisk, "read", off, err)
	})
	return holes, err
}

// ReadAtContext implements nbd.ContextBackend.
func (m *mirrored) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	holes, err := m.ReadSparse(ctx, p, off)
	if err != nil {
		return 0, err
	}
	for _, h := range holes {
		clear(p[h.Offset-off : h.End()-off])
	}
	return len(p), nil
}

// ReadAt implements backend.Backend.
func (m *mirrored) ReadAt(p []byte, off int64) (int, error) {
	return m.ReadAtContext(context.Background(), p, off) // only those without a context come here
}

// Extents implements nbd.Extenter.
func (m *mirrored) Extents(ctx context.Context, off, length int64) (list []nbd.Status, err error) {
	err = m.read(func() error {
		list, err = m.to.Extents(ctx, off, length)
		return targetError(m.DestDisk, "read", off, err)
	})
	return list, err
}

// progress are the figures so far.
func (m *mirrored) progress() agent.DiskProgress {
	return agent.DiskProgress{Target: m.Target, Size: m.DestDisk.Size, Data: m.data.Load(), Fetched: m.fetched.Load(),
		Reused: m.reused.Load(), Mirrored: m.came.Load(), Remaining: m.left.Load()}
}

// sourceError says on which disk and where something went wrong at the source, or that it cannot be reached.
func sourceError(target, op string, off int64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nbd.ErrLinkLost), errors.Is(err, nbd.ErrClientClosed):
		return fmt.Errorf("%w: %w", migrate.ErrLinkLost, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return migrate.Fail(fmt.Sprintf("%s disk %s at offset %d", op, target, off), migrate.SideSource, err, "")
}
