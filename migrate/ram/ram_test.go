package ram

import (
	"math/rand/v2"
	"testing"
)

// A Bitmap does what a map of pages does, whatever is done to it.
func TestBitmapIsASet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, pages := range []int{1, 63, 64, 65, 127, 1000} {
		b, model := NewBitmap(pages), map[int]bool{}
		for range 300 {
			lo := rng.IntN(pages + 1)
			hi := lo + rng.IntN(pages+1-lo)
			switch on := rng.IntN(2) == 0; {
			case on:
				b.SetRange(lo, hi)
				for i := lo; i < hi; i++ {
					model[i] = true
				}
			default:
				b.ClearRange(lo, hi)
				for i := lo; i < hi; i++ {
					delete(model, i)
				}
			}
			checkBitmap(t, b, model)
		}
	}
}

func checkBitmap(t *testing.T, b *Bitmap, model map[int]bool) {
	t.Helper()
	inRuns := 0
	last := -1
	for lo, hi := range b.Runs() {
		if lo <= last || hi <= lo {
			t.Fatalf("run [%d, %d) after %d", lo, hi, last)
		}
		last = hi
		for i := lo; i < hi; i++ {
			if !model[i] {
				t.Fatalf("page %d is in a run and not in the set", i)
			}
			inRuns++
		}
	}
	if inRuns != len(model) || b.Count() != len(model) || b.Empty() != (len(model) == 0) || b.CountRange(0, b.Len()) != len(model) {
		t.Fatalf("%d pages in runs, %d counted, %d in the set", inRuns, b.Count(), len(model))
	}
	for i := range b.Len() {
		if b.Test(i) != model[i] {
			t.Fatalf("page %d: %t", i, b.Test(i))
		}
	}
	if n := b.Next(b.Len()); n != -1 {
		t.Fatalf("page %d behind the last", n)
	}
}

func TestBitmapAlgebra(t *testing.T) {
	a, b := NewBitmap(200), NewBitmap(200)
	a.SetRange(10, 150)
	b.SetRange(100, 200)
	or, and, not := a.Clone(), a.Clone(), a.Clone()
	or.Or(b)
	and.And(b)
	not.AndNot(b)
	for i := range 200 {
		if or.Test(i) != (a.Test(i) || b.Test(i)) || and.Test(i) != (a.Test(i) && b.Test(i)) || not.Test(i) != (a.Test(i) && !b.Test(i)) {
			t.Fatalf("page %d", i)
		}
	}
}

func TestBitmapTravels(t *testing.T) {
	for _, pages := range []int{0, 1, 64, 65, 1000} {
		b := NewBitmap(pages)
		b.SetRange(pages/3, pages)
		p, err := b.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var back Bitmap
		if err := back.UnmarshalBinary(p); err != nil || !back.Equal(b) {
			t.Fatalf("%d pages: %v", pages, err)
		}
		if err := back.UnmarshalBinary(p[:len(p)-1]); err == nil {
			t.Fatalf("%d pages: a cut set was taken", pages)
		}
	}
}

func FuzzBitmap(f *testing.F) {
	b := NewBitmap(70)
	b.SetRange(3, 69)
	p, _ := b.MarshalBinary()
	f.Add(p)
	f.Fuzz(func(t *testing.T, p []byte) {
		var b Bitmap
		if b.UnmarshalBinary(p) != nil {
			return
		}
		q, _ := b.MarshalBinary()
		if string(q) != string(p) {
			t.Fatal("what was read is written differently")
		}
		for lo, hi := range b.Runs() {
			if lo < 0 || hi > b.Len() {
				t.Fatalf("run [%d, %d) of %d", lo, hi, b.Len())
			}
		}
	})
}

func TestSetFitsItsBlocks(t *testing.T) {
	blocks := []Block{{"pc.ram", 1 << 20, 4096}, {"huge", 4 << 20, 2 << 20}}
	s := NewSet(blocks)
	if err := s.Fits(blocks); err != nil {
		t.Fatal(err)
	}
	s[0].SetRange(0, 2)
	s[1].Set(1)
	if s.Count() != 3 || s.Bytes(blocks) != 8192+2<<20 {
		t.Errorf("%d pages, %d bytes", s.Count(), s.Bytes(blocks))
	}
	if s[:1].Fits(blocks) == nil || (Set{s[1], s[0]}).Fits(blocks) == nil || (Set{s[0], nil}).Fits(blocks) == nil {
		t.Error("a set of other blocks is taken")
	}
	c := s.Clone()
	c.AndNot(s)
	if !c.Empty() || s.Empty() {
		t.Error("a clone shares its pages")
	}
}

func TestBlockCheck(t *testing.T) {
	if err := (Block{"pc.ram", 1 << 30, 4096}).Check(); err != nil {
		t.Error(err)
	}
	for _, b := range []Block{{}, {"", 4096, 4096}, {"a", 0, 4096}, {"a", 5000, 4096}, {"a", 4096, 1024}, {"a", 12288, 12288}, {"a", 1 << 60, 4096}, {"a", -4096, 4096}} {
		if b.Check() == nil {
			t.Errorf("%+v is taken", b)
		}
	}
}
