package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/precopy/track/tracktest"
)

// exported is a child process whose memory is exported as a guest's RAM would be.
type exported struct {
	*tracktest.Process
	w *Worker
	x agent.Exported
}

const exportPages = 256

func export(t *testing.T, m tracktest.Memory, tracked bool) *exported {
	t.Helper()
	e := &exported{Process: tracktest.Start(t, m, exportPages)}
	e.Do(t, "fill", 10, 20)
	e.Do(t, "fill", 100, 101)
	var err error
	if e.w, err = New(Options{}); err != nil {
		t.Fatal(err)
	}
	e.x, err = e.w.Export(t.Context(), e.spec(tracked))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.w.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *exported) spec(tracked bool) agent.ExportSpec {
	b := e.Region.Block
	b.Name = "/objects/mem0"
	return agent.ExportSpec{Guest: agent.Guest{Name: "web", PID: e.PID}, Track: tracked, Regions: []agent.Region{{Block: b, Addr: e.Region.Addr}}}
}

// client reads one of the exports.
func (e *exported) client(t *testing.T, name string) *nbd.Client {
	t.Helper()
	lis, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		conn, err := lis.Accept()
		if err == nil {
			err = e.x.Serve(context.Background(), conn)
		}
		served <- err
	}()
	c, err := nbd.Open(t.Context(), nbd.ClientConfig{Export: name, Rejoin: time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", lis.Addr().String())
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), lis.Close()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil && !errors.Is(err, agent.ErrClosed) {
			t.Error(err)
		}
	})
	return c
}

// faults are the userfaultfds in the child.
func (e *exported) faults(t *testing.T) int {
	t.Helper()
	found, err := sys.AdoptUserFaults(e.PID)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range found {
		_ = a.Fault.Close() // it was only counted
	}
	return len(found)
}

// pagesOf turns what a context tells into the pages with any of its flags.
func pagesOf(list []nbd.Status, flags uint32) (pages []int) {
	at := int64(0)
	for _, s := range list {
		for p := at; p < at+s.Length; p += 4096 {
			if s.Flags&flags != 0 {
				pages = append(pages, int(p/4096))
			}
		}
		at += s.Length
	}
	return pages
}

// TestT1ExportReads: every kind of memory reads as the process sees it, what it never had is a hole before and after it was
// read, and reading takes no memory.
func TestT1ExportReads(t *testing.T) {
	need.UFFD(t)
	for _, m := range []tracktest.Memory{tracktest.Memfd, tracktest.Tmpfs, tracktest.Anonymous} {
		t.Run(string(m), func(t *testing.T) {
			e := export(t, m, false)
			for _, name := range []string{"ram", "ram/mem0"} {
				c := e.client(t, name)
				for range 2 {
					got := make([]byte, c.Size())
					if err := c.ReadAt(t.Context(), got, 0); err != nil {
						t.Fatal(err)
					}
					if z := zeros(); bytes.Equal(got[10*4096:][:4096], z) || !bytes.Equal(got[9*4096:][:4096], z) {
						t.Error("the memory was not read")
					}
					list, err := c.BlockStatus(t.Context(), nbd.BaseAllocation, 4096, c.Size()-4096)
					if err != nil {
						t.Fatal(err)
					}
					if n := len(pagesOf(list, nbd.StatusHole)); n != exportPages-1-11 || list[0].Length != 9*4096 {
						t.Errorf("%s: %d holes: %v", name, n, list)
					}
				}
				got := make([]byte, c.Size())
				if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, e.Contents(t)) {
					t.Errorf("%s: not what the process has: %v", name, err)
				}
			}
		})
	}
}

