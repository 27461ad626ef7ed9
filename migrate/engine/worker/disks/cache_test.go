package disks

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
	"github.com/vmmigrate/vmmigrate/postcopy/prepage"
)

func cacheOf(t *testing.T, d agent.DestDisk, resume bool) (c *cache, present, zero *ram.Bitmap) {
	t.Helper()
	c, present, zero, err := openCache(d, "m", resume)
	if err != nil {
		t.Fatal(err)
	}
	return c, present, zero
}

// What was written and not marked, as by an agent that is killed in between, is missing; what is marked is there.
func TestCacheIsTakenUp(t *testing.T) {
	d := agent.DestDisk{Target: "vda", Size: 10*unit + 512, Cache: filepath.Join(t.TempDir(), "c")}
	c, present, zero := cacheOf(t, d, false)
	if c.units() != 11 || present.Len() != 11 || !present.Empty() || !zero.Empty() {
		t.Fatalf("%d units, %d present", c.units(), present.Count())
	}
	p := make([]byte, 2*unit)
	for i := range p {
		p[i] = byte(i) | 1
	}
	err := errors.Join(c.put(2, p, []ram.Extent{{Offset: 2*unit + 8192, Length: 4096}}), c.mark(2, 4, markPresent), c.put(5, p[:unit], nil),
		c.mark(7, 9, markZero), c.put(10, p[:512], nil), c.mark(10, 11, markPresent), c.close())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(d.Cache)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	c, present, zero = cacheOf(t, d, true)
	defer c.close()
	for u := range 11 {
		if want := u == 2 || u == 3 || u == 10; present.Test(u) != want {
			t.Errorf("unit %d: present %t", u, !want)
		}
		if want := u == 7 || u == 8; zero.Test(u) != want {
			t.Errorf("unit %d: zero %t", u, !want)
		}
	}
	got := make([]byte, 2*unit)
	holes, err := c.read(t.Context(), got, 2*unit)
	if err != nil || len(holes) != 1 || holes[0].Length != 4096 || got[0] != p[0] || got[2*unit-1] != p[2*unit-1] {
		t.Errorf("holes %v, %v", holes, err)
	}
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Cache); !os.IsNotExist(err) {
		t.Errorf("it is left: %v", err)
	}
}

// A cache that is not ours, or of which nobody knows what it holds, is refused and left as it is.
func TestCacheIsRefused(t *testing.T) {
	good := agent.DestDisk{Target: "vda", Size: 3 * unit, Cache: filepath.Join(t.TempDir(), "c")}
	c, _, _ := cacheOf(t, good, false)
	at := c.headerAt
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := openCache(good, "m", false); !errors.Is(err, storage.ErrExists) {
		t.Errorf("one that is there is made anew: %v", err)
	}
	if _, _, _, err := openCache(good, "other", true); !errors.Is(err, errForeignCache) {
		t.Errorf("that of another migration: %v", err)
	}
	for _, change := range []func(*agent.DestDisk){
		func(d *agent.DestDisk) { d.Target = "vdb" }, func(d *agent.DestDisk) { d.Size -= 512 }, func(d *agent.DestDisk) { d.Size += unit },
	} {
		bad := good
		change(&bad)
		if _, _, _, err := openCache(bad, "m", true); !errors.Is(err, errForeignCache) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	link := good
	link.Cache += "-link"
	if err := os.Symlink(good.Cache, link.Cache); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := openCache(link, "m", true); err == nil {
		t.Error("a symbolic link is followed")
	}
	for _, torn := range []int64{0, 20, 60} {
		f, err := os.OpenFile(good.Cache, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		old := make([]byte, 1)
		_, err = f.ReadAt(old, at+torn)
		_, err2 := f.WriteAt([]byte{old[0] ^ 0x40}, at+torn)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := openCache(good, "m", true); !errors.Is(err, errTornCache) {
			t.Errorf("torn at %d: %v", torn, err)
		}
		_, err = f.WriteAt(old, at+torn)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	c, _, _ = cacheOf(t, good, true)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
}

// What was in the hands of a kernel that is gone is not there.
func TestCacheOfAnEarlierBoot(t *testing.T) {
	d := agent.DestDisk{Target: "vda", Size: 3 * unit, Cache: filepath.Join(t.TempDir(), "c")}
	c, _, _ := cacheOf(t, d, false)
	head, err := cacheHeader{"m", "vda", d.Size, unit, "an earlier one"}.encode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.f.WriteAt(head, c.headerAt)
	if err := errors.Join(err, c.put(0, make([]byte, unit), nil), c.mark(0, 3, markPresent), c.close()); err != nil {
		t.Fatal(err)
	}
	c, present, zero := cacheOf(t, d, true)
	defer c.close()
	if !present.Empty() || !zero.Empty() {
		t.Error("it is taken for present")
	}
}

func FuzzCacheHeader(f *testing.F) {
	good, _ := cacheHeader{"m", "vda", 1 << 30, unit, "b"}.encode()
	f.Add(good)
	f.Add([]byte(cacheMagic))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := decodeHeader(p)
		if err != nil {
			return
		}
		if again, err := h.encode(); err == nil {
			if back, err := decodeHeader(again); err != nil || back != h {
				t.Fatalf("%+v became %+v, %v", h, back, err)
			}
		}
	})
}

func TestZeroUnits(t *testing.T) {
	const z, size = nbd.StatusZero, 5*unit + 100
	st := func(n int64, flags uint32) nbd.Status { return nbd.Status{Length: n, Flags: flags} }
	for name, c := range map[string]struct {
		off  int64
		list []nbd.Status
		zero []prepage.Run
		data int64
	}{
		"all data":       {0, []nbd.Status{st(size, 0)}, nil, size},
		"all zero":       {0, []nbd.Status{st(size, z)}, []prepage.Run{{Lo: 0, Hi: 6}}, 0},
		"one byte":       {0, []nbd.Status{st(unit, z), st(1, 0), st(size-unit-1, z)}, []prepage.Run{{Lo: 0, Hi: 1}, {Lo: 2, Hi: 6}}, 1},
		"parts of units": {0, []nbd.Status{st(unit-1, z), st(1, 0), st(unit-1, z), st(1, 0)}, nil, 2},
		"two kinds":      {unit, []nbd.Status{st(unit/2, z|nbd.StatusHole), st(unit/2, z), st(1, 0)}, []prepage.Run{{Lo: 1, Hi: 2}}, 1},
		"the short end":  {4 * unit, []nbd.Status{st(unit, 0), st(100, z)}, []prepage.Run{{Lo: 5, Hi: 6}}, unit},
		"not to the end": {4 * unit, []nbd.Status{st(unit, 0), st(99, z)}, nil, unit},
	} {
		zero, data := zeroUnits(c.off, size, c.list)
		if len(zero) != len(c.zero) || data != c.data {
			t.Errorf("%s: %v and %d bytes", name, zero, data)
			continue
		}
		for i, r := range zero {
			if r != c.zero[i] {
				t.Errorf("%s: %v, want %v", name, zero, c.zero)
			}
		}
	}
}
