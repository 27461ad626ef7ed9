package prepage

import (
	"math/rand/v2"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// A tree gives the answers of a plain list of flags, for sizes around the borders of its words and levels.
func TestTreeIsASet(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, pages := range []int{1, 63, 64, 65, 4095, 4096, 4097, 70000} {
		set, model := newTree(pages), make([]bool, pages)
		for range 60 {
			lo := rng.IntN(pages)
			hi := min(pages, lo+1+rng.IntN(1+rng.IntN(pages)))
			on := rng.IntN(3) == 0
			if on {
				set.setRange(lo, hi)
			} else {
				had := set.count
				if n := set.clearRange(lo, hi); had-n != set.count {
					t.Fatalf("%d pages: %d taken out of %d leave %d", pages, n, had, set.count)
				}
			}
			for i := lo; i < hi; i++ {
				model[i] = on
			}
			if n := counted(model); n != set.count {
				t.Fatalf("%d pages counted, %d in the set", set.count, n)
			}
			for range 20 {
				checkTree(t, set, model, rng.IntN(pages), 1+rng.IntN(200))
			}
		}
	}
}

func counted(model []bool) (n int) {
	for _, on := range model {
		if on {
			n++
		}
	}
	return n
}

func checkTree(t *testing.T, set *tree, model []bool, page, limit int) {
	t.Helper()
	up, down := page, page
	for up < len(model) && !model[up] {
		up++
	}
	if up == len(model) {
		up = -1
	}
	for down >= 0 && !model[down] {
		down--
	}
	if set.has(page) != model[page] || set.up(page) != up || set.down(page) != down {
		t.Fatalf("page %d of %d: %t, up %d, down %d; wanted %t, %d, %d", page, len(model),
			set.has(page), set.up(page), set.down(page), model[page], up, down)
	}
	end, lo := page, page+1
	for end < len(model) && model[end] && end-page < limit {
		end++
	}
	for lo > 0 && model[lo-1] && page+1-lo < limit {
		lo--
	}
	if set.runUp(page, limit) != end || set.runDown(page, limit) != lo {
		t.Fatalf("page %d of %d, at most %d: up to %d, down to %d; wanted %d, %d", page, len(model), limit,
			set.runUp(page, limit), set.runDown(page, limit), end, lo)
	}
}

func TestTreeBeyondItsEnds(t *testing.T) {
	for _, pages := range []int{1, 64, 100, 4096, 5000} {
		b := ram.NewBitmap(pages)
		b.Fill()
		set := treeOf(b)
		if set.up(pages) != -1 || set.up(pages+100000) != -1 || set.up(-5) != 0 {
			t.Errorf("%d pages: up", pages)
		}
		if set.down(-1) != -1 || set.down(pages+7) != pages-1 {
			t.Errorf("%d pages: down", pages)
		}
		if set.count != pages || set.runUp(0, 1<<40) != pages || set.runDown(pages-1, 1<<40) != 0 {
			t.Errorf("%d pages: runs", pages)
		}
	}
}