// TestT1ExportTracks: what is written after the exports were opened is dirty, for each who asks, and nothing else is. In
// the end nothing is left in the process.
func TestT1ExportTracks(t *testing.T) {
	need.UFFD(t)
	for _, m := range []tracktest.Memory{tracktest.Memfd, tracktest.Anonymous} {
		t.Run(string(m), func(t *testing.T) {
			e := export(t, m, true)
			c := e.client(t, "ram/mem0")
			dirty := func() []int {
				list, err := c.BlockStatus(t.Context(), nbd.DirtyBitmap, 0, c.Size())
				if err != nil {
					t.Fatal(err)
				}
				return pagesOf(list, nbd.StatusDirty)
			}
			if got := dirty(); len(got) != 0 {
				t.Errorf("at the beginning %v", got)
			}
			e.Do(t, "touch", 10, 7)
			e.Do(t, "touch", 200, 7)
			for range 2 {
				if got := dirty(); len(got) != 2 || got[0] != 10 || got[1] != 200 {
					t.Errorf("pages 10 and 200 were written, told is %v", got)
				}
			}
			e.Do(t, "touch", 11, 7)
			if got := dirty(); len(got) != 3 {
				t.Errorf("page 11 was written, too: %v", got)
			}
			// Who asks for news gets each page once, whatever the bitmap was asked.
			for want := 3; want >= 0; want -= 3 {
				if h, err := e.x.Written(t.Context()); err != nil || h.Dirty.Count() != want || h.Tracker == "" {
					t.Errorf("written: %d pages by %q, %v; want %d", h.Dirty.Count(), h.Tracker, err, want)
				}
			}
			e.Do(t, "touch", 10, 8)
			if h, err := e.x.Written(t.Context()); err != nil || h.Dirty.Count() != 1 || !h.Dirty[0].Test(10) {
				t.Errorf("written: %d pages, %v; want page 10 alone", h.Dirty.Count(), err)
			}
			if got := dirty(); len(got) != 3 {
				t.Errorf("the bitmap lost what was asked for otherwise: %v", got)
			}
			if n := e.faults(t); n != 1 {
				t.Errorf("%d userfaultfds while it is tracked", n)
			}
			for range 2 {
				if err := e.x.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if n := e.faults(t); n != 0 {
				t.Errorf("%d userfaultfds are left", n)
			}
			if err := e.x.Wait(t.Context()); err != nil {
				t.Errorf("after Close: %v", err)
			}
			if _, err := e.x.Written(t.Context()); !errors.Is(err, agent.ErrClosed) {
				t.Errorf("written after Close: %v", err)
			}
			if err := c.ReadAt(t.Context(), make([]byte, 1), 0); err == nil {
				t.Error("it can still be read")
			}
		})
	}
}

// TestT1ExportEnds: a process that ends, and a migration that wants its place, end the exports.
func TestT1ExportEnds(t *testing.T) {
	need.UFFD(t)
	t.Run("the process is gone", func(t *testing.T) {
		for _, tracked := range []bool{false, true} {
			e := export(t, tracktest.Memfd, tracked)
			e.Kill()
			if err := e.x.Wait(t.Context()); !errors.Is(err, migrate.ErrNoDomain) {
				t.Errorf("tracked %t: %v", tracked, err)
			}
			a, b := pair(t)
			if err := e.x.Serve(t.Context(), a); !errors.Is(err, agent.ErrClosed) {
				t.Errorf("tracked %t: %v", tracked, err)
			}
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("tracked %t: the client's connection is still there: %v", tracked, err)
			}
		}
	})
	t.Run("a migration begins", func(t *testing.T) {
		e := export(t, tracktest.Memfd, true)
		if _, err := e.w.Export(t.Context(), e.spec(true)); !errors.Is(err, migrate.ErrBusy) {
			t.Errorf("tracked twice: %v", err)
		}
		k, err := e.w.take(t.Context(), migrate.SideSource, e.PID, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.x.Wait(t.Context()); !errors.Is(err, migrate.ErrBusy) || migrate.FixOf(err) == "" {
			t.Errorf("%v", err)
		}
		if n := e.faults(t); n != 0 {
			t.Errorf("%d userfaultfds are in its way", n)
		}
		if _, err := e.x.Written(t.Context()); !errors.Is(err, migrate.ErrBusy) {
			t.Errorf("written: %v", err)
		}
		if err := k.release(); err != nil {
			t.Error(err)
		}
	})
	t.Run("another agent wants it", func(t *testing.T) {
		e := export(t, tracktest.Memfd, true)
		conn, err := net.Dial("unix", lockName(migrate.SideSource, e.PID))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if gone, err := hangsUp(t.Context(), conn, leaveTime); !gone || err != nil {
			t.Errorf("it does not go: %v", err)
		}
		if err := e.x.Wait(t.Context()); !errors.Is(err, migrate.ErrBusy) {
			t.Errorf("%v", err)
		}
	})
}

// TestT1ExportRefuses: memory that is not there or not all there is refused, with the reason.
func TestT1ExportRefuses(t *testing.T) {
	need.UFFD(t)
	p := tracktest.Start(t, tracktest.Memfd, exportPages)
	e := &exported{Process: p}
	w, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*agent.ExportSpec){
		"it is not known where QEMU has mapped it":              func(s *agent.ExportSpec) { s.Regions[0].Addr = 0 },
		"QEMU has no memory of one kind over all of its 64 MiB": func(s *agent.ExportSpec) { s.Regions[0].Size = 64 << 20 },
		"no RAM blocks were named":                              func(s *agent.ExportSpec) { s.Regions = nil },
		"it was not said how to find the guest's QEMU":          func(s *agent.ExportSpec) { s.Guest.PID = 0 },
		"no such process":                                       func(s *agent.ExportSpec) { s.Guest.PID = 1 << 30 },
		"page size 3 is no power of two from 4096":              func(s *agent.ExportSpec) { s.Regions[0].PageSize = 3 },
	} {
		spec := e.spec(false)
		spoil(&spec)
		if _, err := w.Export(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	u, fd, err := sys.InjectUserFault(t.Context(), p.PID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.API(sys.FeatureMissingShmem); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Export(t.Context(), e.spec(false)); !errors.Is(err, migrate.ErrBusy) || migrate.FixOf(err) == "" {
		t.Errorf("a guest that is being paged in: %v", err)
	}
	if err := errors.Join(sys.InjectClose(t.Context(), p.PID, fd), u.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if n := len(w.ends); n != 0 {
		t.Errorf("%d ends are kept", n)
	}
}

// TestT1TrackerLeft: an agent that was killed leaves its tracker in QEMU; the next one takes it out, or could not arm its own.
// What a pager left there stays.
func TestT1TrackerLeft(t *testing.T) {
	need.UFFD(t)
	for _, m := range []tracktest.Memory{tracktest.Memfd, tracktest.Anonymous} {
		p := tracktest.Start(t, m, exportPages)
		left, _, err := sys.InjectUserFaultMode(t.Context(), p.PID, true)
		if err != nil {
			t.Fatal(err)
		}
		_, err = left.API(sys.FeatureWPAsync | sys.FeatureWPUnpopulated | sys.FeatureWPHugetlbfsShmem)
		if err := errors.Join(err, left.Register(p.Region.Addr, uint64(p.Region.Block.Size), sys.WriteProtect), left.Close()); err != nil {
			t.Fatal(err)
		}
		e := &exported{Process: p}
		if e.w, err = New(Options{}); err != nil {
			t.Fatal(err)
		}
		if e.x, err = e.w.Export(t.Context(), e.spec(true)); err != nil {
			t.Fatal(err)
		}
		if n := e.faults(t); n != 1 {
			t.Errorf("%d userfaultfds, want ours", n)
		}
		if err := e.w.Close(); err != nil {
			t.Error(err)
		}
	}
	p := tracktest.Start(t, tracktest.Memfd, exportPages)
	pager, fd, err := sys.InjectUserFault(t.Context(), p.PID)
	if err == nil {
		_, err = pager.API(sys.FeatureMissingShmem)
	}
	if err := errors.Join(err, takeOutTrackers(t.Context(), p.PID)); err != nil {
		t.Fatal(err)
	}
	if n := (&exported{Process: p}).faults(t); n != 1 {
		t.Errorf("the pager's is gone: %d", n)
	}
	if err := errors.Join(pager.Close(), sys.InjectClose(t.Context(), p.PID, fd)); err != nil {
		t.Error(err)
	}
}
