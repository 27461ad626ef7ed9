package disks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/time/rate"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// stage lets one of those who wait on it go on at a time, chosen by its seed, when nothing else moves.
type stage struct {
	mu     sync.Mutex
	parked []chan struct{}
	rng    *rand.Rand
}

// step waits for its turn.
func (s *stage) step() {
	turn := make(chan struct{})
	s.mu.Lock()
	s.parked = append(s.parked, turn)
	s.mu.Unlock()
	<-turn
}

// run gives turns until done is closed.
func (s *stage) run(done <-chan struct{}) {
	for {
		synctest.Wait()
		select {
		case <-done:
			return
		default:
		}
		s.mu.Lock()
		i := s.rng.IntN(len(s.parked))
		turn := s.parked[i]
		s.parked = append(s.parked[:i], s.parked[i+1:]...)
		s.mu.Unlock()
		close(turn)
	}
}

// n is a random number below most.
func (s *stage) n(most int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(most)
}

// sector is what guests write in the model.
const sector = 512

// platter is a disk in memory. Reads and writes are in halves, between which others have their turn.
type platter struct {
	s    *stage
	mu   sync.Mutex
	p    []byte
	full func() bool // says that there is no room for a write; may be nil
}

func (i *platter) read(p []byte, off int64) {
	half := len(p) / 2 / sector * sector
	for _, part := range []span{{0, int64(half)}, {int64(half), int64(len(p))}} {
		i.s.step()
		i.mu.Lock()
		copy(p[part.lo:part.hi], i.p[off+part.lo:])
		i.mu.Unlock()
	}
}

func (i *platter) set(p []byte, off int64) error {
	if i.full != nil && i.full() {
		return syscall.ENOSPC
	}
	half := len(p) / 2 / sector * sector
	for _, part := range []span{{0, int64(half)}, {int64(half), int64(len(p))}} {
		i.s.step()
		i.mu.Lock()
		copy(i.p[off+part.lo:], p[part.lo:part.hi])
		i.mu.Unlock()
	}
	return nil
}

// holes are the sectors that hold only zeros.
func (i *platter) holes(p []byte, off int64) (out []ram.Extent) {
	for lo := 0; lo < len(p); lo += sector {
		part := p[lo:min(lo+sector, len(p))]
		if allZero(part) {
			out = append(out, ram.Extent{Offset: off + int64(lo), Length: int64(len(part))})
		}
	}
	return out
}

func (i *platter) ReadSparse(_ context.Context, p []byte, off int64) ([]ram.Extent, error) {
	i.read(p, off)
	return i.holes(p, off), nil
}

func (i *platter) ReadData(ctx context.Context, p []byte, off int64) ([]ram.Extent, error) {
	return i.ReadSparse(ctx, p, off)
}

func (i *platter) Extents(_ context.Context, off, length int64) (out []nbd.Status, err error) {
	p := make([]byte, length)
	i.read(p, off)
	for lo := int64(0); lo < length; lo += sector {
		s := nbd.Status{Length: min(sector, length-lo)}
		if allZero(p[lo : lo+s.Length]) {
			s.Flags = nbd.StatusHole | nbd.StatusZero
		}
		out = append(out, s)
	}
	return out, nil
}

func (i *platter) write(_ context.Context, p []byte, off int64) error { return i.set(p, off) }
func (i *platter) zero(_ context.Context, off, length int64) error {
	return i.set(make([]byte, length), off)
}
func (i *platter) flush(context.Context) error { return nil }
func (i *platter) close(context.Context) error { return nil }

// mirror is QEMU's: it sends what the guest has written, as it is when it is sent, no two requests at the same place at once.
type mirror struct {
	s           *stage
	from        *platter
	to          *mirrored
	anyhow      bool // past the rule that what is newer wins
	mu          sync.Mutex
	dirty, busy spans
}

func (m *mirror) wrote(lo, hi int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirty.add(lo, hi)
}

// next takes something to send.
func (m *mirror) next() (r span, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.dirty {
		_ = m.busy.gaps(d.lo, min(d.hi, d.lo+8*sector), func(lo, hi int64) error {
			if !ok {
				r, ok = span{lo, hi}, true
			}
			return nil
		})
	}
	if ok {
		m.dirty.remove(r.lo, r.hi)
		m.busy.add(r.lo, r.hi)
	}
	return r, ok
}

func (m *mirror) send(ctx context.Context) (err error) {
	r, ok := m.next()
	if !ok {
		return nil
	}
	p := make([]byte, r.hi-r.lo)
	m.from.read(p, r.lo)
	switch {
	case m.anyhow:
		err = m.to.to.write(ctx, p, r.lo)
	case allZero(p):
		err = m.to.WriteZeroes(ctx, r.lo, r.hi-r.lo, true)
	default:
		_, err = m.to.WriteAtContext(ctx, p, r.lo)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy.remove(r.lo, r.hi)
	if err != nil {
		m.dirty.add(r.lo, r.hi)
	}
	return err
}

func (m *mirror) clean() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.dirty) == 0 && len(m.busy) == 0
}

