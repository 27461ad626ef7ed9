package postcopy

import (
	"slices"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// noBlock marks a piece that belongs to no block: what is missing there is zeros.
const noBlock = -1

// piece is a run of addresses that holds a part of one block.
type piece struct {
	start, end uint64
	block      int
	off        uint64
}

// layout says which address holds which part of which block, in one address space. It is a value without I/O; pieces are
// ordered by address and do not overlap. A process that remaps its memory moves pieces; one that unmaps it takes them out.
type layout struct {
	blocks []ram.Block
	pieces []piece
}

func newLayout(blocks []ram.Block, addrs []uint64) layout {
	l := layout{blocks: blocks}
	for i, b := range blocks {
		l.pieces = append(l.pieces, piece{addrs[i], addrs[i] + uint64(b.Size), i, 0})
	}
	l.sort()
	return l
}

func (l *layout) sort() {
	slices.SortFunc(l.pieces, func(a, b piece) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
}

func (l *layout) clone() layout { return layout{l.blocks, slices.Clone(l.pieces)} }

// find is the piece that holds an address.
func (l *layout) find(addr uint64) (piece, bool) {
	lo, hi := 0, len(l.pieces)
	for lo < hi {
		if mid := (lo + hi) / 2; l.pieces[mid].end <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(l.pieces) && l.pieces[lo].start <= addr {
		return l.pieces[lo], true
	}
	return piece{}, false
}

// page is the block and page that an address belongs to. The block is noBlock where zeros belong.
func (l *layout) page(addr uint64) (block, page int, ok bool) {
	p, ok := l.find(addr)
	if !ok || p.block == noBlock {
		return noBlock, 0, ok
	}
	return p.block, int((p.off + addr - p.start) / uint64(l.blocks[p.block].PageSize)), true
}

// addr is where a page lies and how many pages of the block follow there without a gap, itself included; not ok when it
// is mapped nowhere.
func (l *layout) addr(block, page int) (addr uint64, pages int, ok bool) {
	size := uint64(l.blocks[block].PageSize)
	off := uint64(page) * size
	for _, p := range l.pieces {
		if p.block == block && off >= p.off && off < p.off+p.end-p.start {
			addr = p.start + off - p.off
			return addr, int((p.end - addr) / size), true
		}
	}
	return 0, 0, false
}

// part is a run of pages of one block: lo up to, but not with, hi.
type part struct{ block, lo, hi int }

// parts are the pages within a range of addresses.
func (l *layout) parts(start, end uint64) []part {
	var out []part
	for _, p := range l.pieces {
		s, e := max(start, p.start), min(end, p.end)
		if s >= e || p.block == noBlock {
			continue
		}
		size := uint64(l.blocks[p.block].PageSize)
		out = append(out, part{p.block, int((p.off + s - p.start) / size), int((p.off + e - p.start + size - 1) / size)})
	}
	return out
}

// cut takes a range out and returns the pieces of it.
func (l *layout) cut(start, end uint64) []piece {
	var out, rest []piece
	for _, p := range l.pieces {
		s, e := max(start, p.start), min(end, p.end)
		if s >= e {
			rest = append(rest, p)
			continue
		}
		out = append(out, piece{s, e, p.block, p.off + s - p.start})
		if p.start < s {
			rest = append(rest, piece{p.start, s, p.block, p.off})
		}
		if e < p.end {
			rest = append(rest, piece{e, p.end, p.block, p.off + e - p.start})
		}
	}
	l.pieces = rest
	l.sort()
	return out
}

// unmap takes a range out and returns the pages that are mapped nowhere now.
func (l *layout) unmap(start, end uint64) []part {
	parts := l.parts(start, end)
	l.cut(start, end)
	return parts
}

// move follows a remap of the range [from, from+length) to another place. What is left at the old place, until the
// kernel says that it is unmapped, holds zeros.
func (l *layout) move(from, to, length uint64) {
	l.cut(to, to+length)
	for _, p := range l.cut(from, from+length) {
		l.pieces = append(l.pieces, piece{p.start - from + to, p.end - from + to, p.block, p.off}, piece{p.start, p.end, noBlock, 0})
	}
	l.sort()
}
