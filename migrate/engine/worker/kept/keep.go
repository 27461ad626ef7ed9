package kept

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Guest is whose RAM it is.
type Guest struct{ UUID, Name string }

// Part is a RAM block and the file that holds it, from Base on. Nobody writes to it any more.
type Part struct {
	ram.Block
	File *os.File
	Base int64
}

// Progress is told how many bytes of how many were looked at.
type Progress func(done, total int64)

const (
	chunk = 1 << 20
	// syncEvery is how many bytes are written before they have to be on the disk: what waits for it at the end is little, and
	// other writers of the host are not held up behind it.
	syncEvery = 256 << 20
	// unit is the size at which zeros are looked for, and left out.
	unit = 4096
)

// Keep makes a copy, which replaces an older one of the guest. When it fails, what was there before may be gone, and nothing
// half-made is taken for a copy.
func (s Store) Keep(ctx context.Context, g Guest, parts []Part, progress Progress) (Info, error) {
	name, err := Name(g.UUID)
	if err != nil {
		return Info{}, err
	}
	root, err := s.open(true)
	if err != nil {
		return Info{}, err
	}
	k := &keeper{store: s, root: root, uuid: name, parts: parts, tell: progress,
		info: Info{Version: version, UUID: name, Guest: g.Name, Kept: time.Now().UTC().Truncate(time.Second)}}
	err = k.keep(ctx)
	if k.dir != nil {
		err = errors.Join(err, k.dir.Close())
	}
	if err != nil && k.temp != "" {
		err = errors.Join(err, root.RemoveAll(k.temp))
	}
	if k.held != nil {
		_ = k.held.Close() // it was only a lock
	}
	return k.info, errors.Join(err, root.Close())
}

// keeper makes one copy.
type keeper struct {
	store       Store
	root        *os.Root
	uuid        string
	parts       []Part
	info        Info
	tell        Progress
	done, total int64

	temp string   // the folder's name while it is made; empty once it has its own
	held *os.File // with a lock, so that nobody sweeps it
	dir  *os.Root
	old  string // what was replaced
}

func (k *keeper) keep(ctx context.Context) error {
	if err := k.count(); err != nil {
		return err
	}
	if err := locked(k.root, k.begin); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for _, p := range k.parts {
		data, err := k.copy(ctx, p, buf)
		if err != nil {
			return fmt.Errorf("copy RAM block %q: %w", p.Name, err)
		}
		k.info.Blocks = append(k.info.Blocks, Block{p.Name, p.Size, p.PageSize, data})
	}
	if err := k.describe(); err != nil {
		return err
	}
	if err := locked(k.root, k.place); err != nil {
		return err
	}
	if k.old != "" {
		return k.root.RemoveAll(k.old)
	}
	return nil
}

// count finds out how much there is.
func (k *keeper) count() error {
	if len(k.parts) == 0 || len(k.parts) > maxBlocks {
		return fmt.Errorf("a guest of %d RAM blocks", len(k.parts))
	}
	for _, p := range k.parts {
		for e, err := range sys.DataExtents(p.File, p.Base, p.Base+p.Size) {
			if err != nil {
				return fmt.Errorf("holes of RAM block %q: %w", p.Name, err)
			}
			k.total += e.Len
		}
	}
	return nil
}