// play is one migration of a disk of the model: the guest writes, its QEMU mirrors, the rest is fetched, all at once in the
// order that the seed gives. It tells whether both images are the same in the end.
func play(t *testing.T, seed uint64, rule bool) (same bool) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{rng: rand.New(rand.NewPCG(seed, 1))}
		const size = 3*unitSize - 5*sector
		src, dst := &platter{s: s, p: make([]byte, size)}, &platter{s: s, p: make([]byte, size)}
		m := &mirrored{DestDisk: agent.DestDisk{Target: "vda", Size: size, Reuse: s.n(2) == 0}, to: dst, spoil: func(context.Context, string) error { return nil }}
		m.mayHold = m.Reuse
		scribble(s, src.p)
		if m.Reuse {
			copy(dst.p, src.p)
			scribble(s, dst.p)
		}
		tight := s.n(3) == 0
		dst.full = func() bool { return tight && s.n(8) == 0 }
		q := &mirror{s: s, from: src, to: m, anyhow: !rule}
		done, written := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { defer close(written); guest(s, src, q) })
		for range 2 {
			wg.Go(func() {
				for {
					if err := q.send(t.Context()); err != nil && !errors.Is(err, storage.ErrNoRoom) && !errors.Is(err, syscall.ENOSPC) {
						t.Error(err)
					}
					s.step()
					select {
					case <-written:
						if q.clean() {
							return
						}
					default:
					}
				}
			})
		}
		wg.Go(func() {
			f := &fetch{m: m, live: src, sums: newSums(src, size), limit: rate.NewLimiter(rate.Inf, pieceSize), hands: 4}
			for {
				err := f.run(t.Context())
				if err == nil {
					return
				}
				if !errors.Is(err, storage.ErrNoRoom) {
					t.Error(err)
					return
				}
			}
		})
		go func() { wg.Wait(); close(done) }()
		s.run(done)
		if err := m.settle(t.Context()); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if _, err := m.WriteAt(make([]byte, sector), 0); !errors.Is(err, syscall.ESHUTDOWN) {
			t.Errorf("written after it was handed over: %v", err)
		}
		if p := m.progress(); p.Remaining != 0 || !m.Reuse && p.Reused > 0 {
			t.Errorf("seed %d: %+v", seed, p)
		}
		same = bytes.Equal(src.p, dst.p)
	})
	return same
}

// scribble changes some of a disk.
func scribble(s *stage, p []byte) {
	for range s.n(8) {
		at := s.n(len(p)/sector) * sector
		fill(p[at:min(len(p), at+(1+s.n(20))*sector)], byte(s.n(4)))
	}
}

func fill(p []byte, b byte) {
	for i := range p {
		p[i] = b
	}
}

// guest writes.
func guest(s *stage, disk *platter, q *mirror) {
	for range 12 {
		at := s.n(len(disk.p)/sector) * sector
		p := make([]byte, min((1+s.n(6))*sector, len(disk.p)-at))
		fill(p, byte(s.n(250)))
		_ = disk.set(p, int64(at)) // it is never full
		q.wrote(int64(at), int64(at+len(p)))
	}
}

// TestNewerWins: whatever the order, the images are the same in the end. Without the rule they are not.
func TestNewerWins(t *testing.T) {
	seeds := uint64(120)
	if testing.Short() {
		seeds = 30
	}
	begin := rand.Uint64()
	bad := 0
	for i := range seeds {
		if !play(t, begin+i, true) {
			t.Fatalf("seed %d: the images differ", begin+i)
		}
		if !play(t, begin+i, false) {
			bad++
		}
	}
	t.Logf("%d seeds from %d, without the rule %d of them end badly", seeds, begin, bad)
	if bad == 0 {
		t.Error("without the rule it goes well, too: the test tests nothing")
	}
}

// Sets of bytes are as a map of bytes is.
func TestSpans(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var s spans
		var model [64]bool
		for range 12 {
			lo, hi := rng.IntN(64), rng.IntN(65)
			in := rng.IntN(2) == 0
			if in {
				s.add(int64(lo), int64(hi))
			} else {
				s.remove(int64(lo), int64(hi))
			}
			for i := lo; i < hi; i++ {
				model[i] = in
			}
		}
		checkSpans(t, s, model[:], rng.IntN(32), 32+rng.IntN(33))
	}
}

func checkSpans(t *testing.T, s spans, model []bool, lo, hi int) {
	t.Helper()
	var got [64]bool
	for i, r := range s {
		if r.lo >= r.hi || i > 0 && s[i-1].hi >= r.lo {
			t.Fatalf("%v: not in order", s)
		}
		for at := r.lo; at < r.hi; at++ {
			got[at] = true
		}
	}
	if !bytes.Equal(fmt.Append(nil, got[:]), fmt.Append(nil, model)) {
		t.Fatalf("%v is not %v", s, model)
	}
	var gaps [64]bool
	_ = s.gaps(int64(lo), int64(hi), func(a, b int64) error {
		for ; a < b; a++ {
			gaps[a] = true
		}
		return nil
	})
	for i := range gaps {
		if want := i >= lo && i < hi && !model[i]; gaps[i] != want {
			t.Fatalf("%v: gap at %d of [%d, %d): %t", s, i, lo, hi, gaps[i])
		}
	}
}
