package bareguest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestImageRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"a range of half pages": {Start: 1<<20 + 1, End: 2 << 20},
		"low memory":            {Start: 0x8000, End: 2 << 20},
		"an empty range":        {Start: 2 << 20, End: 2 << 20},
		"a range backwards":     {Start: 3 << 20, End: 2 << 20},
		"devices":               {Start: 2 << 20, End: 3 << 30},
		"too slow":              {Rate: MinRate - 1},
		"too fast":              {Rate: MaxRate + 1},
		"a report now and then": {Report: 3},
	} {
		if _, err := Image(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v, want ErrConfig", name, err)
		}
		if err := Write(filepath.Join(t.TempDir(), "image"), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: Write: %v, want ErrConfig", name, err)
		}
	}
}

func TestImageHoldsItsParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := Write(path, Config{Start: 2 << 20, End: 3 << 20, Rate: 1000, Report: 1}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != imageSize {
		t.Fatalf("%d bytes", len(b))
	}
	// The reset vector leads to the entry, the entry to the program.
	if to := resetAt + 3 + int(int16(binary.LittleEndian.Uint16(b[resetAt+1:]))); b[resetAt] != 0xe9 || to != entryAt {
		t.Errorf("the reset vector leads to %#x", to)
	}
	if !bytes.Contains(b[entryAt:resetAt], []byte{0x66, 0xea, 0x00, 0xf0, 0xff, 0xff, 0x08, 0x00}) {
		t.Error("the entry does not lead to the program")
	}
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(b[statusAt+at:]) }
	if word(wordStart) != 2<<20 || word(wordEnd) != 3<<20 || word(wordBatch) != 10 || word(wordMask) != 0 {
		t.Errorf("status page % x", b[statusAt:statusAt+statusSize])
	}
}

func TestPaceIsTheRate(t *testing.T) {
	for _, rate := range []uint32{MinRate, 99, 100, 12345, 1_000_000, MaxRate} {
		batch, interval := Config{Rate: rate}.pace()
		got := float64(batch) * pitHz / float64(interval)
		if got < 0.99*float64(rate) || got > 1.02*float64(rate) || interval > 0xf000 {
			t.Errorf("rate %d: %d pages each %d counts is %.0f a second", rate, batch, interval, got)
		}
	}
}

func TestAJumpToNowhereIsAnError(t *testing.T) {
	var a assembler
	a.jump("jmp nowhere", "nowhere", 0xe9)
	if _, err := a.bytes(); err == nil {
		t.Error("no error")
	}
}

// memory is RAM as the guest leaves it after pass passes and steps more pages;
// words says how many words of the page at the cursor are written.
func memory(pass uint32, steps, words int) []byte {
	c := Config{Start: 1 << 20, End: 1<<20 + 8*PageSize}
	ram := make([]byte, c.End)
	s := ram[StatusAddress:]
	copy(s, status(Config{Start: c.Start, End: c.End, Report: 1}))
	binary.LittleEndian.PutUint64(s[wordPass:], uint64(pass))
	binary.LittleEndian.PutUint32(s[wordCursor:], c.Start+uint32(steps)*PageSize)
	for i := range 8 {
		first, last := pass, pass
		if i < steps || i == steps && words > 0 {
			first++
		}
		if i < steps || i == steps && words > 1 {
			last++
		}
		page := ram[c.Start+uint32(i)*PageSize:]
		binary.LittleEndian.PutUint32(page, first)
		binary.LittleEndian.PutUint32(page[PageSize-4:], last)
	}
	return ram
}

func TestCheckRAMTakesEveryStateOfAGoodGuest(t *testing.T) {
	for steps := range 8 {
		for words := range 3 {
			s, err := CheckRAM(bytes.NewReader(memory(300, steps, words)))
			if err != nil || s.Pass != 300 || s.Start != 1<<20 {
				t.Errorf("%d pages and %d words: %+v, %v", steps, words, s, err)
			}
		}
	}
	// The pass is counted, the cursor still on the last page.
	ram := memory(300, 7, 2)
	ram[StatusAddress+wordPass]++
	if _, err := CheckRAM(bytes.NewReader(ram)); err != nil {
		t.Error(err)
	}
	// Nothing is written yet.
	ram = memory(0, 0, 0)
	clear(ram[StatusAddress+wordCursor:][:4])
	if s, err := CheckRAM(bytes.NewReader(ram)); err != nil || s.Cursor != 0 {
		t.Error(err)
	}
}

func TestCheckRAMFindsWhatAMigrationSpoilt(t *testing.T) {
	page := func(ram []byte, i int) []byte { return ram[1<<20+i*PageSize:][:PageSize] }
	tests := []struct {
		name  string
		spoil func(ram []byte)
		says  string
	}{
		{"lost page", func(ram []byte) { clear(page(ram, 2)) }, "0x102000 has 0 and 0"},
		{"stale page behind the cursor", func(ram []byte) { page(ram, 6)[0]--; page(ram, 6)[PageSize-4]-- }, "0x106000"},
		{"stale page before the cursor", func(ram []byte) { page(ram, 1)[0]--; page(ram, 1)[PageSize-4]-- }, "0x101000"},
		{"torn page", func(ram []byte) { page(ram, 2)[PageSize-4]-- }, "0x102000"},
		{"cursor page torn the wrong way", func(ram []byte) { page(ram, 4)[PageSize-4]++ }, "0x104000"},
		{"first page lost", func(ram []byte) { clear(page(ram, 0)) }, "0x100000"},
		{"last page lost", func(ram []byte) { clear(page(ram, 7)) }, "0x107000"},
		{"stale counter", func(ram []byte) { ram[StatusAddress+wordPass]-- }, "7 of 8"},
		{"stale cursor", func(ram []byte) { ram[StatusAddress+wordCursor+1] -= 0x20 }, "0x103000"},
		{"lost status page", func(ram []byte) { clear(ram[StatusAddress:][:PageSize]) }, "no status page"},
		{"cursor outside", func(ram []byte) { ram[StatusAddress+wordCursor+3] = 9 }, "cursor"},
		{"range of nonsense", func(ram []byte) { ram[StatusAddress+wordEnd+3] = 0xff }, "status page"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ram := memory(300, 4, 0)
			tt.spoil(ram)
			_, err := CheckRAM(bytes.NewReader(ram))
			if !errors.Is(err, ErrIntegrity) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want ErrIntegrity saying %q", err, tt.says)
			}
		})
	}
}

func TestCheckRAMOfAShortFile(t *testing.T) {
	ram := memory(3, 4, 0)
	for _, n := range []int{0, StatusAddress + 8, 1 << 20, 1<<20 + 5*PageSize + 1} {
		_, err := CheckRAM(bytes.NewReader(ram[:n]))
		if err == nil || errors.Is(err, ErrIntegrity) {
			t.Errorf("%d bytes: %v, want an error of reading", n, err)
		}
	}
}

func FuzzReadState(f *testing.F) {
	f.Add(memory(3, 4, 1)[StatusAddress:][:statusSize])
	f.Add(statusMagic[:]) // a range from nothing to nothing
	f.Fuzz(func(t *testing.T, page []byte) {
		ram := make([]byte, 2<<20)
		copy(ram[StatusAddress:], page)
		s, err := CheckRAM(bytes.NewReader(ram))
		if err == nil && (s.Start < lowestStart || s.End <= s.Start || s.End > highestEnd) {
			t.Errorf("took %+v", s)
		}
	})
}