// begin makes the folder, if there is room for what is to come. It runs within locked.
func (k *keeper) begin() error {
	if err := sweep(k.root); err != nil {
		return err
	}
	if err := k.room(); err != nil {
		return err
	}
	name := newPrefix + k.uuid + "-" + rand.Text()
	if err := k.root.Mkdir(name, 0o700); err != nil {
		return err
	}
	k.temp = name
	var err error
	if k.held, err = k.root.Open(name); err != nil {
		return err
	}
	if err := flock(k.held, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	k.dir, err = k.root.OpenRoot(name)
	return err
}

// room sees that the copy fits: into the limit, and into the file system, of which a tenth stays free for others. Where it does
// so only without the copy that is there, that one goes first.
func (k *keeper) room() error {
	all, err := list(k.root)
	if err != nil {
		return err
	}
	var own, others int64
	for _, i := range all {
		if i.UUID == k.uuid {
			own = i.Bytes()
		} else {
			others += i.Bytes()
		}
	}
	if limit := k.store.Limit; limit > 0 && k.total > limit-others {
		return fmt.Errorf("%w: it takes up to %d MiB, copies of other guests %d MiB, and %d MiB are the limit", ErrNoRoom, k.total>>20, others>>20, limit>>20)
	}
	ask := k.store.space
	if ask == nil {
		ask = space
	}
	free, size, err := ask(k.root)
	if err != nil {
		return err
	}
	free -= size / 10
	if k.total > free+own {
		return fmt.Errorf("%w: it takes up to %d MiB, and the file system of %s can take %d MiB if a tenth of it is to stay free",
			ErrNoRoom, k.total>>20, k.root.Name(), max(0, free+own)>>20)
	}
	if k.total > free {
		return k.root.RemoveAll(k.uuid)
	}
	return nil
}

// space is how many bytes the file system has free for us, of how many.
func space(root *os.Root) (free, size int64, err error) {
	d, err := root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	free, size, err = sys.Space(d)
	return free, size, errors.Join(err, d.Close())
}

// copy copies a block and tells how much of it is no zeros.
func (k *keeper) copy(ctx context.Context, p Part, buf []byte) (data int64, err error) {
	name, err := fileOf(p.Name)
	if err != nil {
		return 0, err
	}
	to, err := k.dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	if err = to.Truncate(p.Size); err == nil {
		data, err = k.copyData(ctx, p, to, buf)
	}
	if err == nil {
		err = k.sync(to)
	}
	return data, errors.Join(err, to.Close())
}

func (k *keeper) copyData(ctx context.Context, p Part, to *os.File, buf []byte) (data int64, err error) {
	var unsynced int64
	for e, err := range sys.DataExtents(p.File, p.Base, p.Base+p.Size) {
		if err != nil {
			return data, err
		}
		for at := e.Off; at < e.Off+e.Len; at += int64(len(buf)) {
			b := buf[:min(int64(len(buf)), e.Off+e.Len-at)]
			if err := ctx.Err(); err != nil {
				return data, err
			}
			if _, err := p.File.ReadAt(b, at); err != nil {
				return data, err
			}
			n, err := writeSparse(to, b, at-p.Base)
			if err != nil {
				return data, err
			}
			data, unsynced = data+n, unsynced+n
			if unsynced >= syncEvery {
				if err := k.sync(to); err != nil {
					return data, err
				}
				unsynced = 0
			}
			k.done += int64(len(b))
			if k.tell != nil {
				k.tell(k.done, k.total)
			}
		}
	}
	return data, nil
}

var zeros [unit]byte

// writeSparse writes what of b is not zero, and tells how much that is.
func writeSparse(to *os.File, b []byte, off int64) (written int64, err error) {
	for i := 0; i < len(b); {
		hi := i
		for hi < len(b) && !empty(b[hi:min(hi+unit, len(b))]) {
			hi = min(hi+unit, len(b))
		}
		if hi == i {
			i = min(i+unit, len(b))
			continue
		}
		n, err := to.WriteAt(b[i:hi], off+int64(i))
		written += int64(n)
		if err != nil {
			return written, err
		}
		i = hi
	}
	return written, nil
}

func empty(b []byte) bool { return bytes.Equal(b, zeros[:len(b)]) }

// describe writes what it is, and sees that all of it is on the disk.
func (k *keeper) describe() error {
	raw, err := json.Marshal(k.info)
	if err != nil {
		return err
	}
	f, err := k.dir.OpenFile(infoFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(raw); err == nil {
		err = k.sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return k.syncDir(k.dir)
}

// sync waits until a file, or what is in a folder, is on the disk.
func (k *keeper) sync(f *os.File) error {
	if k.store.unsynced {
		return nil
	}
	return f.Sync()
}

func (k *keeper) syncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(k.sync(d), d.Close())
}

// place gives the copy its name. It runs within locked.
func (k *keeper) place() error {
	old := oldPrefix + k.uuid + "-" + rand.Text()
	switch err := k.root.Rename(k.uuid, old); {
	case err == nil:
		k.old = old
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := k.root.Rename(k.temp, k.uuid); err != nil {
		return err
	}
	k.temp = ""
	return k.syncDir(k.root)
}
