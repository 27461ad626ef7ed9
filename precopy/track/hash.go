package track

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/xxh3"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// hash compares pages with what was sent of them, by 128 bits of xxh3. Comparing a page with itself at the harvest before
// would not do: a page that is A, is fetched as B and is A again would look clean.
//
// That two different contents have the same 128 bits is not a thing that happens by chance; a guest that means harm to
// its own memory may make it happen.
type hash struct {
	regions []Region
	blocks  []ram.Block
	pages   *sys.Pagemap
	memory  *os.File // of the process, for regions without a file
	// known are the pages of which sums tells what the destination has.
	known ram.Set
	sums  [][]xxh3.Uint128
	zero  []xxh3.Uint128 // of a page of zeros, by region
	buf   []byte
	begun bool
}

// hashTracker is a tracker that is told what is sent.
type hashTracker struct {
	*tracker
	hash *hash
}

// readSize is how much is read at once; a multiple of every page size below.
const readSize = 1 << 20

func openHash(pid int, regions []Region) (Tracker, error) {
	fail := func(err error) (Tracker, error) { return nil, fmt.Errorf("track by %s: %w", KindHash, err) }
	h := &hash{regions: regions, blocks: blocksOf(regions)}
	h.known = ram.NewSet(h.blocks)
	size := int64(readSize)
	for _, b := range h.blocks {
		h.sums = append(h.sums, make([]xxh3.Uint128, b.Pages()))
		h.zero = append(h.zero, xxh3.Hash128(make([]byte, b.PageSize)))
		size = max(size, b.PageSize)
	}
	h.buf = make([]byte, size)
	var err error
	if h.pages, err = sys.OpenPagemap(pid); err != nil {
		return fail(err)
	}
	if h.memory, err = os.Open(fmt.Sprintf("/proc/%d/mem", pid)); err != nil {
		return fail(errors.Join(err, h.pages.Close()))
	}
	return &hashTracker{newTracker(KindHash, regions, h), h}, nil
}

// Sent implements Witness.
func (t *hashTracker) Sent(block int, off int64, p []byte) {
	size := t.blocks[block].PageSize
	for ; int64(len(p)) >= size; off, p = off+size, p[size:] {
		sum := xxh3.Hash128(p[:size])
		t.sent(block, off/size, off/size+1, sum)
	}
}

// SentZeroes implements Witness.
func (t *hashTracker) SentZeroes(block int, off, length int64) {
	size := t.blocks[block].PageSize
	t.sent(block, off/size, (off+length)/size, t.hash.zero[block])
}

func (t *hashTracker) sent(block int, lo, hi int64, sum xxh3.Uint128) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := lo; p < hi; p++ {
		t.hash.known[block].Set(int(p))
		t.hash.sums[block][p] = sum
	}
}

func (h *hash) written(ctx context.Context, out ram.Set) error {
	data, err := h.data()
	if err != nil {
		return err
	}
	if !h.begun {
		// The destination has zeros wherever there is a hole now; of all else it has nothing.
		h.known.Fill()
		h.known.AndNot(data)
		for b, holes := range h.known {
			for lo, hi := range holes.Runs() {
				for p := lo; p < hi; p++ {
					h.sums[b][p] = h.zero[b]
				}
			}
		}
		h.begun = true
		return alive(h.pages, h.regions)
	}
	for b := range h.blocks {
		if err := h.compare(ctx, b, data[b], out[b]); err != nil {
			return fmt.Errorf("RAM block %q: %w", h.blocks[b].Name, err)
		}
	}
	return alive(h.pages, h.regions)
}

// data gives the pages that are not holes, as far as that is known.
func (h *hash) data() (ram.Set, error) {
	out := make(ram.Set, len(h.regions))
	for i, r := range h.regions {
		if out[i] = ram.NewBitmap(r.Block.Pages()); !holesKnown(r) {
			out[i].Fill()
			continue
		}
		var err error
		if out[i], err = present(r); err != nil {
			return nil, fmt.Errorf("look for holes of RAM block %q: %w", r.Block.Name, err)
		}
	}
	return out, nil
}

// compare adds the pages of a block that are not what the destination has, as far as is known.
func (h *hash) compare(ctx context.Context, b int, data, out *ram.Bitmap) error {
	out.Fill()
	out.AndNot(h.known[b])
	for lo, hi := range h.known[b].Runs() {
		for p := lo; p < hi; p++ {
			if !data.Test(p) && h.sums[b][p] != h.zero[b] {
				out.Set(p)
			}
		}
	}
	todo := h.known[b].Clone()
	todo.And(data)
	size := h.blocks[b].PageSize
	for lo, hi := range todo.Runs() {
		for lo < hi {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(hi-lo, int(int64(len(h.buf))/size))
			if err := h.sumUp(b, lo, lo+n, out); err != nil {
				return err
			}
			lo += n
		}
	}
	return nil
}

// sumUp reads pages that are known and adds those that are different.
func (h *hash) sumUp(b, lo, hi int, out *ram.Bitmap) error {
	size, r := h.blocks[b].PageSize, h.regions[b]
	buf := h.buf[:int64(hi-lo)*size]
	from, at := io.ReaderAt(h.memory), int64(r.Addr)
	if r.File != nil {
		from, at = r.File, r.Base
	}
	if n, err := from.ReadAt(buf, at+int64(lo)*size); n < len(buf) {
		if n == 0 && err == io.EOF && r.File == nil {
			return ErrGone
		}
		return fmt.Errorf("read: %w", err)
	}
	for p := lo; p < hi; p, buf = p+1, buf[size:] {
		if xxh3.Hash128(buf[:size]) != h.sums[b][p] {
			out.Set(p)
		}
	}
	return nil
}

func (h *hash) close() error { return errors.Join(h.pages.Close(), h.memory.Close()) }
