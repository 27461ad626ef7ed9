package worker

import (
	"bytes"
	"context"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// sourceOf gives each page the number of its place, and zeros for some.
type sourceOf struct{ zero func(page int64) bool }

func (s sourceOf) ReadSparse(_ context.Context, b []byte, off int64) ([]ram.Extent, error) {
	var holes []ram.Extent
	for i := 0; i < len(b); i += 4096 {
		page := (off + int64(i)) / 4096
		if s.zero(page) {
			holes = append(holes, ram.Extent{Offset: off + int64(i), Length: 4096})
			continue
		}
		copy(b[i:], bytes.Repeat([]byte{byte(page%200) + 1}, 4096))
	}
	return holes, nil
}

// intakeOf takes RAM in two blocks of so many pages in, of which some pages hold something that is not the guest's.
func intakeOf(t *testing.T, pages int, held func(page int) bool) *intake {
	t.Helper()
	m := &memory{}
	for i, name := range []string{"a", "b"} {
		f, err := sys.Memfd(name, int64(pages)*4096, false)
		if err != nil {
			t.Fatal(err)
		}
		for page := range pages {
			if held(i*pages + page) {
				if _, err := f.WriteAt(bytes.Repeat([]byte{0xee}, 4096), int64(page)*4096); err != nil {
					t.Fatal(err)
				}
			}
		}
		m.parts = append(m.parts, part{Block: ram.Block{Name: name, Size: int64(pages) * 4096, PageSize: 4096}, index: i, start: m.size, file: f})
		m.size += int64(pages) * 4096
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	in := &intake{m: m, bufs: newBuffers(pieceSize), count: &counters{}}
	in.present = in.held(t)
	in.stale = in.present.Clone()
	return in
}

// held are the pages that the files hold.
func (in *intake) held(t *testing.T) ram.Set {
	t.Helper()
	holes, err := in.m.holes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := ram.NewSet(in.m.blocks())
	all.Fill()
	all.AndNot(holes)
	return all
}

// What the destination's file held before the guest came is gone when it runs, also where the source has a hole that nobody asks
// for: the guest would find it there instead of zeros.
func TestT1WhatWasThereBeforeIsGone(t *testing.T) {
	const pages = 3000 // more than are swept at once
	for name, asked := range map[string]func(page int) bool{
		"pre-copy":           func(page int) bool { return page%3 != 0 },
		"of holes alone":     func(int) bool { return false },
		"of nothing but one": func(page int) bool { return page == 17 },
	} {
		t.Run(name, func(t *testing.T) {
			in := intakeOf(t, pages, func(page int) bool { return page%5 != 4 })
			zero := func(page int64) bool { return page%7 == 0 }
			in.from = sourceOf{zero}
			want := ram.NewSet(in.m.blocks())
			for page := range 2 * pages {
				if asked(page) {
					want[page/pages].Set(page % pages)
				}
			}
			if err := in.fetch(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			got, there := make([]byte, 4096), in.held(t)
			for page := range 2 * pages {
				full := asked(page) && !zero(int64(page))
				if there[page/pages].Test(page%pages) != full || in.present[page/pages].Test(page%pages) != full {
					t.Fatalf("page %d: there, and known to be: %t %t, want %t", page, there[page/pages].Test(page%pages), in.present[page/pages].Test(page%pages), full)
				}
				if _, err := (device{m: in.m}).ReadAt(got, int64(page)*4096); err != nil {
					t.Fatal(err)
				}
				if first := byte(page%200) + 1; full && got[0] != first || !full && !bytes.Equal(got, zeros()) {
					t.Fatalf("page %d begins with %#x", page, got[0])
				}
			}
			if !in.stale.Empty() {
				t.Errorf("%d pages are stale still", in.stale.Count())
			}
		})
	}
}

// Pages that are made missing are no more stale, and what nobody fetched is emptied without a fetch, too: post-copy has none.
func TestT1WhatWasThereBeforeIsGoneWithoutAFetch(t *testing.T) {
	in := intakeOf(t, 100, func(page int) bool { return page%2 == 0 })
	missing := ram.NewSet(in.m.blocks())
	missing[0].SetRange(10, 50)
	if err := in.punch(missing); err != nil {
		t.Fatal(err)
	}
	if n := in.stale[0].CountRange(10, 50); n != 0 {
		t.Errorf("%d of the missing pages are stale", n)
	}
	if err := in.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := in.held(t).Count(); n != 0 {
		t.Errorf("%d pages hold something", n)
	}
}
