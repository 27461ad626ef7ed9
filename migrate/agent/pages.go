package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// runsMark begins a set that is written as runs: then uvarints follow, of the gap to a run's begin and the run's length, and so
// on. Everything else is what ram.Bitmap.MarshalBinary writes, which begins with the number of pages and never so. Runs are
// for sets with few of them: the dirty pages of a guest of 64 GiB are often some hundred bytes so, and 2 MiB as a bitmap.
const runsMark = "\xff\xff\xff\xff\xff\xff\xff\xff"

// runsPatience is how many bytes of runs are written before it is asked whether a bitmap would be shorter.
const runsPatience = 64 << 10

// encodeSet gives one part for each block.
func encodeSet(s ram.Set) ([][]byte, error) {
	out := make([][]byte, 0, len(s)+1)
	for i, b := range s {
		if b == nil {
			return nil, fmt.Errorf("the set lacks the pages of block %d", i)
		}
		p, err := encodePages(b)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func encodePages(b *ram.Bitmap) ([]byte, error) {
	out := append(make([]byte, 0, 256), runsMark...)
	at := 0
	for lo, hi := range b.Runs() {
		out = binary.AppendUvarint(out, uint64(lo-at))
		out = binary.AppendUvarint(out, uint64(hi-lo))
		at = hi
		if len(out) > b.Len()/8 || len(out) > runsPatience && len(out) > at/16 { // a bitmap takes at/8 up to here
			return b.MarshalBinary()
		}
	}
	return out, nil
}

// decodeSet reads one part for each block. The blocks are those that were opened: a peer cannot make us allocate more.
func decodeSet(parts [][]byte, blocks []ram.Block) (ram.Set, error) {
	if len(parts) != len(blocks) {
		return nil, fmt.Errorf("a set of %d blocks for a guest of %d", len(parts), len(blocks))
	}
	s := make(ram.Set, len(blocks))
	for i, p := range parts {
		b, err := decodePages(p, blocks[i].Pages())
		if err != nil {
			return nil, fmt.Errorf("the pages of block %q: %w", blocks[i].Name, err)
		}
		s[i] = b
	}
	return s, nil
}

func decodePages(p []byte, pages int) (*ram.Bitmap, error) {
	if runs, ok := bytes.CutPrefix(p, []byte(runsMark)); ok {
		return decodeRuns(runs, pages)
	}
	b := new(ram.Bitmap)
	if err := b.UnmarshalBinary(p); err != nil {
		return nil, err
	}
	if b.Len() != pages {
		return nil, fmt.Errorf("a set of %d pages for a block of %d", b.Len(), pages)
	}
	return b, nil
}

func decodeRuns(p []byte, pages int) (*ram.Bitmap, error) {
	b := ram.NewBitmap(pages)
	for at := 0; len(p) > 0; {
		gap, n := binary.Uvarint(p)
		if n <= 0 {
			return nil, errors.New("a run that ends too early")
		}
		length, m := binary.Uvarint(p[n:])
		if m <= 0 {
			return nil, errors.New("a run that ends too early")
		}
		p = p[n+m:]
		left := uint64(pages - at)
		if gap > left || length == 0 || length > left-gap {
			return nil, fmt.Errorf("a run outside of the block's %d pages", pages)
		}
		at += int(gap)
		b.SetRange(at, at+int(length))
		at += int(length)
	}
	return b, nil
}

// maxHot bounds the pages that are named one by one.
const maxHot = 1 << 20

// encodeRefs writes page after page: uvarint block, varint distance from the page before.
func encodeRefs(refs []PageRef) ([]byte, error) {
	if len(refs) > maxHot {
		return nil, fmt.Errorf("%d pages to fetch first are more than %d", len(refs), maxHot)
	}
	out := make([]byte, 0, 4*len(refs))
	last := 0
	for _, r := range refs {
		out = binary.AppendUvarint(out, uint64(r.Block))
		out = binary.AppendVarint(out, int64(r.Page-last))
		last = r.Page
	}
	return out, nil
}

func decodeRefs(p []byte, blocks []ram.Block) ([]PageRef, error) {
	var out []PageRef
	last := int64(0)
	for len(p) > 0 {
		block, n := binary.Uvarint(p)
		if n <= 0 || block >= uint64(len(blocks)) || len(out) == maxHot {
			return nil, errors.New("a page to fetch first is of no block of this guest, or there are too many")
		}
		step, m := binary.Varint(p[n:])
		// last is within a block, so that this cannot overflow twice.
		if m <= 0 || step > 1<<40 || step < -(1<<40) {
			return nil, errors.New("a page to fetch first that ends too early")
		}
		p = p[n+m:]
		last += step
		if last < 0 || last >= int64(blocks[block].Pages()) {
			return nil, fmt.Errorf("page %d to fetch first is not of block %q", last, blocks[block].Name)
		}
		out = append(out, PageRef{Block: int(block), Page: int(last)})
	}
	return out, nil
}
