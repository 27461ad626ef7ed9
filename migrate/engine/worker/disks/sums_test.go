package disks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// held is a disk in memory that leaves rubbish where it tells of holes.
type held []byte

func (h held) ReadSparse(_ context.Context, p []byte, off int64) (holes []ram.Extent, err error) {
	copy(p, h[off:])
	for lo := 0; lo < len(p); lo += 512 {
		part := p[lo:min(lo+512, len(p))]
		if !allZero(part) {
			continue
		}
		at := off + int64(lo)
		if n := len(holes); n > 0 && holes[n-1].End() == at {
			holes[n-1].Length += int64(len(part))
		} else {
			holes = append(holes, ram.Extent{Offset: at, Length: int64(len(part))})
		}
		fill(part, 0xee)
	}
	return holes, nil
}

// patchy is a disk of which whole units, parts of units and ends are zero.
func patchy(seed uint64, size int) held {
	rng := rand.New(rand.NewPCG(seed, 3))
	p := make(held, size)
	for range rng.IntN(12) {
		at := rng.IntN(size)
		fill(p[at:min(size, at+rng.IntN(3*unitSize))], byte(1+rng.IntN(255)))
	}
	for range rng.IntN(6) {
		at := rng.IntN(size)
		fill(p[at:min(size, at+rng.IntN(2*unitSize))], 0)
	}
	return p
}

// plainSums are the checksums as they are defined.
func plainSums(p []byte) (out []byte) {
	for lo := 0; lo < len(p); lo += unitSize {
		unit := p[lo:min(lo+unitSize, len(p))]
		sum := sha256.Sum256(unit)
		if allZero(unit) {
			clear(sum[:])
		}
		out = append(out, sum[:sumSize]...)
	}
	return out
}

func checkSums(t *testing.T, disk held, off, n int64) {
	t.Helper()
	s, want := newSums(disk, int64(len(disk))), plainSums(disk)
	if size, err := s.Size(); err != nil || size != int64(len(want)) {
		t.Fatalf("%d bytes of checksums, %v, want %d", size, err, len(want))
	}
	p := make([]byte, n)
	holes, err := s.ReadSparse(t.Context(), p, off)
	if err != nil || !bytes.Equal(p, want[off:off+n]) {
		t.Fatalf("checksums of %d bytes, %d at %d: %v\n%x, want\n%x", len(disk), n, off, err, p, want[off:off+n])
	}
	at := off
	for _, h := range holes {
		if h.Offset < at || h.Length <= 0 || h.End() > off+n || !allZero(want[h.Offset:h.End()]) {
			t.Fatalf("hole %v of %d at %d", h, n, off)
		}
		at = h.End()
	}
}

func TestSums(t *testing.T) {
	for seed := range uint64(16) {
		disk := patchy(seed, 1+int(seed)*77_777)
		size := sumsSize(int64(len(disk)))
		checkSums(t, disk, 0, size)
		checkSums(t, disk, size/3, size-size/3)
	}
}

// Checksums are read by a peer: from anywhere, as much as it likes.
func FuzzSums(f *testing.F) {
	f.Add(uint64(1), 3*unitSize+5, int64(3), int64(17))
	f.Add(uint64(7), 40*unitSize, int64(0), int64(640))
	f.Fuzz(func(t *testing.T, seed uint64, size int, off, n int64) {
		if size < 1 || size > 64*unitSize || n < 0 || n > 4096 {
			return
		}
		disk := patchy(seed, size)
		if off >= 0 && off <= sumsSize(int64(size))-n {
			checkSums(t, disk, off, n)
			return
		}
		if _, err := newSums(disk, int64(size)).ReadSparse(t.Context(), make([]byte, n), off); err == nil {
			t.Fatalf("%d bytes at %d of %d units", n, off, unitsOf(int64(size)))
		}
	})
}

// broken is a disk that cannot be read.
type broken struct{}

func (broken) ReadSparse(context.Context, []byte, int64) ([]ram.Extent, error) {
	return nil, errors.New("bad sector")
}

func TestSumsOfABadDisk(t *testing.T) {
	s := newSums(broken{}, unitSize)
	if _, err := s.ReadAt(make([]byte, sumSize), 0); err == nil {
		t.Error("what cannot be read has a checksum")
	}
	if _, err := s.WriteAt(make([]byte, sumSize), 0); err == nil {
		t.Error("checksums are written")
	}
}

func BenchmarkSums(b *testing.B) {
	disk := make(held, 64<<20)
	fill(disk, 7)
	p := make([]byte, sumsSize(int64(len(disk))))
	b.SetBytes(int64(len(disk)))
	for b.Loop() {
		if _, err := newSums(whole(disk), int64(len(disk))).ReadSparse(b.Context(), p, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// whole is a disk in memory that knows no holes.
type whole []byte

func (w whole) ReadSparse(_ context.Context, p []byte, off int64) ([]ram.Extent, error) {
	copy(p, w[off:])
	return nil, nil
}
