package disks

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// sourceOf opens a source's end for one disk.
func sourceOf(t *testing.T, e *Ends, addr string, resume bool, d agent.SourceDisk) (agent.DiskSource, error) {
	t.Helper()
	s, err := e.OpenSource(t.Context(), agent.DiskSourceSpec{Migration: migration(t), Mode: agent.DisksAfter, Link: testLink(addr), Disks: []agent.SourceDisk{d}, Resume: resume})
	if err == nil {
		closing(t, s.Close)
	}
	return s, err
}

// What the source's end serves is what the image holds, and what it says to be zero is.
func TestT2SourceServesImages(t *testing.T) {
	tools(t)
	const size = 20<<20 + 4096
	raw, rawContent := rawDisk(t, size, 1)
	qcow2, qcow2Content := qcow2Disk(t, size, 2)
	for _, c := range []struct {
		format, path string
		content      []byte
	}{{"raw", raw, rawContent}, {"qcow2", qcow2, qcow2Content}} {
		t.Run(c.format, func(t *testing.T) {
			e := New(Options{})
			a := acceptor(t, e)
			letGo := holder(t, c.format, c.path)
			s, err := sourceOf(t, e, a.Addr().String(), false, agent.SourceDisk{Target: "vda", Path: c.path, Format: c.format, Size: size})
			if err != nil {
				t.Fatal(err)
			}
			live := clientOf(t, a, datalink.Bulk, "live/vda", size)
			if got := make([]byte, 4096); live.ReadAt(t.Context(), got, size-4096) != nil || !bytes.Equal(got, c.content[size-4096:]) {
				t.Error("what is read beside a writer is not there")
			}
			if _, err := openClient(t.Context(), a, datalink.Bulk, size, nbd.ClientConfig{Export: "disk/vda"}); err == nil {
				t.Error("a disk is called final before it is frozen")
			}
			letGo()
			if err := s.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			same(t, clientOf(t, a, datalink.Demand, "disk/vda", size), c.content)
			same(t, live, c.content)
		})
	}
}

func clientOf(t *testing.T, a *datalink.Acceptor, role datalink.Role, export string, size int64) *nbd.Client {
	t.Helper()
	c, err := openClient(t.Context(), a, role, size, nbd.ClientConfig{Export: export})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// same compares an export with what is to be in it, its extents too.
func same(t *testing.T, c *nbd.Client, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := c.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("other contents, %v", err)
	}
	list, err := c.BlockStatus(t.Context(), nbd.BaseAllocation, 0, int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	var at, zero int64
	for _, x := range list {
		if x.Flags&nbd.StatusZero != 0 {
			zero += x.Length
			if bytes.ContainsFunc(want[at:at+x.Length], func(r rune) bool { return r != 0 }) {
				t.Errorf("%d bytes at %d are no zeros", x.Length, at)
			}
		}
		at += x.Length
	}
	if zero == 0 {
		t.Error("no holes are told")
	}
}

// An image that somebody writes to is not frozen; a frozen one cannot be opened for writing.
func TestT2FreezeWantsTheImageAlone(t *testing.T) {
	tools(t)
	const size = 4 << 20
	raw, _ := rawDisk(t, size, 1)
	qcow2, _ := qcow2Disk(t, size, 2)
	for format, path := range map[string]string{"raw": raw, "qcow2": qcow2} {
		t.Run(format, func(t *testing.T) {
			e := New(Options{Freeze: 50 * time.Millisecond})
			a := acceptor(t, e)
			letGo := holder(t, format, path)
			s, err := sourceOf(t, e, a.Addr().String(), false, agent.SourceDisk{Target: "vda", Path: path, Format: format, Size: size})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Freeze(t.Context()); !errors.Is(err, migrate.ErrBusy) {
				t.Errorf("with a writer: %v, want busy", err)
			}
			letGo()
			again := holder(t, format, path) // what was refused leaves no lock
			again()
			for range 2 {
				if err := s.Freeze(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.Command("qemu-io", "-f", format, "-c", "write 0 512", path).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "lock") {
				t.Errorf("a frozen image was opened for writing: %s", out)
			}
			run(t, "qemu-io", "-r", "-f", format, "-c", "read 0 512", path)
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			run(t, "qemu-io", "-f", format, "-c", "read 0 512", path)
		})
	}
}

// Another agent takes the place of one that serves, whose image is frozen.
func TestT2SourceIsTakenOver(t *testing.T) {
	tools(t)
	const size = 4 << 20
	path, content := qcow2Disk(t, size, 3)
	one, other := New(Options{}), New(Options{})
	a := acceptor(t, one)
	d := agent.SourceDisk{Target: "vda", Path: path, Format: "qcow2", Size: size}
	var last agent.DiskSource
	for i, e := range []*Ends{one, other, other} {
		s, err := sourceOf(t, e, a.Addr().String(), true, d)
		if err != nil {
			t.Fatal(fmt.Sprint(i, err))
		}
		last = s
	}
	same(t, clientOf(t, a, datalink.Demand, "disk/vda", size), content)
	if n := len(one.all()) + len(other.all()); n != 1 {
		t.Errorf("%d ends are open, want one", n)
	}
	if err := last.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, e := range []*Ends{one, other} {
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestSourceDiskIsChecked(t *testing.T) {
	good := agent.SourceDisk{Target: "vda", Path: "/a", Format: "qcow2", Size: 1}
	if err := checkDisk(good); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*agent.SourceDisk){
		func(d *agent.SourceDisk) { d.Target = "" }, func(d *agent.SourceDisk) { d.Path = "nbd://evil" }, func(d *agent.SourceDisk) { d.Size = 0 },
		func(d *agent.SourceDisk) { d.Format = "qcow2,file.filename=/etc/shadow" }, func(d *agent.SourceDisk) { d.Format = "" },
	} {
		bad := good
		change(&bad)
		if checkDisk(bad) == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
