package faulttest

import (
	"errors"
	"slices"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

// Read implements fault.Source: faults first, then other events, as the kernel does.
func (m *Memory) Read(events []fault.Event) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, w := range m.waiters {
		if n == len(events) || w.told || w.woken {
			continue
		}
		w.told = true
		m.read++
		events[n] = fault.Event{Kind: sys.EventPageFault, Addr: w.addr}
		n++
	}
	for len(m.events) > 0 && n < len(events) {
		events[n] = m.events[0].Event
		m.events[0].read = true
		m.events = m.events[1:]
		n++
	}
	m.changed.Broadcast()
	if n == 0 {
		return 0, syscall.EAGAIN
	}
	return n, nil
}

// Wait implements fault.Source.
func (m *Memory) Wait() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !m.woken && len(m.events) == 0 && !slices.ContainsFunc(m.waiters, func(w *waiter) bool { return !w.told && !w.woken }) {
		m.changed.Wait()
	}
	if m.woken {
		m.woken = false
		return fault.ErrInterrupted
	}
	return nil
}

// Interrupt implements fault.Source.
func (m *Memory) Interrupt() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.woken = true
	m.changed.Broadcast()
	return nil
}

// Copy implements fault.Source.
func (m *Memory) Copy(dst uint64, src []byte) (int, error) {
	if dst%m.pageSize != 0 || uint64(len(src))%m.pageSize != 0 {
		return 0, syscall.EINVAL
	}
	return m.place("copy", dst, uint64(len(src)), func(at uint64) []byte { return src[at : at+m.pageSize] })
}

// ZeroPage implements fault.Source.
func (m *Memory) ZeroPage(start, length uint64) (int, error) {
	if m.huge || start%m.pageSize != 0 || length%m.pageSize != 0 {
		return 0, syscall.EINVAL
	}
	zeros := make([]byte, m.pageSize)
	return m.place("zero", start, length, func(uint64) []byte { return zeros })
}

func (m *Memory) place(op string, start, length uint64, page func(at uint64) []byte) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.wake(start, uint64(n)) }()
	for at := uint64(0); at < length; at += m.pageSize {
		addr := start + at
		if err := m.refusal(op, addr); err != nil {
			return n, err
		}
		m.pages[addr] = append([]byte(nil), page(at)...)
		m.placed[addr]++
		n += int(m.pageSize)
	}
	return n, nil
}

func (m *Memory) refusal(op string, addr uint64) error {
	var refused error
	if m.refuse != nil {
		refused = m.refuse(op, addr)
	}
	switch _, there := m.pages[addr]; {
	case m.gone:
		return syscall.ESRCH
	case m.changing > 0:
		return syscall.EAGAIN
	case refused != nil:
		return refused
	case !m.watched(addr):
		return syscall.ENOENT
	case there:
		return syscall.EEXIST
	}
	return nil
}

// Wake implements fault.Source.
func (m *Memory) Wake(start, length uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wake(start, length)
	return nil
}

func (m *Memory) wake(start, length uint64) {
	for _, w := range m.waiters {
		if w.addr >= start && w.addr < start+length {
			w.woken = true
		}
	}
	m.changed.Broadcast()
}

// Unregister implements fault.Source.
func (m *Memory) Unregister(start, length uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return syscall.ENOMEM
	}
	if m.refuse != nil {
		if err := m.refuse("unregister", start); err != nil {
			return err
		}
	}
	m.ranges = slices.DeleteFunc(m.ranges, func(r fault.Range) bool { return r.Start >= start && r.Start < start+length })
	m.wake(start, length)
	return nil
}

// Child implements fault.Source.
func (m *Memory) Child(fd int) (fault.Source, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.children[fd]
	if c == nil {
		return nil, errors.New("there is no such child")
	}
	return c, nil
}

// Close implements fault.Source: it does nothing, since threads go on to wait where the process holds the descriptor, too.
func (m *Memory) Close() error { return nil }
