package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate/engine/worker/kept"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// reuseOf is a source, a copy of its RAM and a destination that reuses it.
type reuseOf struct {
	*reuser
	source, dest *memory
	sums         *sumsDevice
	fetched      atomic.Int64 // bytes
	asks         atomic.Int64 // fingerprints
	fails        error
	dir          string // of the copy
	limit        *rate.Limiter
}

const copied = "0b1f5f1e-9d2c-4c86-a6a5-1d2f3a4b5c6d"

// memoryOf is RAM in two blocks of so many pages, in files.
func memoryOf(t testing.TB, pages int, pageSize int64, fill func(page int, p []byte)) *memory {
	t.Helper()
	m := &memory{}
	p := make([]byte, pageSize)
	for i, name := range []string{"a", "b"} {
		f, err := os.Create(filepath.Join(t.TempDir(), name))
		if err == nil {
			err = f.Truncate(int64(pages) * pageSize)
		}
		for page := range pages {
			if clear(p); fill != nil {
				fill(i*pages+page, p)
			}
			if err == nil && !bytes.Equal(p, make([]byte, pageSize)) {
				_, err = f.WriteAt(p, int64(page)*pageSize)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		m.parts = append(m.parts, part{Block: ram.Block{Name: name, Size: int64(pages) * pageSize, PageSize: pageSize}, index: i, start: m.size, file: f})
		m.size += int64(pages) * pageSize
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// newReuse keeps a copy of old, and lets a destination fetch now.
func newReuse(t testing.TB, pages int, pageSize int64, old, now func(page int, p []byte)) *reuseOf {
	t.Helper()
	s := kept.Store{Dir: filepath.Join(t.TempDir(), "kept")}
	var parts []kept.Part
	for _, p := range memoryOf(t, pages, pageSize, old).parts {
		parts = append(parts, kept.Part{Block: p.Block, File: p.file})
	}
	if _, err := s.Keep(t.Context(), kept.Guest{UUID: copied}, parts, nil); err != nil {
		t.Fatal(err)
	}
	c, err := s.Find(copied)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r := &reuseOf{source: memoryOf(t, pages, pageSize, now), dest: memoryOf(t, pages, pageSize, nil), dir: s.Dir, limit: newLimiter(0)}
	sum, err := newSummer("secret")
	if err != nil {
		t.Fatal(err)
	}
	r.sums = newSumsDevice(device{m: r.source}, sum)
	r.reuser = &reuser{m: r.dest, copy: c, summer: sum, empty: sum.zeroSums(r.dest.blocks()), asked: ram.NewSet(r.dest.blocks()),
		warn: func(msg string, args ...any) { t.Log(append([]any{msg}, args...)...) }, sums: r.askSums}
	for _, b := range r.dest.blocks() {
		r.pages = append(r.pages, c.Block(b))
	}
	return r
}

func (r *reuseOf) askSums(ctx context.Context, p []byte, off int64) error {
	r.asks.Add(int64(len(p) / sumSize))
	if r.fails != nil {
		return r.fails
	}
	_, err := r.sums.ReadAtContext(ctx, p, off)
	return err
}

func (r *reuseOf) ReadSparse(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	return r.read(ctx, p, off, route{r.limit, func(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
		r.fetched.Add(int64(len(p)))
		return device{m: r.source}.ReadSparse(ctx, p, off)
	}})
}

// moved fetches all pages that are no holes at the source, and looks at every one.
func (r *reuseOf) moved(t *testing.T) {
	t.Helper()
	piece := max(pieceSize, r.dest.parts[0].PageSize)
	in := &intake{m: r.dest, from: r, bufs: newBuffers(int(piece)), count: &counters{}, present: ram.NewSet(r.dest.blocks()), stale: ram.NewSet(r.dest.blocks())}
	holes, err := r.source.holes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := ram.NewSet(r.dest.blocks())
	all.Fill()
	all.AndNot(holes)
	if err := in.fetch(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	r.equal(t)
}

func (r *reuseOf) equal(t *testing.T) {
	t.Helper()
	for i := range r.dest.parts {
		size := r.dest.parts[i].Size
		want, got := make([]byte, size), make([]byte, size)
		_, err := r.source.parts[i].file.ReadAt(want, 0)
		_, err2 := r.dest.parts[i].file.ReadAt(got, 0)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(want); at += 4096 {
			if !bytes.Equal(want[at:at+4096], got[at:at+4096]) {
				t.Fatalf("block %d differs at %d: %x, want %x", i, at, got[at:at+8], want[at:at+8])
			}
		}
	}
}

// patterned gives a page contents of its own that change with the version.
func patterned(version func(page int) int) func(page int, p []byte) {
	return func(page int, p []byte) {
		v := version(page)
		if v == 0 {
			return
		}
		r := rand.New(rand.NewPCG(uint64(page), uint64(v)))
		for i := 0; i < len(p); i += 64 {
			p[i] = byte(r.Uint32())
		}
		copy(p, fmt.Sprint(page, v))
	}
}

// Pages that are the same do not come over the link, whatever their neighbours are; all others do, and all are right.
func TestReuseFetchesWhatDiffers(t *testing.T) {
	same := func(page int) int { return 1 + page%2 }
	for name, c := range map[string]struct {
		pages    int
		pageSize int64
		old, now func(page int) int
		fetched  func(page int) bool
	}{
		"all":      {700, 4096, same, same, func(int) bool { return false }},
		"none":     {700, 4096, same, func(page int) int { return same(page) + 2 }, func(int) bool { return true }},
		"one of 7": {700, 4096, same, func(page int) int { return same(page) + (page%7)/6 }, func(page int) bool { return page%7 == 6 }},
		"zeros":    {700, 4096, same, func(page int) int { return same(page) * (page % 3) }, func(page int) bool { return page%3 == 2 }},
		"was zero": {700, 4096, func(page int) int { return same(page) * min(1, page%3) }, same, func(page int) bool { return page%3 == 0 }},
		"huge":     {5, 2 << 20, same, func(page int) int { return same(page) + page/7 }, func(page int) bool { return page >= 7 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReuse(t, c.pages, c.pageSize, patterned(c.old), patterned(c.now))
			r.moved(t)
			want, same := int64(0), int64(0)
			for page := range 2 * c.pages {
				switch {
				case c.now(page) == 0:
				case c.fetched(page):
					want += c.pageSize
				default:
					same++
				}
			}
			if got := r.fetched.Load(); got != want {
				t.Errorf("%d bytes came over the link, want %d", got, want)
			}
			if got := r.reused.Load(); got != same {
				t.Errorf("%d pages were reused, want %d", got, same)
			}
		})
	}
}

// A copy of which each page was damaged, or that was cut short or emptied while it is open, costs bytes and no page.
func TestReuseOfADamagedCopy(t *testing.T) {
	const pages = 700
	same := patterned(func(int) int { return 1 })
	for name, damage := range map[string]func(f *os.File, page int64) error{
		"a bit of each page": func(f *os.File, page int64) error {
			b := make([]byte, 1)
			at := page*4096 + page%4096
			if _, err := f.ReadAt(b, at); err != nil {
				return err
			}
			b[0] ^= 1 << (page % 8)
			_, err := f.WriteAt(b, at)
			return err
		},
		"another page instead": func(f *os.File, page int64) error {
			p := make([]byte, 4096)
			same(int(page+1), p)
			_, err := f.WriteAt(p, page*4096)
			return err
		},
		"cut short": func(f *os.File, page int64) error { return f.Truncate(pages * 4096 / 2) },
		"emptied":   func(f *os.File, page int64) error { return f.Truncate(0) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newReuse(t, pages, 4096, same, same)
			files, err := filepath.Glob(filepath.Join(r.dir, copied, "*.ram"))
			if err != nil || len(files) != 2 {
				t.Fatal(files, err)
			}
			for _, path := range files {
				f, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				for page := range int64(pages) {
					if err := damage(f, page); err != nil {
						t.Fatal(err)
					}
				}
			}
			r.moved(t)
			if got := r.fetched.Load(); got < pages*4096 {
				t.Errorf("%d bytes came over the link", got)
			}
			if got := r.reused.Load(); name != "cut short" && got != 0 {
				t.Errorf("%d pages were reused", got)
			}
		})
	}
}

// A page that is wanted again was written since: it is fetched, and no fingerprint is asked for. One whose fetch failed is asked
// about again.
func TestReuseAsksOnce(t *testing.T) {
	const pages = 300
	same := patterned(func(int) int { return 1 })
	r := newReuse(t, pages, 4096, same, same)
	gone := errors.New("gone")
	r.fails = fmt.Errorf("%w: %w", nbd.ErrLinkLost, gone)
	p := make([]byte, 64*4096)
	if _, err := r.ReadSparse(t.Context(), p, 0); !errors.Is(err, gone) {
		t.Fatal(err)
	}
	r.fails = nil
	if _, err := r.ReadSparse(t.Context(), p, 0); err != nil || r.reused.Load() != 64 {
		t.Fatalf("after a failure %d pages were reused, %v", r.reused.Load(), err)
	}
	r.moved(t)
	if asked := r.asks.Load(); asked != 2*pages+128 || r.fetched.Load() != 0 {
		t.Errorf("%d fingerprints were asked for, %d bytes fetched", asked, r.fetched.Load())
	}
	r.moved(t)
	if asked := r.asks.Load(); asked != 2*pages+128 || r.fetched.Load() != 2*pages*4096 {
		t.Errorf("%d fingerprints were asked for, %d bytes fetched", asked, r.fetched.Load())
	}
}

// A source that gives no fingerprints is fetched from as ever.
func TestReuseWithoutFingerprints(t *testing.T) {
	const pages = 300
	same := patterned(func(int) int { return 1 })
	r := newReuse(t, pages, 4096, same, same)
	r.fails = errors.New("no such export")
	r.moved(t)
	if r.fetched.Load() != 2*pages*4096 || !r.broken.Load() {
		t.Errorf("%d bytes fetched", r.fetched.Load())
	}
}

// Only what crosses the link counts against a cap on it.
func TestReuseIsNotHeldBack(t *testing.T) {
	const pages = 300
	same := patterned(func(int) int { return 1 })
	r := newReuse(t, pages, 4096, same, same)
	r.limit = rate.NewLimiter(0, 2*pages*sumSize) // for the fingerprints, and not for a page
	r.moved(t)
	if got := r.limit.Tokens(); got != 0 {
		t.Errorf("%f bytes are left", got)
	}
}

// A page that is empty at the source is told of as a hole, and empty in the buffer, too, whatever that held.
func TestReuseReadsEmptyPages(t *testing.T) {
	r := newReuse(t, 64, 4096, patterned(func(int) int { return 1 }), patterned(func(page int) int { return page % 2 }))
	p := bytes.Repeat([]byte{0xee}, 64*4096)
	holes, err := r.ReadSparse(t.Context(), p, 0)
	if err != nil || len(holes) != 32 {
		t.Fatalf("%d holes, %v", len(holes), err)
	}
	want := make([]byte, len(p))
	if _, err := (device{m: r.source}).ReadAt(want, 0); err != nil || !bytes.Equal(p, want) {
		t.Error("other contents", err)
	}
	for i, h := range holes {
		if h != (ram.Extent{Offset: int64(i) * 8192, Length: 4096}) {
			t.Fatalf("hole %d is %+v", i, h)
		}
	}
}

// What the copy holds of a page that is a hole at the source does not come back.
func TestReuseIsOfNoUseForHoles(t *testing.T) {
	r := newReuse(t, 300, 4096, patterned(func(int) int { return 1 }), patterned(func(page int) int { return page % 2 }))
	r.moved(t)
	if got := r.reused.Load(); got != 300 {
		t.Errorf("%d pages were reused", got)
	}
}

// Each page has a fingerprint of its own, in the order of the pages, whatever is asked for at once; another secret gives others.
func TestFingerprints(t *testing.T) {
	m := memoryOf(t, 200, 4096, patterned(func(page int) int { return page % 5 }))
	sum, err := newSummer("secret")
	other, err2 := newSummer("Secret")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	d := newSumsDevice(device{m: m}, sum)
	size, err := d.Size()
	if err != nil || size != 400*sumSize {
		t.Fatal(size, err)
	}
	all := make([]byte, size)
	if n, err := d.ReadAt(all, 0); err != nil || n != len(all) {
		t.Fatal(n, err)
	}
	page, one, seen := make([]byte, 4096), make([]byte, sumSize), map[string]int{}
	for i := range 400 {
		if _, err := (device{m: m}).ReadAt(page, int64(i)*4096); err != nil {
			t.Fatal(err)
		}
		want := all[i*sumSize : (i+1)*sumSize]
		if sum.sum(one, page); !bytes.Equal(one, want) {
			t.Fatalf("page %d: %x, want %x", i, want, one)
		}
		if other.sum(one, page); bytes.Equal(one, want) {
			t.Errorf("page %d has the same with another secret", i)
		}
		if _, err := d.ReadAt(one, int64(i)*sumSize); err != nil || !bytes.Equal(one, want) {
			t.Errorf("page %d alone: %x, want %x (%v)", i, one, want, err)
		}
		if seen[string(want)]++; i%5 != 0 && seen[string(want)] > 1 {
			t.Errorf("page %d has the fingerprint of another", i)
		}
	}
	if n := seen[string(all[:sumSize])]; n != 80 {
		t.Errorf("%d empty pages have the same fingerprint, want 80", n)
	}
	for _, bad := range []int64{1, 8} {
		if _, err := d.ReadAt(one, bad); err == nil {
			t.Errorf("read at %d", bad)
		}
	}
}

// What a fingerprint costs, and what it is compared with: how fast a page is copied.
func BenchmarkFingerprint(b *testing.B) {
	sum, err := newSummer("secret")
	if err != nil {
		b.Fatal(err)
	}
	page, to := make([]byte, 4096), make([]byte, sumSize)
	patterned(func(int) int { return 1 })(1, page)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		sum.sum(to, page)
	}
}

// How fast RAM is brought in that is the same as in the copy, fingerprints of both ends and all but the link, and how fast without
// a copy: a link that is faster than the difference makes reuse slower than none.
func BenchmarkReuse(b *testing.B) {
	const pages = 16 << 10 // of each of two blocks
	same := patterned(func(int) int { return 1 })
	for name, reuse := range map[string]bool{"same": true, "fetched": false} {
		b.Run(name, func(b *testing.B) {
			r := newReuse(b, pages, 4096, same, same)
			r.broken.Store(!reuse)
			in := &intake{m: r.dest, from: r, bufs: newBuffers(pieceSize), count: &counters{}, present: ram.NewSet(r.dest.blocks()), stale: ram.NewSet(r.dest.blocks())}
			all := ram.NewSet(r.dest.blocks())
			all.Fill()
			b.SetBytes(2 * pages * 4096)
			for b.Loop() {
				r.asked.Reset()
				if err := in.fetch(b.Context(), all); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
