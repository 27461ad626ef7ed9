package sys

import (
	"bytes"
	"errors"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

// Each test here pins one behaviour of the kernel that the pager leans on.

func missing(t *testing.T, kind string, pages int, want Features) (*area, *UserFault) {
	t.Helper()
	need.UFFD(t)
	a := newKid(t).newArea(kind, pages)
	return a, a.watch(Missing, want|FeatureMissingShmem|FeatureMissingHugetlbfs)
}

// eachFile runs over the memories that can be handed to another process.
func eachFile(t *testing.T, f func(t *testing.T, kind string)) {
	t.Run("shm", func(t *testing.T) { f(t, "shm") })
	t.Run("huge", func(t *testing.T) { hugePages(t, 8); f(t, "huge") })
}

// What is in the file was received before the switch. What was punched out is missing.
func TestT1HolesFaultAndPagesDoNot(t *testing.T) {
	eachFile(t, func(t *testing.T, kind string) {
		need.UFFD(t)
		a := newKid(t).newArea(kind, 4)
		f := a.file()
		m, err := MapShared(f, 0, int64(a.size), true)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			m.Bytes()[uint64(i)*a.page] = byte(i + 1) // by mapping, since hugetlbfs has no write(2)
		}
		if err := errors.Join(m.Close(), m.Close(), PunchHole(f, int64(a.page), int64(a.page))); err != nil {
			t.Fatal(err)
		}
		u := a.watch(Missing, FeatureMissingShmem|FeatureMissingHugetlbfs)
		a.read(0).want("1")
		a.write(2, 9).want("done")
		silent(t, u)
		for _, i := range []int{1, 3} {
			r := a.read(i)
			a.fault(u, i)
			r.still("the page is missing")
			a.place(u, i, byte(i+10))
			r.want(map[int]string{1: "11", 3: "13"}[i])
		}
		silent(t, u)
	})
}

func TestT1CopyKeepsWhatIsThere(t *testing.T) {
	eachFile(t, func(t *testing.T, kind string) {
		a, u := missing(t, kind, 4, 0)
		a.place(u, 1, 7)
		if n, err := u.Copy(a.at(1), a.full(8), true); n != 0 || !errors.Is(err, unix.EEXIST) {
			t.Errorf("again: %d, %v; want EEXIST", n, err)
		}
		a.read(1).want("7")
	})
}

// The kernel says EAGAIN when it stops half-way; we ask on for the reason.
func TestT1CopyTellsHowFarItCame(t *testing.T) {
	eachFile(t, func(t *testing.T, kind string) {
		a, u := missing(t, kind, 4, 0)
		a.place(u, 2, 7)
		n, err := u.Copy(a.addr, bytes.Repeat(a.full(8), 4), true)
		if n != int(2*a.page) || !errors.Is(err, unix.EEXIST) {
			t.Errorf("%d, %v; want two pages and EEXIST", n, err)
		}
		a.read(1).want("8")
		a.read(2).want("7")
		n, err = u.Copy(a.at(3), bytes.Repeat(a.full(9), 2), true)
		if n > int(a.page) || err == nil {
			t.Errorf("beyond the end: %d, %v", n, err)
		}
		if n, err := u.Copy(a.addr-a.page, a.full(9), true); n != 0 || !errors.Is(err, unix.ENOENT) {
			t.Errorf("where nothing is registered: %d, %v; want ENOENT", n, err)
		}
	})
}

// A thread that discards memory waits until the message is read. Until then nothing can be placed.
func TestT1NothingIsPlacedWhileTheMappingChanges(t *testing.T) {
	a, u := missing(t, "shm", 4, FeatureEventRemove)
	a.place(u, 1, 7)
	discard := a.k.start("dontneed %s %d %d", a.name, a.page, a.page)
	if ready, err := Wait(nil, u.FD()); ready != 1 || err != nil {
		t.Fatalf("ready %b, %v", ready, err)
	}
	for range 3 {
		if n, err := u.Copy(a.at(3), a.full(8), true); n != 0 || !errors.Is(err, unix.EAGAIN) {
			t.Errorf("copy: %d, %v; want EAGAIN", n, err)
		}
		if n, err := u.ZeroPage(a.at(3), a.page, true); n != 0 || !errors.Is(err, unix.EAGAIN) {
			t.Errorf("zeros: %d, %v; want EAGAIN", n, err)
		}
	}
	discard.still("its message was not read")
	if e := nextEvent(t, u); e.Kind != EventRemove || e.Start != a.at(1) || e.End != a.at(2) {
		t.Errorf("message %+v", e)
	}
	discard.want("done")
	a.place(u, 3, 8)
}

