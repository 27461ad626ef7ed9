package disks

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
)

// nobody wants to know.
func nobody(agent.Progress) {}

// shortDir is for sockets, whose paths have to be short.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "disks")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// destSpec is for one disk.
func destSpec(t testing.TB, dir string, size int64) agent.DiskDestSpec {
	return agent.DiskDestSpec{Migration: migration(t), Mode: agent.DisksAfter, Guest: "g", Link: testLink("127.0.0.1:0"),
		Disks: []agent.DestDisk{{Target: "vda", Size: size, Socket: filepath.Join(dir, "vda.sock"), Cache: filepath.Join(dir, "vda.cache")}}}
}

func destOf(t testing.TB, e *Ends, spec agent.DiskDestSpec) agent.DiskDest {
	t.Helper()
	d, err := e.OpenDest(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(context.Background(), agent.DiskClosing{Abandon: true}); err != nil {
			t.Error(err)
		}
	})
	return d
}

func uri(dir string) string {
	return "nbd+unix:///vda?socket=" + filepath.Join(dir, "vda.sock")
}

// A disk comes over whole, its holes as holes, by peers that are not ours at both ends.
func TestT2AfterWhole(t *testing.T) {
	tools(t)
	const size = 20<<20 + 12288
	raw, rawContent := rawDisk(t, size, 1)
	qcow2, qcow2Content := qcow2Disk(t, size, 2)
	for _, c := range []struct {
		format, path string
		content      []byte
	}{{"raw", raw, rawContent}, {"qcow2", qcow2, qcow2Content}} {
		t.Run(c.format, func(t *testing.T) {
			e, dir := New(Options{}), shortDir(t)
			d := destOf(t, e, destSpec(t, dir, size))
			s, err := sourceOf(t, e, d.Addr(), false, agent.SourceDisk{Target: "vda", Path: c.path, Format: c.format, Size: size})
			if err != nil {
				t.Fatal(err)
			}
			readBack(t, dir, c.content)
			if err := s.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := d.Thaw(t.Context()); err != nil {
				t.Fatal(err)
			}
			run(t, "qemu-io", "-r", "-f", "raw", "-c", "read 1000000 70000", uri(dir))
			p, err := d.Fetch(t.Context(), nobody)
			if err != nil || p.Remaining != 0 || p.Disks[0].Remaining != 0 {
				t.Fatalf("%+v, %v", p, err)
			}
			if data := p.Disks[0].Data; p.Bytes > data+data/10+1<<20 || p.Bytes < data || p.Disks[0].Reads == 0 {
				t.Errorf("%d bytes came, of %d of data: %+v", p.Bytes, data, p.Disks[0])
			}
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			readBack(t, dir, c.content)
			args := []string{"compare", "-U", "-f", c.format, "-F", "raw", c.path, uri(dir)}
			if c.format == "raw" {
				args = append(args, "-s") // the same holes, too
			}
			run(t, "qemu-img", args...)
			out := filepath.Join(dir, "copy")
			run(t, "nbdcopy", uri(dir), out)
			if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, c.content) {
				t.Errorf("nbdcopy gets something else, %v", err)
			}
			if err := d.Close(t.Context(), agent.DiskClosing{Done: true}); err != nil {
				t.Fatal(err)
			}
			for _, gone := range []string{"vda.cache", "vda.sock"} {
				if _, err := os.Stat(filepath.Join(dir, gone)); !os.IsNotExist(err) {
					t.Errorf("%s is left: %v", gone, err)
				}
			}
		})
	}
}

// readBack compares what QEMU's tools see of the export.
func readBack(t *testing.T, dir string, want []byte) {
	t.Helper()
	out := filepath.Join(dir, "back")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri(dir), out)
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("other contents from %d on, of %d", i, len(want))
			}
		}
		t.Fatal(fmt.Sprint(len(got), err))
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
}
