package postcopy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vmmigrate/vmmigrate/postcopy/fault"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

// space is one address space that is filled: the guest's process, or one that forked off from it.
type space struct {
	p    *Pager
	src  fault.Source
	root bool

	// lay guards the layout. Who places pages holds it for reading, from the look at the books to the note in them; who
	// reads events holds it for writing, the read included. So a page that was fetched before an event is never placed
	// after it: the kernel lets the process go on as soon as its event is read. Without events nobody takes it. Processes
	// that fork off have it in common: what one of them discards of shared memory, the others may not place.
	lay    *sync.RWMutex
	layout layout
	batch  []fault.Event // of who holds lay for writing

	books *books      // by Pager.mu
	zeros []zeroFault // by Pager.mu
	dead  bool        // by Pager.mu

	page     []byte      // of the reader
	quiet    *quiet      // of the reader; nil where it has to wake for each page
	handed   atomic.Bool // a worker has something to do
	stopping atomic.Bool
}

// zeroFault is a fault that zeros answer.
type zeroFault struct {
	addr   uint64
	block  int
	page   int
	since  time.Duration
	remote bool // it was waiting for the source when the page was discarded
}

const batchSize = 64

func newSpace(p *Pager, src fault.Source, l layout, b *books) *space {
	return &space{p: p, src: src, lay: new(sync.RWMutex), layout: l, books: b, batch: make([]fault.Event, batchSize)}
}

func (s *space) lockRead() {
	if s.p.cfg.Events {
		s.lay.RLock()
	}
}

func (s *space) unlockRead() {
	if s.p.cfg.Events {
		s.lay.RUnlock()
	}
}

// halt tells the reader to stop.
func (s *space) halt() error {
	s.stopping.Store(true)
	return s.src.Interrupt()
}

// abandon closes the descriptor of a process that forked off, when its reader has ended.
func (s *space) abandon() error {
	s.p.mu.Lock()
	left := s.books.left
	s.p.mu.Unlock()
	err := s.src.Close()
	if left > 0 {
		err = errors.Join(fmt.Errorf("a process that forked off loses %d pages", left), err)
	}
	return err
}

// unregister ends the watch of all that is mapped. When the layout changes meanwhile, it is done once more, by the layout
// that comes of it.
func (s *space) unregister(ctx context.Context) error {
	for try := 1; ; try++ {
		err := s.unregisterOnce()
		if !again(err) {
			return err
		}
		if err := s.calm(ctx, try); err != nil {
			return err
		}
	}
}

// unregisterOnce says EAGAIN when there was an event to be read: memory that was moved is watched still, elsewhere, and
// what was unmapped cannot be unregistered.
func (s *space) unregisterOnce() error {
	s.lockRead()
	defer s.unlockRead()
	for _, pc := range s.layout.pieces {
		err := s.src.Unregister(pc.start, pc.end-pc.start)
		if s.p.cfg.Events && errors.Is(err, syscall.EINVAL) {
			switch why := s.placeZeros(pc.start, basePage); {
			case again(why):
				return why
			case errors.Is(why, syscall.ENOENT): // it was unregistered before, and unmapped then without an event
				continue
			}
		}
		if err != nil {
			return s.placeError("unregister", pc.block, pc.start, err)
		}
	}
	if s.p.cfg.Events && len(s.layout.pieces) > 0 {
		if why := s.placeZeros(s.layout.pieces[0].start, basePage); again(why) {
			return why
		}
	}
	return nil
}

// wakeAll lets everybody who waits try again: their messages may have been read by a pager that is gone.
func (s *space) wakeAll() error {
	s.lockRead()
	pieces := slices.Clone(s.layout.pieces)
	s.unlockRead()
	for _, pc := range pieces {
		if err := s.src.Wake(pc.start, pc.end-pc.start); err != nil {
			return s.placeError("wake", pc.block, pc.start, err)
		}
	}
	return nil
}

// placeError explains a refusal. The kernel says ESRCH, and where it registers ENOMEM, when the process has ended.
func (s *space) placeError(op string, block int, addr uint64, err error) error {
	name := "-"
	if block != noBlock {
		name = s.p.cfg.Blocks[block].Name
	}
	if errors.Is(err, syscall.ESRCH) || (op == "unregister" && errors.Is(err, syscall.ENOMEM)) {
		err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	return &PlaceError{Op: op, Block: name, Addr: addr, Err: err}
}

// bury takes a process that forked off and ended out of the books. The caller holds Pager.mu.
func (s *space) bury() {
	s.dead = true
	s.books.tally.discarded += int64(s.books.left)
	s.books.left = 0
	s.books.missing.Reset()
	clear(s.books.waits)
	s.zeros = nil
	s.stopping.Store(true)
	_ = s.src.Interrupt() // the reader has nothing to read any more, and Close waits for it anyway
	s.p.checkDone()
}

// forked makes the space of a process that forked off: it lacks what its parent lacks. The caller holds lay for writing
// and Pager.mu.
func (s *space) forked(fd int) error {
	src, err := s.src.Child(fd)
	if err != nil {
		return fmt.Errorf("take up a process that forked off: %w", err)
	}
	if s.p.closed {
		return src.Close()
	}
	plan, err := prepage.New("linear", s.p.cfg.Blocks, s.books.missing, nil)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	child := newSpace(s.p, src, s.layout.clone(), newBooks(s.p.cfg.Blocks, s.books.missing, plan))
	child.lay = s.lay
	s.p.spaces = append(s.p.spaces, child)
	s.p.readers.Go(child.read)
	s.p.wantBulk.Broadcast()
	return nil
}