func TestT1ZeroPage(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			a, u := missing(t, kind, 4, 0)
			r := a.read(0)
			a.fault(u, 0)
			if n, err := u.ZeroPage(a.addr, a.size, true); n != int(a.size) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			r.want("0")
			a.write(3, 1).want("done")
			if n, err := u.ZeroPage(a.at(3), a.page, true); n != 0 || !errors.Is(err, unix.EEXIST) {
				t.Errorf("again: %d, %v; want EEXIST", n, err)
			}
			silent(t, u)
		})
	}
}

func TestT1HugetlbHasNoZeroPage(t *testing.T) {
	hugePages(t, 2)
	a, u := missing(t, "huge", 2, 0)
	if n, err := u.ZeroPage(a.addr, a.page, true); n != 0 || !errors.Is(err, unix.EINVAL) {
		t.Errorf("%d, %v; want EINVAL", n, err)
	}
}

// Without waking, the thread goes on waiting; waking does not place the page, the thread looks again.
func TestT1WakeMakesWaitersFaultAgain(t *testing.T) {
	a, u := missing(t, "shm", 4, 0)
	r := a.read(1)
	a.fault(u, 1)
	silent(t, u)
	if err := u.Wake(a.addr, a.size); err != nil {
		t.Fatal(err)
	}
	a.fault(u, 1)
	if n, err := u.Copy(a.at(1), a.full(5), false); n != int(a.page) || err != nil {
		t.Fatal(n, err)
	}
	r.still("nobody woke it")
	if err := u.Wake(a.at(1), a.page); err != nil {
		t.Fatal(err)
	}
	r.want("5")
}

// A handler dies with a fault in hand. The descriptor that is left in the process keeps the thread waiting, and whoever
// takes a copy of that goes on.
func TestT1AnotherHandlerTakesOver(t *testing.T) {
	need.UFFD(t)
	a := newKid(t).newArea("shm", 4)
	first, remote := a.k.fault(false, FeatureMissingShmem)
	if err := first.Register(a.addr, a.size, Missing); err != nil {
		t.Fatal(err)
	}
	r := a.read(1)
	a.fault(first, 1)
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Copy(a.at(1), a.full(1), true); !errors.Is(err, unix.EBADF) {
		t.Errorf("after close: %v, want EBADF", err)
	}
	adopted, err := AdoptUserFaults(a.k.pid)
	if err != nil || len(adopted) != 1 || adopted[0].RemoteFD != remote || adopted[0].Features != FeatureMissingShmem {
		t.Fatalf("adopted %+v, %v; want descriptor %d", adopted, err, remote)
	}
	second := adopted[0].Fault
	t.Cleanup(func() { _ = second.Close() }) // the kid is gone by then
	r.still("nobody placed the page")
	silent(t, second) // the first one read the message
	if err := second.Wake(a.addr, a.size); err != nil {
		t.Fatal(err)
	}
	a.fault(second, 1)
	a.place(second, 1, 6)
	r.want("6")
}

// When nobody holds the userfaultfd any more, the threads find zeros: that is why a copy stays in the process.
func TestT1LastCloseGivesZeros(t *testing.T) {
	need.UFFD(t)
	a := newKid(t).newArea("shm", 4)
	u, remote := a.k.fault(false, FeatureMissingShmem)
	if err := u.Register(a.addr, a.size, Missing); err != nil {
		t.Fatal(err)
	}
	r := a.read(1)
	a.fault(u, 1)
	a.k.must("close %d", remote)
	r.still("we hold it yet")
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	r.want("0")
}

func TestT1UnregisterWakes(t *testing.T) {
	a, u := missing(t, "shm", 4, 0)
	r := a.read(1)
	a.fault(u, 1)
	if err := u.Unregister(a.addr, a.size); err != nil {
		t.Fatal(err)
	}
	r.want("0")
}

// Writing the file is another way to fill a page. But no thread that waits already hears of it.
func TestT1WritingTheFileFillsAndDoesNotWake(t *testing.T) {
	a, u := missing(t, "shm", 4, 0)
	f := a.file()
	r := a.read(1)
	a.fault(u, 1)
	for i := 1; i < 3; i++ {
		if _, err := f.WriteAt(a.full(4), int64(uint64(i)*a.page)); err != nil {
			t.Fatal(err)
		}
	}
	a.read(2).want("4")
	silent(t, u)
	r.still("nobody woke it")
	if n, err := u.Copy(a.at(1), a.full(3), true); n != 0 || !errors.Is(err, unix.EEXIST) {
		t.Errorf("copy: %d, %v; want EEXIST", n, err)
	}
	r.still("a copy that did not copy wakes nobody")
	if err := u.Wake(a.at(1), a.page); err != nil {
		t.Fatal(err)
	}
	r.want("4")
	silent(t, u)
}

