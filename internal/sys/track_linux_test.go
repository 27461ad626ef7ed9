package sys

import (
	"errors"
	"slices"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

// Each test here pins one behaviour of the kernel that the tracker uffd-wp leans on.

const asyncFeatures = FeatureWPAsync | FeatureWPUnpopulated | FeatureWPHugetlbfsShmem

// tracked is a kid's memory with asynchronous write-protection, and the way to scan it.
func tracked(t *testing.T, kind string, pages int) (*area, *Pagemap) {
	t.Helper()
	need.UFFD(t)
	a := newKid(t).newArea(kind, pages)
	a.watch(WriteProtect, asyncFeatures)
	return a, a.pagemap()
}

func (a *area) pagemap() *Pagemap {
	a.k.t.Helper()
	p, err := OpenPagemap(a.k.pid)
	if err != nil {
		a.k.t.Fatal(err)
	}
	a.k.t.Cleanup(func() { _ = p.Close() }) // only read
	return p
}

// harvest gives the numbers of the pages that were written, and arms them again.
func (a *area) harvest(p *Pagemap) []int {
	a.k.t.Helper()
	out := make([]PageRegion, 64)
	n, end, err := p.Scan(a.addr, a.addr+a.size, WrittenPages(), out)
	if errors.Is(err, unix.ENOTTY) {
		a.k.t.Skip("the kernel lacks PAGEMAP_SCAN; remedy: boot 6.7 or newer")
	}
	if err != nil || end != a.addr+a.size {
		a.k.t.Fatalf("scan up to %#x of %#x: %v", end, a.addr+a.size, err)
	}
	var pages []int
	for _, r := range out[:n] {
		if r.Categories != PageWritten {
			a.k.t.Errorf("categories %#x, want %#x alone", r.Categories, PageWritten)
		}
		for at := r.Start; at < r.End; at += a.page {
			pages = append(pages, int((at-a.addr)/a.page))
		}
	}
	return pages
}

func (a *area) wantHarvest(p *Pagemap, why string, want ...int) {
	a.k.t.Helper()
	if got := a.harvest(p); !slices.Equal(got, want) {
		a.k.t.Errorf("%s: pages %v, want %v", why, got, want)
	}
}

// kinds are the memories that a guest's RAM is made of. Huge pages are tested apart, since few machines lend some.
func kinds() []string { return []string{"anon", "shm"} }

func eachKind(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

func TestT1UnpopulatedCountsAsWritten(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		a, p := tracked(t, kind, 4)
		a.wantHarvest(p, "first harvest", 0, 1, 2, 3)
	})
}

func TestT1NothingWrittenAfterArming(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		a, p := tracked(t, kind, 4)
		a.write(1, 1).want("done")
		a.harvest(p)
		a.wantHarvest(p, "nobody wrote")
		a.read(1).want("1")
		a.read(2).want("0")
		a.wantHarvest(p, "somebody read")
	})
}

func TestT1HarvestRearms(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		a, p := tracked(t, kind, 4)
		a.harvest(p)
		for round := range 3 {
			a.write(2, round).want("done")
			a.write(3, round).want("done")
			a.write(3, round).want("done")
			a.wantHarvest(p, "two written", 2, 3)
			a.wantHarvest(p, "none since")
		}
	})
}

// A system call that writes into the memory, as KVM and vhost do.
func TestT1KernelModeWritesAreSeen(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		a, p := tracked(t, kind, 8)
		a.harvest(p)
		a.k.start("readinto %s %d %d", a.name, a.page+100, 2*a.page).want("8192 <nil>")
		a.wantHarvest(p, "read(2) into the memory", 1, 2, 3)
	})
}

// This is why guests whose memory other processes write are refused.
func TestT1WritesThroughAnotherMappingAreNotSeen(t *testing.T) {
	a, p := tracked(t, "shm", 4)
	a.harvest(p)
	other := &area{k: a.k, name: "other", page: a.page}
	a.k.do("alias other %s", a.name)
	other.write(1, 7).want("done")
	a.read(1).want("7")
	a.wantHarvest(p, "written by another mapping")
	if _, err := a.file().WriteAt([]byte{8}, int64(2*a.page)); err != nil {
		t.Fatal(err)
	}
	a.read(2).want("8")
	a.wantHarvest(p, "written by pwrite")
}

