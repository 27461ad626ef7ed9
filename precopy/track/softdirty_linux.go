package track

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// softDirty tracks by the bits that /proc/PID/pagemap shows and /proc/PID/clear_refs clears. A write between the two would
// be lost, so the process is held for both.
//
// The bit is in the page table entry. Where the entry of shared memory goes away, as when the page is swapped out, the bit
// goes with it, and the page may be back without it by the next harvest. So a page counts as written, too, if it has an
// entry now and had none or the other way round; and all pages do if the machine swapped anything out meanwhile.
type softDirty struct {
	pid     int
	regions []Region
	pages   *sys.Pagemap
	entries *os.File // /proc/PID/pagemap
	mapped  []*ram.Bitmap
	swapped string // pswpout of /proc/vmstat at the last harvest
	buf     []byte
}

// Bits of an entry (Documentation/admin-guide/mm/pagemap.rst).
const (
	entrySize    = 8
	entryDirty   = 1 << 55
	entryPresent = 1 << 63
)

func openSoftDirty(pid int, regions []Region) (watcher, error) {
	for _, r := range regions {
		if err := canSoftDirty(r); err != nil {
			return nil, fmt.Errorf("RAM block %q: %w", r.Block.Name, err)
		}
	}
	w := &softDirty{pid: pid, regions: regions, buf: make([]byte, 512<<10)}
	for _, b := range blocksOf(regions) {
		w.mapped = append(w.mapped, ram.NewBitmap(b.Pages()))
	}
	var err error
	if w.pages, err = sys.OpenPagemap(pid); err != nil {
		return nil, err
	}
	if w.entries, err = os.Open(fmt.Sprintf("/proc/%d/pagemap", pid)); err != nil {
		return nil, errors.Join(err, w.pages.Close())
	}
	return w, nil
}

// canSoftDirty refuses memory of which the kernel keeps no such bits, or loses them.
func canSoftDirty(r Region) error {
	if r.Block.PageSize != int64(os.Getpagesize()) {
		return fmt.Errorf("its pages have %d bytes; there are no soft-dirty bits for huge ones", r.Block.PageSize)
	}
	if r.File == nil {
		return nil
	}
	raw, err := r.File.SyscallConn()
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = unix.Fstatfs(int(fd), &st) }); err != nil {
		return err
	}
	if inner == nil && st.Type != unix.TMPFS_MAGIC {
		inner = errors.New("it is not on tmpfs, and a page that goes back to a disk loses its bit")
	}
	return inner
}

func (w *softDirty) written(ctx context.Context, out ram.Set) error {
	swapped, err := swappedOut()
	if err != nil {
		return err
	}
	err = held(ctx, w.pid, func() error {
		for i, r := range w.regions {
			if err := w.read(r, out[i], w.mapped[i]); err != nil {
				return fmt.Errorf("RAM block %q: %w", r.Block.Name, err)
			}
		}
		return w.pages.ClearSoftDirty()
	})
	if err != nil {
		return errors.Join(alive(w.pages, w.regions), err)
	}
	if swapped != w.swapped {
		out.Fill()
	}
	w.swapped = swapped
	return alive(w.pages, w.regions)
}

// read adds the pages of a region that count as written, and notes which are mapped.
func (w *softDirty) read(r Region, out, mapped *ram.Bitmap) error {
	at := int64(r.Addr) / r.Block.PageSize * entrySize
	for page, pages := 0, r.Block.Pages(); page < pages; {
		n := min(len(w.buf)/entrySize, pages-page)
		got, err := w.entries.ReadAt(w.buf[:n*entrySize], at+int64(page)*entrySize)
		if got == 0 && err == io.EOF {
			return ErrGone
		}
		if got < n*entrySize {
			return fmt.Errorf("read page table entries: %w", err)
		}
		for b := w.buf[:got]; len(b) > 0; b, page = b[entrySize:], page+1 {
			e := binary.NativeEndian.Uint64(b)
			present := e&entryPresent != 0
			if e&entryDirty != 0 || present != mapped.Test(page) {
				out.Set(page)
			}
			if present {
				mapped.Set(page)
			} else {
				mapped.Clear(page)
			}
		}
	}
	return nil
}

// swappedOut is how many pages the machine swapped out since it was started.
func swappedOut() (string, error) {
	text, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "pswpout "); ok {
			n = strings.TrimSpace(n)
			_, err := strconv.ParseUint(n, 10, 64)
			return n, err
		}
	}
	return "0", nil // a kernel that cannot swap
}

// close leaves the bits: nobody else is told that they were cleared, and they cost nothing.
func (w *softDirty) close() error { return errors.Join(w.pages.Close(), w.entries.Close()) }
