package worker

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

// Pages that do not fit into the destination's file system are no more made missing: the guest would wait for them for ever.
func TestT2RoomForWhatIsMissing(t *testing.T) {
	need.Netns(t)
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	const size = 512 << 12 // each of two blocks is twice as large as what fits
	m := &memory{}
	defer func() { _ = m.close() }()
	for i, name := range []string{"a", "b"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		m.parts = append(m.parts, part{Block: ram.Block{Name: name, Size: size, PageSize: 4096}, index: i, start: m.size, file: f})
		m.size += size
	}
	for _, c := range []struct {
		a, b int
		fits bool
	}{{100, 100, true}, {250, 0, true}, {257, 0, false}, {0, 257, false}, {150, 150, false}} {
		set := ram.NewSet(m.blocks())
		set[0].SetRange(0, c.a)
		set[1].SetRange(512-c.b, 512)
		err := m.room(set)
		if (err == nil) != c.fits || err != nil && (!strings.Contains(err.Error(), "room for 1 MiB") || migrate.FixOf(err) == "") {
			t.Errorf("%d and %d pages: %v, want room: %t", c.a, c.b, err, c.fits)
		}
	}
	free, err := sys.Memfd("free", size, false)
	if err != nil {
		t.Fatal(err)
	}
	all := &memory{parts: []part{{Block: ram.Block{Name: "a", Size: 1 << 46, PageSize: 4096}, file: free}}}
	defer func() { _ = all.close() }()
	if err := all.room(ram.Set{full(1 << 20)}); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

func full(pages int) *ram.Bitmap {
	b := ram.NewBitmap(pages)
	b.Fill()
	return b
}
