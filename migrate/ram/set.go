package ram

import "fmt"

// Set is a set of pages of a guest: one Bitmap for each of its blocks, in their order.
type Set []*Bitmap

// NewSet makes an empty set for the blocks.
func NewSet(blocks []Block) Set {
	s := make(Set, len(blocks))
	for i, b := range blocks {
		s[i] = NewBitmap(b.Pages())
	}
	return s
}

// Fits tells whether the set is one of these blocks; a set that came from a peer has to be asked.
func (s Set) Fits(blocks []Block) error {
	if len(s) != len(blocks) {
		return fmt.Errorf("a set of %d blocks for a guest of %d", len(s), len(blocks))
	}
	for i, b := range blocks {
		if s[i] == nil || s[i].Len() != b.Pages() {
			return fmt.Errorf("the set of block %q is not one of %d pages", b.Name, b.Pages())
		}
	}
	return nil
}

// Count is the number of pages in the set.
func (s Set) Count() int {
	n := 0
	for _, b := range s {
		n += b.Count()
	}
	return n
}

// Bytes is what the pages of the set hold together.
func (s Set) Bytes(blocks []Block) int64 {
	var n int64
	for i, b := range s {
		n += int64(b.Count()) * blocks[i].PageSize
	}
	return n
}

// Empty tells whether no page is in the set.
func (s Set) Empty() bool {
	for _, b := range s {
		if !b.Empty() {
			return false
		}
	}
	return true
}

// Or adds the pages of o.
func (s Set) Or(o Set) { s.each(o, (*Bitmap).Or) }

// And keeps only the pages that are in o, too.
func (s Set) And(o Set) { s.each(o, (*Bitmap).And) }

// AndNot takes the pages of o out.
func (s Set) AndNot(o Set) { s.each(o, (*Bitmap).AndNot) }

func (s Set) each(o Set, f func(a, b *Bitmap)) {
	if len(s) != len(o) {
		panic(fmt.Sprintf("ram: sets of %d and of %d blocks do not go together", len(s), len(o)))
	}
	for i := range s {
		f(s[i], o[i])
	}
}

// Fill adds all pages.
func (s Set) Fill() {
	for _, b := range s {
		b.Fill()
	}
}

// Reset takes all pages out.
func (s Set) Reset() {
	for _, b := range s {
		b.Reset()
	}
}

// Clone is a copy that shares nothing.
func (s Set) Clone() Set {
	out := make(Set, len(s))
	for i, b := range s {
		out[i] = b.Clone()
	}
	return out
}
