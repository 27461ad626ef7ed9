package disks

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// door is the unix socket by which QEMU comes to a disk. Those are let in who may read the disk anyway: the superuser, whoever
// runs us, and the owner of the socket's folder, which is QEMU's user.
type door struct {
	l      *net.UnixListener
	path   string
	made   os.FileInfo
	owner  int
	server *nbd.Server
	log    *slog.Logger

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	in   map[net.Conn]struct{}
	shut bool
}

// openDoor listens at the path, in the place of an agent that was there before.
func openDoor(ctx context.Context, path string, server *nbd.Server, log *slog.Logger) (*door, error) {
	owner, err := ownerOf(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := removeSocket(path); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	d := &door{l: l.(*net.UnixListener), path: path, owner: owner, server: server, log: log, in: map[net.Conn]struct{}{}}
	d.l.SetUnlinkOnClose(false) // another may be there by then
	err = os.Chmod(path, 0o600)
	if err == nil && os.Geteuid() == 0 && owner != 0 {
		err = os.Lchown(path, owner, -1)
	}
	if err == nil {
		d.made, err = os.Lstat(path)
	}
	if err != nil {
		return nil, errors.Join(err, d.l.Close(), removeSocket(path))
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	d.wg.Go(d.accept)
	return d, nil
}

func ownerOf(dir string) (int, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return os.Geteuid(), nil
	}
	return int(st.Uid), nil
}

// removeSocket removes a socket, if it is one and there.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d *door) accept() {
	for {
		c, err := d.l.AcceptUnix()
		if err != nil {
			return // it is closed
		}
		if peer, err := sys.PeerOf(c); err != nil || !d.welcome(int(peer.UID)) {
			d.log.Warn("somebody else wants to read a guest's disk", "user", peer.UID, "process", peer.PID, "err", err)
			_ = c.Close() // it is refused
			continue
		}
		if d.enter(c) {
			d.wg.Go(func() { d.serve(c) })
		}
	}
}

func (d *door) welcome(user int) bool { return user == 0 || user == os.Geteuid() || user == d.owner }

func (d *door) enter(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		_ = c.Close() // too late
		return false
	}
	d.in[c] = struct{}{}
	return true
}

func (d *door) serve(c net.Conn) {
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.in, c)
	}()
	if err := d.server.ServeConn(d.ctx, c); err != nil && d.ctx.Err() == nil {
		d.log.Info("QEMU's connection to a disk ended", "socket", d.path, "err", err)
	}
}

func (d *door) guests() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.in)
}

// hangUp ends all connections at once: what was asked is not answered, and QEMU asks again elsewhere.
func (d *door) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
	_ = d.l.Close() // nobody comes any more
	for c := range d.in {
		_ = c.Close() // as above
	}
	d.stop()
}

// close waits until nobody is served any more.
func (d *door) close() error {
	d.hangUp()
	d.wg.Wait()
	return d.server.Close()
}

// remove removes the socket, if it is still ours.
func (d *door) remove() error {
	there, err := os.Lstat(d.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(d.made, there) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(d.path)
}
