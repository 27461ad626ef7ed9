package fault

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

// Userfault is a Source over one userfaultfd of the kernel.
type Userfault struct {
	u     *sys.UserFault
	waker *sys.Waker
	owns  bool
	close sync.Once
	err   error
}

var (
	_ Source      = (*Userfault)(nil)
	_ PairWaiter  = (*Userfault)(nil)
	_ QuietPlacer = (*Userfault)(nil)
)

// Range is a run of addresses.
type Range struct{ Start, Length uint64 }

// Arm opens the conversation with a new userfaultfd and registers the ranges for missing pages. With events it asks for
// those, too; EventFork is left out where it is not permitted, and children then find zeros where pages were missing. The descriptor stays the caller's. After an error it
// should be closed: ranges may be registered.
func Arm(u *sys.UserFault, events bool, ranges ...Range) error {
	want := sys.FeatureMissingShmem | sys.FeatureMissingHugetlbfs
	if events {
		want |= sys.FeatureEventRemap | sys.FeatureEventRemove | sys.FeatureEventUnmap | sys.FeatureEventFork
	}
	_, err := u.API(want)
	if errors.Is(err, syscall.EPERM) {
		_, err = u.API(want &^ sys.FeatureEventFork)
	}
	if err != nil {
		return fmt.Errorf("ask the userfaultfd for its features: %w", err)
	}
	for _, r := range ranges {
		if err := u.Register(r.Start, r.Length, sys.Missing); err != nil {
			return fmt.Errorf("register %#x bytes at %#x for missing pages: %w", r.Length, r.Start, err)
		}
	}
	return nil
}

// New makes a source of a userfaultfd that is armed already, by whomever. The descriptor stays the caller's, who
// closes it after the source.
func New(u *sys.UserFault) (*Userfault, error) {
	w, err := sys.NewWaker()
	if err != nil {
		return nil, err
	}
	return &Userfault{u: u, waker: w}, nil
}

// Read implements Reader.
func (f *Userfault) Read(events []Event) (int, error) { return f.u.Read(events) }

// Wait implements Reader. It sleeps in the calling thread.
func (f *Userfault) Wait() error {
	_, err := sys.Wait(f.waker, f.u.FD())
	if errors.Is(err, sys.ErrWoken) {
		if err := f.waker.Reset(); err != nil {
			return err
		}
		return ErrInterrupted
	}
	return err
}

// WaitWith implements PairWaiter. fd may be closed meanwhile.
func (f *Userfault) WaitWith(fd int) (events, other bool, err error) {
	ready, err := sys.Wait(f.waker, f.u.FD(), fd)
	switch {
	case errors.Is(err, sys.ErrWoken):
		if err := f.waker.Reset(); err != nil {
			return false, false, err
		}
		err = ErrInterrupted
	case errors.Is(err, syscall.EBADF): // should it be the other one, reading tells
		return true, true, nil
	}
	return ready&1 != 0, ready&2 != 0, err
}

// Interrupt implements Reader.
func (f *Userfault) Interrupt() error { return f.waker.Wake() }

// Copy implements Placer.
func (f *Userfault) Copy(dst uint64, src []byte) (int, error) { return f.u.Copy(dst, src, true) }

// CopyQuiet implements QuietPlacer.
func (f *Userfault) CopyQuiet(dst uint64, src []byte) (int, error) { return f.u.Copy(dst, src, false) }

// ZeroPage implements Placer.
func (f *Userfault) ZeroPage(start, length uint64) (int, error) {
	return f.u.ZeroPage(start, length, true)
}

// Wake implements Placer.
func (f *Userfault) Wake(start, length uint64) error { return f.u.Wake(start, length) }

// Unregister implements Owner.
func (f *Userfault) Unregister(start, length uint64) error { return f.u.Unregister(start, length) }

// Child implements Owner.
func (f *Userfault) Child(fd int) (Source, error) {
	u := sys.UserFaultFromFD(fd)
	c, err := New(u)
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	c.owns = true
	return c, nil
}

// Close implements Owner. It closes the descriptor of a child, and leaves that of New to its owner.
func (f *Userfault) Close() error {
	f.close.Do(func() {
		f.err = f.waker.Close()
		if f.owns {
			f.err = errors.Join(f.err, f.u.Close())
		}
	})
	return f.err
}
