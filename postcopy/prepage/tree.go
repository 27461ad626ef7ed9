package prepage

import (
	"math/bits"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// tree is a set of pages of one block, in which the nearest page up or down is found in as many steps as the tree has
// levels, however far away it is. Level 0 has one bit for each page, and a bit of a level above it says that the word of
// 64 bits below it is not empty. A block of 1 TiB in pages of 4 KiB takes 5 levels and 33 MB.
type tree struct {
	pages  int
	count  int
	levels [][]uint64
}

// newTree makes an empty set for a block of that many pages.
func newTree(pages int) *tree {
	t := &tree{pages: pages}
	for n := pages; ; {
		n = (n + 63) / 64
		t.levels = append(t.levels, make([]uint64, n))
		if n <= 1 {
			return t
		}
	}
}

// treeOf makes a set of the pages of b.
func treeOf(b *ram.Bitmap) *tree {
	t := newTree(b.Len())
	for lo, hi := range b.Runs() {
		t.setRange(lo, hi)
	}
	return t
}

func (t *tree) has(page int) bool { return t.levels[0][page>>6]&(1<<(page&63)) != 0 }

// setRange adds the pages lo up to, but not with, hi.
func (t *tree) setRange(lo, hi int) {
	for lo < hi {
		end, mask := wordOf(lo, hi)
		w := &t.levels[0][lo>>6]
		t.count += bits.OnesCount64(mask &^ *w)
		*w |= mask
		for level, i := 1, lo>>6; level < len(t.levels); level, i = level+1, i>>6 {
			t.levels[level][i>>6] |= 1 << (i & 63)
		}
		lo = end
	}
}

// clearRange takes the pages lo up to, but not with, hi out, and tells how many of them were in.
func (t *tree) clearRange(lo, hi int) int {
	was := t.count
	for lo < hi {
		end, mask := wordOf(lo, hi)
		w := &t.levels[0][lo>>6]
		t.count -= bits.OnesCount64(mask & *w)
		*w &^= mask
		empty := *w == 0
		for level, i := 1, lo>>6; empty && level < len(t.levels); level, i = level+1, i>>6 {
			up := &t.levels[level][i>>6]
			*up &^= 1 << (i & 63)
			empty = *up == 0
		}
		lo = end
	}
	return was - t.count
}

// wordOf gives the end of the part of [lo, hi) that lies in one word, and the bits of that part.
func wordOf(lo, hi int) (end int, mask uint64) {
	end = min(hi, (lo|63)+1)
	mask = ^uint64(0) << (lo & 63)
	if end&63 != 0 {
		mask &= 1<<(end&63) - 1
	}
	return end, mask
}

// up is the first page of the set from page on, or -1.
func (t *tree) up(page int) int {
	if page < 0 {
		page = 0
	}
	i := page
	for level, words := range t.levels {
		if i>>6 >= len(words) {
			return -1
		}
		if w := words[i>>6] &^ (1<<(i&63) - 1); w != 0 {
			return t.lowest(level, i&^63+bits.TrailingZeros64(w))
		}
		i = i>>6 + 1
	}
	return -1
}

// lowest goes down from bit i of a level to the lowest page below it.
func (t *tree) lowest(level, i int) int {
	for ; level > 0; level-- {
		i = i<<6 + bits.TrailingZeros64(t.levels[level-1][i])
	}
	return i
}

// down is the last page of the set up to and with page, or -1.
func (t *tree) down(page int) int {
	if page >= t.pages {
		page = t.pages - 1
	}
	i := page
	for level, words := range t.levels {
		if i < 0 {
			return -1
		}
		if w := words[i>>6] << (63 - i&63); w != 0 {
			return t.highest(level, i-bits.LeadingZeros64(w))
		}
		i = i>>6 - 1
	}
	return -1
}

// highest goes down from bit i of a level to the highest page below it.
func (t *tree) highest(level, i int) int {
	for ; level > 0; level-- {
		i = i<<6 + 63 - bits.LeadingZeros64(t.levels[level-1][i])
	}
	return i
}

// runUp is the end of the run of neighbouring pages of the set that starts at page, at most limit pages long.
func (t *tree) runUp(page, limit int) int {
	end := page
	stop := page + min(limit, t.pages-page)
	for end < stop {
		free := ^t.levels[0][end>>6] >> (end & 63)
		n := min(bits.TrailingZeros64(free), 64-end&63)
		end += n
		if end&63 != 0 || n == 0 {
			break
		}
	}
	return min(end, stop)
}

// runDown is the first page of the run of neighbouring pages of the set that ends with page, at most limit pages long.
func (t *tree) runDown(page, limit int) int {
	lo := page + 1
	stop := max(0, lo-limit)
	for lo > stop {
		top := lo - 1
		free := ^t.levels[0][top>>6] << (63 - top&63)
		n := min(bits.LeadingZeros64(free), top&63+1)
		lo -= n
		if lo&63 != 0 || n == 0 {
			break
		}
	}
	return max(lo, stop)
}
