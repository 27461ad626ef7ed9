package sys

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The child of a fork is another address space. The reader of the message gets a userfaultfd for it, and its faults come
// there.
func TestT1ForkGivesAUserfaultfdForTheChild(t *testing.T) {
	a, u := missing(t, "anon", 4, FeatureEventFork)
	f := a.k.start("fork %s %d", a.name, a.page)
	e := nextEvent(t, u)
	if e.Kind != EventFork || e.FD <= 0 {
		t.Fatalf("message %+v", e)
	}
	child := UserFaultFromFD(e.FD)
	t.Cleanup(func() { _ = child.Close() }) // the child is gone by then
	if flags, err := unix.FcntlInt(uintptr(e.FD), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v; want non-blocking", flags, err)
	}
	a.fault(child, 1)
	silent(t, u)
	a.place(child, 1, 0)
	f.want("42 <nil>")
	r := a.read(1)
	a.fault(u, 1) // what was placed in the child is missing here
	a.place(u, 1, 3)
	r.want("3")
}

// Who changes its mappings waits until the handler knows.
func TestT1ChangesWaitForTheReader(t *testing.T) {
	for _, tc := range []struct {
		order string
		want  func(a *area) Event
	}{
		{"dontneed %s 4096 8192", func(a *area) Event { return Event{Kind: EventRemove, Start: a.at(1), End: a.at(3)} }},
		{"remove %s 4096 8192", func(a *area) Event { return Event{Kind: EventRemove, Start: a.at(1), End: a.at(3)} }},
		{"munmap %s", func(a *area) Event { return Event{Kind: EventUnmap, Start: a.addr, End: a.addr + a.size} }},
	} {
		t.Run(tc.order, func(t *testing.T) {
			a, u := missing(t, "shm", 4, FeatureEventRemove|FeatureEventUnmap)
			a.place(u, 1, 1)
			o := a.k.start(tc.order, a.name)
			if ready, err := Wait(nil, u.FD()); ready != 1 || err != nil {
				t.Fatal(ready, err)
			}
			o.still("its message was not read")
			if got := nextEvent(t, u); got != tc.want(a) {
				t.Errorf("message %+v, want %+v", got, tc.want(a))
			}
			o.want("done")
			silent(t, u)
		})
	}
}

// Discarded pages are missing again, and may come as zeros.
func TestT1DiscardedPagesAreMissingAgain(t *testing.T) {
	a, u := missing(t, "anon", 4, FeatureEventRemove)
	a.place(u, 1, 1)
	o := a.k.start("dontneed %s 4096 4096", a.name)
	nextEvent(t, u)
	o.want("done")
	r := a.read(1)
	a.fault(u, 1)
	if _, err := u.ZeroPage(a.at(1), a.page, true); err != nil {
		t.Fatal(err)
	}
	r.want("0")
}

func TestT1RemapMovesTheRegistration(t *testing.T) {
	a, u := missing(t, "anon", 4, FeatureEventRemap)
	a.place(u, 1, 1)
	o := a.k.start("mremap %s", a.name)
	if ready, err := Wait(nil, u.FD()); ready != 1 || err != nil {
		t.Fatal(ready, err)
	}
	o.still("its message was not read")
	moved := nextEvent(t, u)
	if moved.Kind != EventRemap || moved.From != a.addr || moved.To == a.addr || moved.Length != a.size {
		t.Errorf("message %+v", moved)
	}
	o.wait()
	a.addr = moved.To
	a.read(1).want("1")
	r := a.read(2)
	a.fault(u, 2)
	a.place(u, 2, 2)
	r.want("2")
}