func TestT1HugetlbHasNoWrite(t *testing.T) {
	hugePages(t, 1)
	f, err := Memfd("huge", 2<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // nothing is lost with it
	if _, err := f.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EINVAL) {
		t.Errorf("write: %v, want EINVAL", err)
	}
	m, err := MapShared(f, 0, 2<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	m.Bytes()[4096] = 5
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], 4096); err != nil || b[0] != 5 {
		t.Errorf("read: %d, %v", b[0], err)
	}
}

func TestT1FaultsTellAddressAndThread(t *testing.T) {
	a, u := missing(t, "shm", 4, FeatureExactAddress|FeatureThreadID)
	w := a.k.start("write %s %d 1", a.name, a.page+123)
	e := a.fault(u, 1)
	if e.Addr != a.at(1)+123 || int(e.TID) != w.started || e.Flags != FaultWrite {
		t.Errorf("message %+v, want address %#x, thread %d, a write", e, a.at(1)+123, w.started)
	}
	a.place(u, 1, 0)
	w.want("done")
	b, v := missing(t, "shm", 4, 0)
	r := b.k.start("read %s %d", b.name, b.page+123)
	if e := b.fault(v, 1); e.Addr != b.at(1) || e.TID != 0 || e.Flags != 0 {
		t.Errorf("message %+v, want the page's address, no thread, a read", e)
	}
	b.place(v, 1, 0)
	r.want("0")
}

// Faults of the kernel itself wait too, as KVM's and vhost's do; a userfaultfd for user mode only lets them fail.
func TestT1KernelFaultsWait(t *testing.T) {
	a, u := missing(t, "shm", 4, 0)
	r := a.k.start("readinto %s %d 4096", a.name, a.page)
	a.fault(u, 1)
	a.place(u, 1, 1)
	r.want("4096 <nil>")
	b := newKid(t).newArea("shm", 4)
	v, _ := b.k.fault(true, FeatureMissingShmem)
	if err := v.Register(b.addr, b.size, Missing); err != nil {
		t.Fatal(err)
	}
	b.k.start("readinto %s %d 4096", b.name, b.page).want("-1 bad address")
	silent(t, v)
}

func TestT1MinorFaults(t *testing.T) {
	eachFile(t, func(t *testing.T, kind string) {
		need.UFFD(t)
		a := newKid(t).newArea(kind, 4)
		m, err := MapShared(a.file(), 0, int64(a.size), true)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.Close() }() // only written
		u := a.watch(Minor, FeatureMinorShmem|FeatureMinorHugetlbfs)
		m.Bytes()[a.page] = 5
		r := a.read(1)
		if e := a.fault(u, 1); e.Flags != FaultMinor {
			t.Errorf("flags %#x", e.Flags)
		}
		m.Bytes()[a.page] = 6
		if n, err := u.Continue(a.at(1), a.page, true); n != int(a.page) || err != nil {
			t.Fatal(n, err)
		}
		r.want("6")
		if n, err := u.Continue(a.at(1), a.page, true); n != 0 || !errors.Is(err, unix.EEXIST) {
			t.Errorf("again: %d, %v; want EEXIST", n, err)
		}
		if n, err := u.Continue(a.at(2), a.page, true); n != 0 || !errors.Is(err, unix.EFAULT) {
			t.Errorf("a hole: %d, %v; want EFAULT", n, err)
		}
	})
}

func TestT1PoisonedPagesFail(t *testing.T) {
	a, u := missing(t, "shm", 4, FeaturePoison)
	if n, err := u.Poison(a.at(1), 2*a.page); n != int(2*a.page) || err != nil {
		t.Fatal(n, err)
	}
	// write(2) from there fails where a thread of the kid would get SIGBUS.
	a.k.start("copyout %s %d 4096", a.name, a.page).want("-1 bad address")
	silent(t, u)
}

func TestT1PlacingInAnEndedProcess(t *testing.T) {
	a, u := missing(t, "shm", 4, 0)
	_ = a.k.cmd.Process.Kill()
	_, _ = a.k.cmd.Process.Wait() // that it was killed is no news
	if n, err := u.Copy(a.at(1), a.full(1), true); n != 0 || !errors.Is(err, unix.ESRCH) {
		t.Errorf("copy: %d, %v; want ESRCH", n, err)
	}
	if n, err := u.ZeroPage(a.at(1), a.page, true); n != 0 || !errors.Is(err, unix.ESRCH) {
		t.Errorf("zeros: %d, %v; want ESRCH", n, err)
	}
}