// The balloon gives pages back, and the guest may write them again.
func TestT1DiscardedAndRewrittenIsSeen(t *testing.T) {
	for _, how := range []string{"dontneed", "remove", "punch"} {
		t.Run(how, func(t *testing.T) {
			a, p := tracked(t, "shm", 4)
			a.write(1, 1).want("done")
			a.write(2, 1).want("done")
			a.harvest(p)
			if how == "punch" {
				if err := PunchHole(a.file(), int64(a.page), int64(2*a.page)); err != nil {
					t.Fatal(err)
				}
			} else {
				a.k.must("%s %s %d %d", how, a.name, a.page, 2*a.page)
			}
			a.write(1, 2).want("done")
			if got := a.harvest(p); !slices.Contains(got, 1) {
				t.Errorf("pages %v, want 1 among them", got)
			}
		})
	}
}

// And in private memory, where MADV_DONTNEED is the only way to discard.
func TestT1DiscardedPrivateAndRewrittenIsSeen(t *testing.T) {
	a, p := tracked(t, "anon", 4)
	a.write(1, 1).want("done")
	a.harvest(p)
	a.k.must("dontneed %s %d %d", a.name, a.page, a.page)
	a.write(1, 2).want("done")
	if got := a.harvest(p); !slices.Contains(got, 1) {
		t.Errorf("pages %v, want 1 among them", got)
	}
}

func TestT1HugetlbWriteProtect(t *testing.T) {
	hugePages(t, 4)
	a, p := tracked(t, "huge", 4)
	a.write(0, 1).want("done")
	a.write(1, 1).want("done")
	a.harvest(p)
	a.wantHarvest(p, "nobody wrote")
	a.write(1, 2).want("done")
	a.wantHarvest(p, "one page of 2 MiB", 1)
	a.k.start("readinto %s %d 4096", a.name, a.page-4096).want("4096 <nil>")
	a.wantHarvest(p, "read(2) into the first", 0)
	a.write(3, 2).want("done")
	if got := a.harvest(p); !slices.Contains(got, 3) {
		t.Errorf("pages %v, want 3, which was not there before", got)
	}
}

// Without privilege a userfaultfd is for user mode only. That is enough for a tracker, also for writes by the kernel.
func TestT1AsyncNeedsUserModeOnly(t *testing.T) {
	need.UFFD(t)
	a := newKid(t).newArea("shm", 4)
	u, _ := a.k.fault(true, asyncFeatures)
	if err := u.Register(a.addr, a.size, WriteProtect); err != nil {
		t.Fatal(err)
	}
	p := a.pagemap()
	a.harvest(p)
	a.write(0, 1).want("done")
	a.k.start("readinto %s %d 4096", a.name, 2*a.page).want("4096 <nil>")
	a.wantHarvest(p, "written in both modes", 0, 2)
}

func TestT1ScanRefusesWhatIsNotTracked(t *testing.T) {
	need.UFFD(t)
	a := newKid(t).newArea("shm", 4)
	p := a.pagemap()
	_, _, err := p.Scan(a.addr, a.addr+a.size, WrittenPages(), make([]PageRegion, 8))
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("untracked memory: %v, want EPERM", err)
	}
	u := a.watch(WriteProtect, asyncFeatures)
	a.harvest(p)
	if err := u.Unregister(a.at(1), a.page); err != nil {
		t.Fatal(err)
	}
	_, _, err = p.Scan(a.addr, a.addr+a.size, WrittenPages(), make([]PageRegion, 8))
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("partly tracked memory: %v, want EPERM", err)
	}
}

