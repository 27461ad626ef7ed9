package pair

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestChainReadsAcrossItsParts(t *testing.T) {
	c := chain{{strings.NewReader("abc"), 3}, {strings.NewReader("de"), 2}, {strings.NewReader("fgh"), 3}}
	for _, tt := range []struct {
		off  int64
		n    int
		want string
		err  error
	}{
		{0, 3, "abc", nil}, {0, 8, "abcdefgh", nil}, {2, 4, "cdef", nil}, {3, 2, "de", nil}, {5, 9, "fgh", io.EOF}, {8, 1, "", io.EOF}, {99, 1, "", io.EOF},
	} {
		b := make([]byte, tt.n)
		n, err := c.ReadAt(b, tt.off)
		if string(b[:n]) != tt.want || err != tt.err {
			t.Errorf("%d bytes at %d: %q, %v", tt.n, tt.off, b[:n], err)
		}
	}
}

func TestFoldersThatWereLeftAreSwept(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * newFolder)
	make := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		return path
	}
	left, other := make(prefix+"left"), make("other")
	held := folder(t, dir)
	if err := os.Chtimes(held, old, old); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(dir, prefix+"fresh")
	if err := os.Mkdir(fresh, 0o700); err != nil {
		t.Fatal(err)
	}
	sweep(dir)
	for path, want := range map[string]bool{left: false, other: true, held: true, fresh: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v", filepath.Base(path), err == nil)
		}
	}
}

// kinds are pairs that differ in everything that an engine has to cope with.
func kinds() map[string]Options {
	return map[string]Options{
		"plain":                    {Memory: 16 * mib},
		"two blocks, two CPUs":     {Memory: 16 * mib, Blocks: 2, CPUs: 2},
		"huge pages":               {Memory: 16 * mib, HugePages: true},
		"huge pages in two blocks": {Memory: 16 * mib, HugePages: true, Blocks: 2},
		"kvm":                      {Memory: 16 * mib, Accel: "kvm"},
	}
}

func TestT3PairsOfEveryKindMigrate(t *testing.T) {
	need.QEMU(t)
	for name, o := range kinds() {
		t.Run(name, func(t *testing.T) {
			if o.Accel == "kvm" {
				need.KVM(t)
			}
			p := New(t, o)
			if s := p.Dest.Status(t); s != "inmigrate" {
				t.Errorf("the destination is %s", s)
			}
			if there, here := p.Dest.Hole(t, o.Blocks/2, 2*mib), p.Source.Hole(t, o.Blocks/2, 2*mib); here || there == o.HugePages {
				t.Errorf("a hole at the source: %v, at the destination: %v", here, there)
			}
			p.Source.Do(t, "stop", nil, nil)
			p.Source.Check(t)
			migrated(t, p)
			s := p.Dest.Check(t)
			if old := p.Source.Check(t); s.Pass < old.Pass || s.End != uint32(o.Memory-mib) {
				t.Errorf("%+v arrived, of %+v", s, old)
			}
			p.Dest.Do(t, "cont", nil, nil)
			p.Dest.Hear(t, "BB")
			p.Dest.Do(t, "stop", nil, nil)
			p.Dest.Check(t)
		})
	}
}

// migrated moves the stopped guest by QEMU itself.
func migrated(t *testing.T, p *Pair) {
	t.Helper()
	uri := "unix:" + filepath.Join(t.TempDir(), "ram")
	for _, m := range []*Machine{p.Source, p.Dest} {
		m.Do(t, "migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}, nil)
	}
	events, err := p.Dest.QMP.Events(t.Context(), "MIGRATION")
	if err != nil {
		t.Fatal(err)
	}
	p.Dest.Do(t, "migrate-incoming", map[string]any{"uri": uri}, nil)
	p.Source.Do(t, "migrate", map[string]any{"uri": uri}, nil)
	for e := range events {
		var data struct{ Status string }
		if err := json.Unmarshal(e.Data, &data); err != nil || data.Status == "failed" {
			t.Fatalf("%s: %v", e.Data, err)
		}
		if data.Status == "completed" {
			return
		}
	}
	t.Fatal("the migration did not end")
}

func TestT3ASpoiltPageIsSeenInEitherBlock(t *testing.T) {
	need.QEMU(t)
	p := New(t, Options{Memory: 16 * mib, Blocks: 2})
	p.Source.Do(t, "stop", nil, nil)
	for block := range 2 {
		if _, err := p.Source.files[block].WriteAt(make([]byte, 4096), 3*mib); err != nil {
			t.Fatal(err)
		}
		if _, err := bareguest.CheckRAM(p.Source.RAM(t)); err == nil || !strings.Contains(err.Error(), []string{"0x300000", "0xb00000"}[block]) {
			t.Errorf("a page lost in block %d: %v", block, err)
		}
	}
}
