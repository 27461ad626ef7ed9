package sys

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

// ownArea is memory of our own that is watched and never touched.
func ownArea(b *testing.B, size int, mode RegisterMode, want Features) (*UserFault, []byte) {
	b.Helper()
	need.UFFD(b)
	f, err := Memfd("bench", int64(size), false)
	if err != nil {
		b.Fatal(err)
	}
	m, err := MapShared(f, 0, int64(size), true)
	if err != nil {
		b.Fatal(err)
	}
	u, err := NewUserFault(false)
	if err == nil {
		_, err = u.API(want)
	}
	if err == nil {
		err = u.Register(addressOf(m.Bytes()), uint64(size), mode)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = u.Close(); _ = m.Close(); _ = f.Close() }) // nothing is lost with them
	return u, m.Bytes()
}

// BenchmarkT1Copy places pages in an empty file, from one run of memory.
func BenchmarkT1Copy(b *testing.B) {
	const size = 64 << 20
	for _, run := range []int{4 << 10, 64 << 10, 2 << 20} {
		b.Run(fmt.Sprintf("%dKiB", run>>10), func(b *testing.B) {
			u, mem := ownArea(b, size, Missing, FeatureMissingShmem)
			src := make([]byte, run)
			for i := range src {
				src[i] = byte(i) | 1
			}
			b.SetBytes(int64(run))
			b.ReportAllocs()
			at := 0
			for b.Loop() {
				if at == size {
					b.StopTimer()
					if err := unix.Madvise(mem, unix.MADV_REMOVE); err != nil {
						b.Fatal(err)
					}
					at = 0
					b.StartTimer()
				}
				if n, err := u.Copy(addressOf(mem)+uint64(at), src, true); n != run || err != nil {
					b.Fatal(n, err)
				}
				at += run
			}
		})
	}
}

// BenchmarkT1Scan harvests 1 GiB: nothing written, each 64th page written, all written.
func BenchmarkT1Scan(b *testing.B) {
	const size = 1 << 30
	for _, step := range []int{0, 64, 1} {
		b.Run(map[int]string{0: "none", 64: "1in64", 1: "all"}[step], func(b *testing.B) {
			_, mem := ownArea(b, size, WriteProtect, asyncFeatures)
			p, err := OpenPagemap(unix.Getpid())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = p.Close() }() // only read
			out := make([]PageRegion, size>>12)
			start := addressOf(mem)
			harvest := func() (pages uint64) {
				n, end, err := p.Scan(start, start+size, WrittenPages(), out)
				if errors.Is(err, unix.ENOTTY) {
					b.Skip("the kernel lacks PAGEMAP_SCAN; remedy: boot 6.7 or newer")
				}
				if err != nil || end != start+size {
					b.Fatal(end, err)
				}
				for _, r := range out[:n] {
					pages += (r.End - r.Start) >> 12
				}
				return pages
			}
			for i := 0; i < size; i += 4096 {
				mem[i] = 1 // asynchronous protection lets the writer go on
			}
			harvest()
			want := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				if step > 0 {
					b.StopTimer()
					want = 0
					for i := 0; i < size; i += 4096 * step {
						mem[i]++
						want++
					}
					b.StartTimer()
				}
				if got := harvest(); got != want {
					b.Fatalf("%d pages, want %d", got, want)
				}
			}
		})
	}
}

// BenchmarkT1Inject creates a userfaultfd in a sleeping process, fetches it and closes it again.
func BenchmarkT1Inject(b *testing.B) {
	need.UFFD(b)
	pid := sleepingProcess(b)
	for b.Loop() {
		u, n, err := InjectUserFault(b.Context(), pid)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(u.Close(), InjectClose(b.Context(), pid, n)); err != nil {
			b.Fatal(err)
		}
	}
}
