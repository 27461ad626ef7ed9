package faulttest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/postcopy/fault"
)

// Memory is an address space whose pages are missing until they are placed. It implements fault.Source.
type Memory struct {
	pageSize uint64
	huge     bool

	mu       sync.Mutex
	changed  *sync.Cond
	ranges   []fault.Range
	pages    map[uint64][]byte
	waiters  []*waiter
	events   []*notice
	changing int // threads that wait for their event to be read
	read     int // messages of faults that were read
	children map[int]*Memory
	woken    bool
	gone     bool
	ignored  bool
	refuse   func(op string, addr uint64) error
	placed   map[uint64]int
}

// waiter is a thread that waits for a page. Its message is told once; it looks again when it is woken.
type waiter struct {
	addr        uint64
	told, woken bool
}

// notice is an event whose thread waits until it is read.
type notice struct {
	fault.Event
	read bool
}

var _ fault.Source = (*Memory)(nil)

// New makes memory of which every page of the ranges is missing and watched. Huge memory has no page of zeros to give,
// like hugetlbfs.
func New(pageSize uint64, huge bool, ranges ...fault.Range) *Memory {
	m := &Memory{pageSize: pageSize, huge: huge, ranges: slices.Clone(ranges), pages: map[uint64][]byte{}, children: map[int]*Memory{},
		placed: map[uint64]int{}}
	m.changed = sync.NewCond(&m.mu)
	return m
}

// Refuse makes placements fail when f does; op is copy, zero or unregister.
func (m *Memory) Refuse(f func(op string, addr uint64) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = f
}

// WaitRead returns when the messages of n faults have been read.
func (m *Memory) WaitRead(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.read < n {
		m.changed.Wait()
	}
}

// Ignore lets events go by without anybody reading them, as for memory that is not registered any more.
func (m *Memory) Ignore() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ignored = true
	m.changed.Broadcast()
}

// Exit ends the process: every call says ESRCH from now on.
func (m *Memory) Exit() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	m.changed.Broadcast()
}

// Touch reads the page of an address, as a thread of the guest does. It waits until the page is there.
func (m *Memory) Touch(ctx context.Context, addr uint64) ([]byte, error) {
	addr -= addr % m.pageSize
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.changed.Broadcast()
	})
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for ctx.Err() == nil && !m.gone {
		if page, ok := m.pages[addr]; ok {
			return append([]byte(nil), page...), nil
		}
		if !m.watched(addr) {
			m.pages[addr] = make([]byte, m.pageSize)
			continue
		}
		m.fault(ctx, addr)
	}
	if m.gone {
		return nil, syscall.ESRCH
	}
	return nil, ctx.Err()
}

// fault tells of a missing page and waits until it is woken.
func (m *Memory) fault(ctx context.Context, addr uint64) {
	w := &waiter{addr: addr}
	m.waiters = append(m.waiters, w)
	m.changed.Broadcast()
	for !w.woken && !m.gone && ctx.Err() == nil {
		m.changed.Wait()
	}
	m.waiters = slices.DeleteFunc(m.waiters, func(o *waiter) bool { return o == w })
}

// Write puts contents into a page that is there.
func (m *Memory) Write(addr uint64, b byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	page, ok := m.pages[addr-addr%m.pageSize]
	if ok {
		page[addr%m.pageSize] = b
	}
	return ok
}

// Discard throws pages away, as madvise does. When it tells, it waits until its event is read, and until then
// placements fail with EAGAIN.
func (m *Memory) Discard(start, length uint64, tell bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if tell {
		m.event(fault.Event{Kind: sys.EventRemove, Start: start, End: start + length})
	}
	for a := start; a < start+length; a += m.pageSize {
		delete(m.pages, a)
	}
}

// Fork makes a child with the pages that are there, and tells of it.
func (m *Memory) Fork() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := New(m.pageSize, m.huge, m.ranges...)
	for a, p := range m.pages {
		c.pages[a] = append([]byte(nil), p...)
	}
	fd := 1000 + len(m.children)
	m.children[fd] = c
	m.event(fault.Event{Kind: sys.EventFork, FD: fd})
	return c
}

// event hands an event over and waits until it is read. The caller holds mu.
func (m *Memory) event(e fault.Event) {
	n := &notice{Event: e}
	m.events = append(m.events, n)
	m.changing++
	m.changed.Broadcast()
	for !n.read && !m.gone && !m.ignored {
		m.changed.Wait()
	}
	m.changing--
}

func (m *Memory) watched(addr uint64) bool {
	for _, r := range m.ranges {
		if addr >= r.Start && addr < r.Start+r.Length {
			return true
		}
	}
	return false
}

// Page is what a page holds, nil when it is missing.
func (m *Memory) Page(addr uint64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pages[addr]
}

// Placements tells how often each page was placed.
func (m *Memory) Placements() map[uint64]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.placed)
}

// Watched tells whether anything is registered.
func (m *Memory) Watched() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.ranges) > 0
}
