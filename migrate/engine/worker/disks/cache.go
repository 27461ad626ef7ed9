package disks

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// unit is the smallest part of a disk that is there or not, in bytes. The last one may be short.
const unit = 64 << 10

// cache is the file that keeps what was fetched of a disk:
//
//	0                  the disk's data; holes where nothing was fetched, or only zeros
//	headerAt           cacheMagic, the length of what follows, a cacheHeader in JSON, the CRC-32 of all that
//	headerAt+headSize  one byte for each unit: markMissing, markPresent, markZero
//
// A unit's data is written before its mark is, and both are in the kernel's hands then: whoever is killed leaves marks that are
// true. A host that crashes may not; its next boot has another number, and takes nothing for present.
type cache struct {
	f        *os.File
	data     *nbd.File
	path     string
	size     int64
	headerAt int64
}

const (
	cacheMagic = "vmmigrate disk 1"
	headSize   = 4096
)

// What the marks mean. Whatever else is found is missing.
const (
	markMissing byte = 0
	markPresent byte = 1
	markZero    byte = 2
)

// cacheHeader says whose cache it is.
type cacheHeader struct {
	Migration string `json:"migration"`
	Target    string `json:"target"`
	Size      int64  `json:"size"`
	Unit      int64  `json:"unit"`
	Boot      string `json:"boot"`
}

// errForeignCache: what is in it is no part of this disk.
var errForeignCache = errors.New("it is not the cache of this disk of this migration")

// errTornCache: nobody knows what is in it.
var errTornCache = errors.New("its header is damaged, or was never written")

// openCache makes the cache of a disk, or takes up one that an agent has left. It gives the units that are in it.
func openCache(d agent.DestDisk, migration string, resume bool) (c *cache, present, zero *ram.Bitmap, err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, nil, nil, err
	}
	c = &cache{path: d.Cache, size: d.Size, headerAt: (d.Size + unit - 1) / unit * unit}
	h := cacheHeader{Migration: migration, Target: d.Target, Size: d.Size, Unit: unit, Boot: strings.TrimSpace(string(boot))}
	present, zero = ram.NewBitmap(c.units()), ram.NewBitmap(c.units())
	c.f, err = os.OpenFile(d.Cache, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case err == nil && !resume:
		err = errors.Join(&storage.Error{Op: "create", Path: d.Cache, Err: storage.ErrExists, Fix: "see whose it is, and remove it"}, c.f.Close())
		return nil, nil, nil, err
	case err == nil:
		err = c.takeUp(h, present, zero)
	case errors.Is(err, fs.ErrNotExist):
		err = c.create(h)
	}
	if err == nil {
		c.data, err = nbd.NewFile(c.f, nbd.FileOptions{})
	}
	if err != nil {
		if c.f != nil {
			_ = c.f.Close() // it is of no use
		}
		return nil, nil, nil, fmt.Errorf("cache %s: %w", d.Cache, err)
	}
	return c, present, zero, nil
}

func (c *cache) units() int { return int(c.headerAt / unit) }

func (c *cache) length() int64 { return c.headerAt + headSize + int64(c.units()) }

func (c *cache) create(h cacheHeader) error {
	var err error
	if c.f, err = os.OpenFile(c.path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	if err := c.clear(h); err != nil {
		return errors.Join(noRoom(c.path, err), os.Remove(c.path))
	}
	return nil
}

// clear makes it a cache in which nothing is.
func (c *cache) clear(h cacheHeader) error {
	head, err := h.encode()
	if err == nil {
		err = errors.Join(c.f.Truncate(0), c.f.Truncate(c.length()))
	}
	if err == nil {
		_, err = c.f.WriteAt(head, c.headerAt)
	}
	return err
}

// takeUp reads what another agent left.
func (c *cache) takeUp(want cacheHeader, present, zero *ram.Bitmap) error {
	info, err := c.f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != c.length() {
		return fmt.Errorf("%w: it has %d bytes and not %d", errForeignCache, info.Size(), c.length())
	}
	head := make([]byte, headSize)
	if _, err := c.f.ReadAt(head, c.headerAt); err != nil {
		return err
	}
	got, err := decodeHeader(head)
	if err != nil {
		return err
	}
	boot := got.Boot
	if got.Boot = want.Boot; got != want {
		return fmt.Errorf("%w: it is that of disk %s of %s", errForeignCache, got.Target, got.Migration)
	}
	if boot != want.Boot {
		return c.clear(want)
	}
	marks := make([]byte, c.units())
	if _, err := c.f.ReadAt(marks, c.headerAt+headSize); err != nil {
		return err
	}
	for i, m := range marks {
		switch m {
		case markPresent:
			present.Set(i)
		case markZero:
			zero.Set(i)
		}
	}
	return nil
}

func (h cacheHeader) encode() ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	out := binary.LittleEndian.AppendUint32([]byte(cacheMagic), uint32(len(text)))
	out = append(out, text...)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(out))
	if len(out) > headSize {
		return nil, errors.New("the names of the disk and the migration are too long")
	}
	return append(out, make([]byte, headSize-len(out))...), nil
}

func decodeHeader(p []byte) (cacheHeader, error) {
	const lead = len(cacheMagic) + 4
	var h cacheHeader
	if len(p) < lead+4 || !bytes.HasPrefix(p, []byte(cacheMagic)) {
		return h, errTornCache
	}
	n := binary.LittleEndian.Uint32(p[len(cacheMagic):])
	if uint64(n) > uint64(len(p)-lead-4) {
		return h, errTornCache
	}
	end := lead + int(n)
	if crc32.ChecksumIEEE(p[:end]) != binary.LittleEndian.Uint32(p[end:]) {
		return h, errTornCache
	}
	if err := json.Unmarshal(p[lead:end], &h); err != nil {
		return h, fmt.Errorf("%w: %w", errTornCache, err)
	}
	return h, nil
}

// put writes what was fetched of the units from lo on; holes are runs of zeros. The units are not marked.
func (c *cache) put(lo int, p []byte, holes []ram.Extent) error {
	base := int64(lo) * unit
	at := base
	write := func(end int64) error {
		if at >= end {
			return nil
		}
		_, err := c.f.WriteAt(p[at-base:end-base], at)
		return noRoom(c.path, err)
	}
	for _, h := range holes {
		if err := write(h.Offset); err != nil {
			return err
		}
		at = h.End()
	}
	return write(base + int64(len(p)))
}

// mark says what the units from lo up to, but not with, hi are.
func (c *cache) mark(lo, hi int, as byte) error {
	_, err := c.f.WriteAt(bytes.Repeat([]byte{as}, hi-lo), c.headerAt+headSize+int64(lo))
	return noRoom(c.path, err)
}

// read is for units that are present.
func (c *cache) read(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	return c.data.ReadSparse(ctx, p, off)
}

// extents is for units that are present.
func (c *cache) extents(ctx context.Context, off, length int64) ([]nbd.Status, error) {
	return c.data.Extents(ctx, off, length)
}

func (c *cache) close() error { return errors.Join(c.data.Close(), c.f.Close()) }

// remove removes the file, if it is still ours.
func (c *cache) remove() error {
	own, err := c.f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(c.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(own, there) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(c.path)
}

// noRoom tells a full file system from other faults.
func noRoom(path string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &storage.Error{Op: "write", Path: path, Err: fmt.Errorf("%w: %w", storage.ErrNoRoom, err), Fix: "free some space there, or raise the quota"}
	}
	return err
}