// A scan that runs out of room says where, and has armed no page that it did not report.
func TestT1ScanStopsWhenFull(t *testing.T) {
	a, p := tracked(t, "shm", 8)
	a.harvest(p)
	for _, i := range []int{1, 3, 5} {
		a.write(i, 1).want("done")
	}
	var out [2]PageRegion
	n, end, err := p.Scan(a.addr, a.addr+a.size, WrittenPages(), out[:])
	if err != nil || n != 2 || out[1].Start != a.at(3) || end <= a.at(3) || end > a.at(5) {
		t.Fatalf("%d regions %+v up to %#x, %v; want pages 1 and 3", n, out, end, err)
	}
	n, last, err := p.Scan(end, a.addr+a.size, WrittenPages(), out[:])
	if err != nil || n != 1 || out[0].Start != a.at(5) || last != a.addr+a.size {
		t.Errorf("%d regions %+v up to %#x, %v; want page 5", n, out, last, err)
	}
	o := WrittenPages()
	a.write(1, 2).want("done")
	a.write(2, 2).want("done")
	o.MaxPages = 1
	if n, end, err = p.Scan(a.addr, a.addr+a.size, o, out[:]); err != nil || n != 1 || end != a.at(2) {
		t.Errorf("%d regions up to %#x, %v; want one of one page", n, end, err)
	}
	a.wantHarvest(p, "the rest", 2)
}

// More regions than the kernel fetches at once: all are there, and it is told that the end was reached.
func TestT1ScanOfManyRegions(t *testing.T) {
	const pages = 4096
	a, p := tracked(t, "shm", pages)
	for _, room := range []int{pages, pages / 2, pages/2 - 1, 700} {
		out := make([]PageRegion, pages)
		if _, _, err := p.Scan(a.addr, a.addr+a.size, WrittenPages(), out); err != nil {
			t.Fatal(err)
		}
		a.k.must("stripes %s %d", a.name, 2*a.page)
		seen, scans := 0, 0
		for at := a.addr; at < a.addr+a.size; scans++ {
			n, end, err := p.Scan(at, a.addr+a.size, WrittenPages(), out[:room])
			if err != nil || end < at {
				t.Fatalf("from %#x to %#x: %v", at, end, err)
			}
			for _, r := range out[:n] {
				if r.End-r.Start != a.page || (r.Start-a.addr)%(2*a.page) != 0 {
					t.Fatalf("region %+v", r)
				}
				seen++
			}
			at = end
		}
		if seen != pages/2 || scans > (pages/2+room-1)/room+1 {
			t.Errorf("room %d: %d pages in %d scans, want %d", room, seen, scans, pages/2)
		}
		if room == pages && scans != 1 {
			t.Errorf("%d scans, want one", scans)
		}
	}
}

func TestT1WriteProtectionIsReported(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		need.UFFD(t)
		a := newKid(t).newArea(kind, 4)
		a.write(1, 1).want("done")
		u := a.watch(WriteProtect, FeaturePagefaultFlagWP|FeatureWPHugetlbfsShmem)
		if err := u.WriteProtect(a.addr, a.size, true, false); err != nil {
			t.Fatal(err)
		}
		a.read(1).want("1")
		w := a.write(1, 2)
		if e := a.fault(u, 1); e.Flags != FaultWrite|FaultWriteProtect {
			t.Errorf("flags %#x", e.Flags)
		}
		w.still("the page is protected")
		if err := u.WriteProtect(a.at(1), a.page, false, true); err != nil {
			t.Fatal(err)
		}
		w.want("done")
		a.read(1).want("2")
		silent(t, u)
	})
}

// A process that ended must not look like one that writes nothing.
func TestT1ScanOfAnEndedProcess(t *testing.T) {
	a, p := tracked(t, "shm", 4)
	a.harvest(p)
	_ = a.k.cmd.Process.Kill()
	_, _ = a.k.cmd.Process.Wait() // that it was killed is no news
	n, _, err := p.Scan(a.addr, a.addr+a.size, WrittenPages(), make([]PageRegion, 8))
	t.Logf("%d regions, %v", n, err)
	if err == nil {
		t.Error("no error")
	}
}
