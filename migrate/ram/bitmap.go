package ram

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
)

// Bitmap is a set of pages of one block. Page numbers outside of it are a fault of the caller and panic, as an index does.
type Bitmap struct {
	pages int
	words []uint64
}

// NewBitmap makes an empty set for a block of that many pages.
func NewBitmap(pages int) *Bitmap {
	return &Bitmap{pages: pages, words: make([]uint64, (pages+63)/64)}
}

// Len is the number of pages of the block.
func (b *Bitmap) Len() int { return b.pages }

func (b *Bitmap) check(lo, hi int) {
	if lo < 0 || hi > b.pages || lo > hi {
		panic(fmt.Sprintf("ram: pages [%d, %d) of a block of %d", lo, hi, b.pages))
	}
}

// Set adds a page.
func (b *Bitmap) Set(page int) { b.check(page, page+1); b.words[page>>6] |= 1 << (page & 63) }

// Clear takes a page out.
func (b *Bitmap) Clear(page int) { b.check(page, page+1); b.words[page>>6] &^= 1 << (page & 63) }

// Test tells whether a page is in the set.
func (b *Bitmap) Test(page int) bool {
	b.check(page, page+1)
	return b.words[page>>6]&(1<<(page&63)) != 0
}

// SetRange adds the pages lo up to, but not with, hi.
func (b *Bitmap) SetRange(lo, hi int) {
	b.eachWord(lo, hi, func(w *uint64, mask uint64) { *w |= mask })
}

// ClearRange takes the pages lo up to, but not with, hi out.
func (b *Bitmap) ClearRange(lo, hi int) {
	b.eachWord(lo, hi, func(w *uint64, mask uint64) { *w &^= mask })
}

// CountRange is how many of the pages lo up to, but not with, hi are in the set.
func (b *Bitmap) CountRange(lo, hi int) int {
	n := 0
	b.eachWord(lo, hi, func(w *uint64, mask uint64) { n += bits.OnesCount64(*w & mask) })
	return n
}

func (b *Bitmap) eachWord(lo, hi int, f func(w *uint64, mask uint64)) {
	b.check(lo, hi)
	for lo < hi {
		end := min(hi, (lo|63)+1)
		mask := ^uint64(0) << (lo & 63)
		if end&63 != 0 {
			mask &= 1<<(end&63) - 1
		}
		f(&b.words[lo>>6], mask)
		lo = end
	}
}

// Fill adds all pages.
func (b *Bitmap) Fill() { b.SetRange(0, b.pages) }

// Reset takes all pages out.
func (b *Bitmap) Reset() { clear(b.words) }

// Count is the number of pages in the set.
func (b *Bitmap) Count() int {
	n := 0
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Empty tells whether no page is in the set.
func (b *Bitmap) Empty() bool {
	for _, w := range b.words {
		if w != 0 {
			return false
		}
	}
	return true
}

// Next is the first page of the set from page on, or -1.
func (b *Bitmap) Next(page int) int { return b.scan(page, 0) }

// NextClear is the first page from page on that is not in the set, or -1.
func (b *Bitmap) NextClear(page int) int { return b.scan(page, ^uint64(0)) }

func (b *Bitmap) scan(page int, flip uint64) int {
	if page < 0 || page >= b.pages {
		return -1
	}
	w := (b.words[page>>6] ^ flip) &^ (1<<(page&63) - 1)
	for i := page >> 6; ; w = b.words[i] ^ flip {
		if w != 0 {
			if n := i<<6 + bits.TrailingZeros64(w); n < b.pages {
				return n
			}
			return -1
		}
		if i++; i == len(b.words) {
			return -1
		}
	}
}

// Runs gives the runs of neighbouring pages in the set, lowest first: pages lo up to, but not with, hi.
func (b *Bitmap) Runs() iter.Seq2[int, int] {
	return func(yield func(lo, hi int) bool) {
		for lo := b.Next(0); lo >= 0; {
			hi := b.NextClear(lo)
			if hi < 0 {
				hi = b.pages
			}
			if !yield(lo, hi) {
				return
			}
			lo = b.Next(hi)
		}
	}
}

func (b *Bitmap) same(o *Bitmap) {
	if b.pages != o.pages {
		panic(fmt.Sprintf("ram: sets of %d and of %d pages do not go together", b.pages, o.pages))
	}
}

// Or adds the pages of o, a set of the same block.
func (b *Bitmap) Or(o *Bitmap) {
	b.same(o)
	for i, w := range o.words {
		b.words[i] |= w
	}
}

// And keeps only the pages that are in o, too.
func (b *Bitmap) And(o *Bitmap) {
	b.same(o)
	for i, w := range o.words {
		b.words[i] &= w
	}
}

// AndNot takes the pages of o out.
func (b *Bitmap) AndNot(o *Bitmap) {
	b.same(o)
	for i, w := range o.words {
		b.words[i] &^= w
	}
}

// Clone is a copy that shares nothing.
func (b *Bitmap) Clone() *Bitmap {
	return &Bitmap{pages: b.pages, words: append([]uint64(nil), b.words...)}
}

// Equal tells whether both are the same set of the same number of pages.
func (b *Bitmap) Equal(o *Bitmap) bool {
	if b.pages != o.pages {
		return false
	}
	for i, w := range b.words {
		if o.words[i] != w {
			return false
		}
	}
	return true
}

// maxPages bounds what UnmarshalBinary makes: 16 TiB of 4 KiB pages.
const maxPages = 1 << 32

// MarshalBinary writes the number of pages and the words, little-endian. It never fails.
func (b *Bitmap) MarshalBinary() ([]byte, error) {
	out := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+8*len(b.words)), uint64(b.pages))
	for _, w := range b.words {
		out = binary.LittleEndian.AppendUint64(out, w)
	}
	return out, nil
}

// UnmarshalBinary reads what MarshalBinary wrote. It allocates no more than the input is long, and refuses bits behind the
// last page.
func (b *Bitmap) UnmarshalBinary(p []byte) error {
	if len(p) < 8 {
		return fmt.Errorf("a page set of %d bytes is too short", len(p))
	}
	pages := binary.LittleEndian.Uint64(p)
	p = p[8:]
	if pages > maxPages || uint64(len(p)) != (pages+63)/64*8 {
		return fmt.Errorf("a page set of %d pages does not have %d bytes", pages, len(p))
	}
	words := make([]uint64, len(p)/8)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(p[8*i:])
	}
	if tail := pages & 63; tail != 0 && words[len(words)-1]>>tail != 0 {
		return fmt.Errorf("a page set of %d pages names pages behind its end", pages)
	}
	b.pages, b.words = int(pages), words
	return nil
}
