package postcopy_test

import (
	"sync"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/postcopy"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/fault/faulttest"
)

// shifting is a source whose process changes its layout at the worst time: while a call looks for the mapping. That call
// says so by ENOENT, or EINVAL where it unregisters what is unmapped; those that place say EAGAIN from then on until the
// event is read.
type shifting struct {
	*faulttest.Memory
	t          *testing.T
	at         string // the call that it comes in the middle of
	lo, hi, to uint64 // what is unmapped, or moved where to is not 0
	mu         sync.Mutex
	state      int
}

const (
	mapped = iota
	unread
	shifted
)

// meet is the kernel's look at a range of addresses.
func (s *shifting) meet(op string, lo, length uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	touched := lo < s.hi && lo+length > s.lo
	switch {
	case s.state == mapped && op == s.at && touched:
		s.state = unread
		if err := s.Interrupt(); err != nil {
			s.t.Error(err)
		}
		switch {
		case op != "unregister":
			return syscall.ENOENT
		case s.to == 0:
			return syscall.EINVAL
		}
		return nil // the rest of the mapping was there
	case op == "unregister":
	case s.state == unread:
		return syscall.EAGAIN
	case s.state == shifted && touched:
		if op == "copy" {
			s.t.Errorf("%d bytes are placed at %#x, where nothing is mapped any more", length, lo)
		}
		return syscall.ENOENT
	}
	return nil
}

func (s *shifting) Read(events []fault.Event) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != unread {
		return s.Memory.Read(events)
	}
	s.state = shifted
	if s.to == 0 {
		events[0] = fault.Event{Kind: sys.EventUnmap, Start: s.lo, End: s.hi}
		return 1, nil
	}
	events[0] = fault.Event{Kind: sys.EventRemap, From: s.lo, To: s.to, Length: s.hi - s.lo}
	events[1] = fault.Event{Kind: sys.EventUnmap, Start: s.lo, End: s.hi}
	return 2, nil
}

func (s *shifting) Copy(dst uint64, src []byte) (int, error) {
	if err := s.meet("copy", dst, uint64(len(src))); err != nil {
		return 0, err
	}
	return s.Memory.Copy(dst, src)
}

func (s *shifting) ZeroPage(start, length uint64) (int, error) {
	if err := s.meet("zero", start, length); err != nil {
		return 0, err
	}
	return s.Memory.ZeroPage(start, length)
}

func (s *shifting) Unregister(start, length uint64) error {
	if err := s.meet("unregister", start, length); err != nil {
		return err
	}
	return s.Memory.Unregister(start, length)
}

// A page that is under way while its place is unmapped is dropped, and one whose place is moved comes to the new one,
// although the kernel tells of neither before it refuses the page.
func TestLayoutChangesWhilePlacing(t *testing.T) {
	const lo, hi, moved = 20, 29, uint64(1) << 40
	for _, at := range []string{"copy", "unregister"} {
		for _, to := range []uint64{0, moved} {
			g := newGuest(t, 64)
			g.Memory = faulttest.New(page, false, fault.Range{Start: g.addrs[0], Length: 64 * page}, fault.Range{Start: moved, Length: (hi - lo) * page})
			s := &shifting{Memory: g.Memory, t: t, at: at, lo: g.addr(0, lo), hi: g.addr(0, hi), to: to}
			cfg := g.config()
			cfg.Faults = s
			p := g.pager(cfg)
			if err := p.Run(t.Context()); err != nil {
				t.Fatalf("%s, to %#x: %v", at, to, err)
			}
			if s.state != shifted {
				t.Errorf("%s, to %#x: the event was not read", at, to)
			}
			checkShifted(t, g, s, p)
		}
	}
}

// checkShifted verifies where the pages are in the end.
func checkShifted(t *testing.T, g *guest, s *shifting, p *postcopy.Pager) {
	t.Helper()
	for n := range g.blocks[0].Pages() {
		addr := g.addr(0, n)
		if s.at == "copy" && addr >= s.lo && addr < s.hi {
			if s.to == 0 {
				continue
			}
			addr += s.to - s.lo
		}
		if got := g.Page(addr); got != nil && string(got) != string(want(0, n)) || got == nil && !zero(0, n) {
			t.Errorf("%s, to %#x: page %d holds %x", s.at, s.to, n, got)
		}
	}
	if dropped := p.Stats().Discarded; (dropped > 0) != (s.at == "copy" && s.to == 0) {
		t.Errorf("%s, to %#x: %d pages dropped", s.at, s.to, dropped)
	}
	if s.to != 0 && g.Watched() {
		t.Errorf("%s: what was moved is watched still", s.at)
	}
}

// divided is memory in two mappings; the kernel places nothing into both at once.
type divided struct {
	*faulttest.Memory
	edge uint64
}

func (d divided) Copy(dst uint64, src []byte) (int, error) {
	if dst < d.edge && dst+uint64(len(src)) > d.edge {
		return 0, syscall.ENOENT
	}
	return d.Memory.Copy(dst, src)
}

// A process may divide a mapping, with mprotect for one, without an event. It gets all pages.
func TestTwoMappings(t *testing.T) {
	for _, events := range []bool{true, false} {
		g := newGuest(t, 64)
		cfg := g.config()
		cfg.Events, cfg.Faults = events, divided{g.Memory, g.addr(0, 19)}
		if err := g.pager(cfg).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.checkWhole(g.Memory)
	}
}

// What stays ENOENT is an error, and no page is lost by it.
func TestNotWatched(t *testing.T) {
	g := newGuest(t, 64)
	g.Refuse(func(op string, addr uint64) error {
		if op == "copy" && addr == g.addr(0, 20) {
			return syscall.ENOENT
		}
		return nil
	})
	p := g.pager(g.config())
	if err := p.Run(t.Context()); err == nil {
		t.Fatal("the pager says that all is placed")
	}
	if !p.Missing()[0].Test(20) {
		t.Error("the page is lost")
	}
}
