package oracle

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// seals keeps the guest's Seal twice: as a variable and in a page of its own,
// so that one of them being stale shows.
type seals struct {
	mu    sync.Mutex
	seal  Seal          // guarded by mu
	last  lastOp        // guarded by mu
	page  []byte        // guarded by mu; the copy
	found Findings      // guarded by mu; kept for good
	wall  time.Duration // guarded by mu; the wall clock against the monotonic one at the last tick
}

// lastOp is the write that the chain ends in.
type lastOp struct {
	magic, index uint64
}

// sealWords is how many words the copy has.
const sealWords = 10

func newSeals(incarnation uint64, page []byte) *seals {
	s := &seals{page: page[:PageSize]}
	s.seal.Incarnation = incarnation
	s.copyOut()
	return s
}

func (s *seals) words() [sealWords]uint64 {
	v := &s.seal
	return [sealWords]uint64{v.Incarnation, v.Answers, v.Ticks, v.TickChain, v.Pages, v.Blocks, v.Chain,
		uint64(v.Mono), s.last.magic, s.last.index}
}

// copyOut brings the page up to the variable.
func (s *seals) copyOut() {
	for i, w := range s.words() {
		binary.LittleEndian.PutUint64(s.page[8*i:], w)
	}
}

// compare holds the two copies against each other. It comes before every
// change, which would make them equal again.
func (s *seals) compare() {
	for i, want := range s.words() {
		if got := binary.LittleEndian.Uint64(s.page[8*i:]); got != want {
			s.differ(i, want, got)
		}
	}
}

// differ keeps the finding that word i of the copies is not the same.
func (s *seals) differ(i int, want, got uint64) {
	names := [sealWords]string{"incarnation", "answers", "ticks", "tick chain", "page writes", "block writes",
		"chain", "clock", "kind of the last write", "index of the last write"}
	kind := StaleSeal
	if i == 2 || i == 3 {
		kind = ReplayedTick
	}
	s.found.Add(Finding{Kind: kind, Index: uint64(i), Want: want, Got: got, Detail: "the two copies differ in " + names[i]})
}

// verify adds what was found so far and returns the seal.
func (s *seals) verify(fs *Findings) Seal {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compare()
	s.copyOut()
	fs.merge(s.found)
	return s.seal
}

// write notes one write and returns its number and the chain after it.
func (s *seals) write(magic, index, version uint64) (number, chain uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compare()
	if magic == pageMagic {
		s.seal.Pages++
	} else {
		s.seal.Blocks++
	}
	number = s.seal.Pages + s.seal.Blocks
	s.seal.Chain = mix(s.seal.Chain, mix(number, index, version), s.seal.TickChain^magic)
	s.last = lastOp{magic, index}
	s.copyOut()
	return number, s.seal.Chain
}

// tick notes one tick at the guest's two clocks.
func (s *seals) tick(mono, wall time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compare()
	first := s.seal.Ticks == 0
	if mono < s.seal.Mono {
		s.found.Add(Finding{Kind: ClockBack, Index: s.seal.Ticks, Want: uint64(s.seal.Mono), Got: uint64(mono),
			Detail: fmt.Sprintf("the monotonic clock went back by %v", s.seal.Mono-mono)})
	}
	offset := wall - mono
	if step := (offset - s.wall).Abs(); !first && step > MaxClockStep {
		s.found.Add(Finding{Kind: ClockJump, Index: s.seal.Ticks, Want: uint64(s.wall), Got: uint64(offset),
			Detail: fmt.Sprintf("the wall clock moved by %v against the monotonic clock", offset-s.wall)})
	}
	s.wall = offset
	s.seal.Ticks++
	s.seal.Mono = max(s.seal.Mono, mono)
	s.seal.TickChain = mix(s.seal.TickChain, s.seal.Ticks, uint64(mono))
	s.copyOut()
}

// answer counts one answer and returns the seal to be told.
func (s *seals) answer() Seal {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compare()
	s.seal.Answers++
	s.copyOut()
	return s.seal
}

// now returns the seal and counts nothing.
func (s *seals) now() Seal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seal
}

// add keeps a finding until verify reports it, and for good.
func (s *seals) add(f Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found.Add(f)
}

func (s *seals) lastWrite() (lastOp, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.seal.Chain
}

// any says whether there is a finding.
func (s *seals) any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found.Total() > 0
}
