package kept

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate/ram"
)

const (
	web   = "0b1f5f1e-9d2c-4c86-a6a5-1d2f3a4b5c6d"
	other = "11111111-2222-3333-4444-555555555555"
)

// guestRAM is RAM in two blocks of so many pages, of which each one that is not a multiple of three holds something.
func guestRAM(t *testing.T, pages int) []Part {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "ram"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	size := int64(pages) * unit
	parts := []Part{{ram.Block{Name: "pc.ram", Size: size, PageSize: unit}, f, 0}, {ram.Block{Name: "/objects/../node1", Size: size, PageSize: unit}, f, size}}
	if err := f.Truncate(2 * size); err != nil {
		t.Fatal(err)
	}
	for page := range 2 * pages {
		if page%3 != 0 {
			if _, err := f.WriteAt(contents(page), int64(page)*unit); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := f.WriteAt(make([]byte, unit), 0); err != nil { // zeros, and no hole
		t.Fatal(err)
	}
	return parts
}

func contents(page int) []byte { return bytes.Repeat([]byte{byte(page%250) + 1}, unit) }

func newStore(t *testing.T) Store {
	return Store{Dir: filepath.Join(t.TempDir(), "a", "ram"), unsynced: true}
}

func keep(t *testing.T, s Store, uuid string, parts []Part) Info {
	t.Helper()
	i, err := s.Keep(t.Context(), Guest{UUID: uuid, Name: "web"}, parts, nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// holds looks at every page of a copy.
func holds(t *testing.T, s Store, parts []Part, pages int) {
	t.Helper()
	c, err := s.Find(web)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make([]byte, unit)
	for page := range 2 * pages {
		p := c.Block(parts[page/pages].Block)
		if p == nil {
			t.Fatalf("block %d is not there (%v)", page/pages, c.Skipped)
		}
		if held := page%3 != 0; p.Held(page%pages) != held {
			t.Fatalf("page %d is held: %t, want %t", page, p.Held(page%pages), held)
		}
		want := contents(page)
		if page%3 == 0 {
			want = make([]byte, unit)
		}
		if _, err := p.ReadAt(got, int64(page%pages)*unit); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("page %d begins with %x, want %x (%v)", page, got[:4], want[:4], err)
		}
	}
}

// names lists what is in the folder.
func names(t *testing.T, s Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestCopyHoldsWhatTheGuestHad(t *testing.T) {
	const pages = 1000
	s, parts := newStore(t), guestRAM(t, pages)
	s.unsynced = false
	var told, total int64
	i, err := s.Keep(t.Context(), Guest{UUID: strings.ToUpper(web), Name: "web"}, parts, func(a, b int64) { told, total = a, b })
	if err != nil {
		t.Fatal(err)
	}
	holds(t, s, parts, pages)
	if want := int64(2*pages-1-(2*pages-1)/3) * unit; i.Bytes() != want || told != total || total < want {
		t.Errorf("it has %d bytes, want %d; told of %d of %d", i.Bytes(), want, told, total)
	}
	all, err := s.List()
	if err != nil || len(all) != 1 || all[0].UUID != web || all[0].Guest != "web" || all[0].Bytes() != i.Bytes() || all[0].Kept.IsZero() {
		t.Errorf("listed: %+v, %v", all, err)
	}
	for _, path := range []string{s.Dir, filepath.Join(s.Dir, web)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	files, err := os.ReadDir(filepath.Join(s.Dir, web))
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v %v", f.Name(), info.Mode(), err)
		}
	}
	if err := s.Drop(web); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(web); !errors.Is(err, ErrNone) || len(names(t, s)) != 0 {
		t.Error(err, names(t, s))
	}
	if err := s.Drop(web); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// A newer copy takes the older one's place, and who reads the older one goes on.
func TestCopyIsReplaced(t *testing.T) {
	s, parts := newStore(t), guestRAM(t, 10)
	keep(t, s, web, parts)
	c, err := s.Find(web)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := parts[0].File.WriteAt([]byte("new"), 0); err != nil {
		t.Fatal(err)
	}
	keep(t, s, web, parts)
	keep(t, s, other, parts)
	d, err := s.Find(web)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, 3)
	if _, err := d.Block(parts[0].Block).ReadAt(got, 0); err != nil || string(got) != "new" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := c.Block(parts[0].Block).ReadAt(got, 0); err != nil || string(got) == "new" {
		t.Errorf("the older one: %q %v", got, err)
	}
	if got := names(t, s); !slices.Equal(got, []string{web, other}) && !slices.Equal(got, []string{other, web}) {
		t.Error(got)
	}
}

func TestOnlyAGuestWithANameOfItsOwn(t *testing.T) {
	s, parts := newStore(t), guestRAM(t, 4)
	for _, uuid := range []string{"", "00000000-0000-0000-0000-000000000000", "..", "../" + web, web + "/..", web[:35], web + "0", ".new-" + web} {
		if _, err := s.Keep(t.Context(), Guest{UUID: uuid}, parts, nil); err == nil {
			t.Errorf("RAM of the guest %q was kept", uuid)
		}
		if c, err := s.Find(uuid); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("RAM of the guest %q: %v, %v", uuid, c, err)
		}
	}
	if _, err := os.Stat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("there is a folder already:", err)
	}
}

// Whatever befalls a copy, it is refused, or lacks a block, and never has other blocks than it says.
func TestWhatIsNoCopyAnyMore(t *testing.T) {
	info := func(change func(*Info)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			raw, err := os.ReadFile(filepath.Join(dir, infoFile))
			var i Info
			if err := errors.Join(err, json.Unmarshal(raw, &i)); err != nil {
				t.Fatal(err)
			}
			change(&i)
			if raw, err = json.Marshal(i); err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(dir, infoFile), raw)
		}
	}
	for name, spoil := range map[string]func(*testing.T, string){
		"no description":   func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, infoFile))) },
		"torn description": func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, infoFile), 20)) },
		"long description": func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, infoFile), maxInfo+1)) },
		"other form":       info(func(i *Info) { i.Version++ }),
		"other guest":      info(func(i *Info) { i.UUID = other }),
		"no blocks":        info(func(i *Info) { i.Blocks = nil }),
		"block of no size": info(func(i *Info) { i.Blocks[0].Size = 0 }),
		"block of a page":  info(func(i *Info) { i.Blocks[0].PageSize = 3 }),
		"more than it has": info(func(i *Info) { i.Blocks[0].Data = i.Blocks[0].Size + 1 }),
		"open to others":   func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o755)) },
		"open description": func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, infoFile), 0o644)) },
		"unknown field":    func(t *testing.T, dir string) { put(t, filepath.Join(dir, infoFile), []byte(`{"version":1,"more":2}`)) },
		"two descriptions": func(t *testing.T, dir string) { double(t, filepath.Join(dir, infoFile)) },
		"description a dir": func(t *testing.T, dir string) {
			swap(t, filepath.Join(dir, infoFile), func(p string) error { return os.Mkdir(p, 0o700) })
		},
		"block is short": func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "pc.ram.ram"), 3*unit)) },
		"block is long":  func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "pc.ram.ram"), 300*unit)) },
		"block is gone":  func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "pc.ram.ram"))) },
		"block is a pipe": func(t *testing.T, dir string) {
			swap(t, filepath.Join(dir, "pc.ram.ram"), func(p string) error { return unix.Mkfifo(p, 0o600) })
		},
		"block has two names": func(t *testing.T, dir string) {
			must(t, os.Link(filepath.Join(dir, "pc.ram.ram"), filepath.Join(dir, "more")))
		},
		"block is a link": func(t *testing.T, dir string) { link(t, filepath.Join(dir, "pc.ram.ram"), "there") },
		"block leads out": func(t *testing.T, dir string) {
			link(t, filepath.Join(dir, "pc.ram.ram"), filepath.Join(filepath.Dir(filepath.Dir(dir)), "out"))
		},
		"guest is a link": func(t *testing.T, dir string) { link(t, dir, "there") },
		"other block":     info(func(i *Info) { i.Blocks[0].Name = "pc.rom" }),
		"other size":      info(func(i *Info) { i.Blocks[0].Size /= 2; i.Blocks[0].Data = 0 }),
		"other page size": info(func(i *Info) { i.Blocks[0].PageSize = 2 * unit }),
	} {
		t.Run(name, func(t *testing.T) {
			s, parts := newStore(t), guestRAM(t, 100)
			keep(t, s, web, parts)
			spoil(t, filepath.Join(s.Dir, web))
			c, err := s.Find(web)
			if err == nil {
				defer c.Close()
				if c.Block(parts[0].Block) != nil {
					t.Error("the block is there")
				}
				if whole := strings.HasPrefix(name, "block ") || strings.HasPrefix(name, "other "); whole != (c.Block(parts[1].Block) != nil) {
					t.Error("the other block is there:", !whole)
				}
			}
			t.Log(err)
		})
	}
}

// Nothing is read from, or written to, where a link leads.
func TestFolderOfOthers(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"a link":         func(t *testing.T, dir string) { link(t, dir, "there") },
		"open to others": func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o750)) },
		"no folder":      func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)); put(t, dir, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			s, parts := newStore(t), guestRAM(t, 4)
			keep(t, s, web, parts)
			spoil(t, s.Dir)
			if _, err := s.Keep(t.Context(), Guest{UUID: other}, parts, nil); err == nil {
				t.Error("RAM was kept in it")
			}
			if _, err := s.Find(web); err == nil || errors.Is(err, ErrNone) {
				t.Error("found:", err)
			}
			if _, err := s.List(); err == nil {
				t.Error("listed")
			}
			if err := s.Drop(web); err == nil || errors.Is(err, ErrNone) {
				t.Error("dropped:", err)
			}
		})
	}
	if os.Geteuid() == 0 { // who can give files away
		s, parts := newStore(t), guestRAM(t, 4)
		keep(t, s, web, parts)
		must(t, os.Chown(s.Dir, 12345, 12345))
		if _, err := s.Find(web); err == nil || errors.Is(err, ErrNone) {
			t.Error("found in another user's folder:", err)
		}
	}
	if _, err := (Store{Dir: "ram"}).Find(web); err == nil {
		t.Error("a path that is not absolute")
	}
}

func TestNoRoom(t *testing.T) {
	const pages = 300
	for name, c := range map[string]struct {
		limit, free, size int64
		own, fits, stays  bool
	}{
		"enough":                   {free: 10 << 20, size: 10 << 20, fits: true},
		"within the limit":         {free: 10 << 20, size: 10 << 20, limit: 4 << 20, fits: true},
		"over the limit":           {free: 10 << 20, size: 10 << 20, limit: 2 << 20},
		"over it, with the old":    {free: 10 << 20, size: 10 << 20, limit: 2 << 20, own: true, stays: true},
		"a tenth stays free":       {free: 2 << 20, size: 10 << 20},
		"instead of the old":       {free: 2 << 20, size: 10 << 20, own: true, fits: true},
		"not instead of the other": {free: 1 << 20, size: 10 << 20, own: true, stays: true},
		"none at all":              {free: -1, size: 10 << 20, own: true, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			s, parts := newStore(t), guestRAM(t, pages)
			keep(t, s, other, parts)
			if c.own {
				keep(t, s, web, parts)
			}
			s.Limit, s.space = c.limit, func(*os.Root) (int64, int64, error) { return c.free, c.size, nil }
			_, err := s.Keep(t.Context(), Guest{UUID: web}, parts, nil)
			if (err == nil) != c.fits || err != nil && !errors.Is(err, ErrNoRoom) {
				t.Error(err)
			}
			found, err := s.Find(web)
			if (err == nil) != (c.fits || c.stays) {
				t.Error(err)
			}
			if err == nil {
				_ = found.Close()
			}
			if got := names(t, s); len(got) > 2 || len(got) == 0 {
				t.Error(got)
			}
		})
	}
}

// What fails half-way leaves nothing, and what dies half-way leaves nothing that is taken for a copy.
func TestHalfCopy(t *testing.T) {
	s, parts := newStore(t), guestRAM(t, 2000)
	ctx, stop := context.WithCancel(t.Context())
	if _, err := s.Keep(ctx, Guest{UUID: web}, parts, func(int64, int64) { stop() }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := names(t, s); len(got) != 0 {
		t.Error("a copy that was given up left", got)
	}
	var seen []string
	if _, err := s.Keep(t.Context(), Guest{UUID: web}, parts, func(int64, int64) {
		if seen == nil {
			seen = names(t, s)
			must(t, os.CopyFS(filepath.Join(s.Dir, newPrefix+"died"), os.DirFS(filepath.Join(s.Dir, seen[0]))))
			must(t, os.Mkdir(filepath.Join(s.Dir, oldPrefix+"died"), 0o700))
			if _, err := s.Find(web); !errors.Is(err, ErrNone) {
				t.Error("half a copy is found:", err)
			}
			keep(t, s, other, parts) // sweeps, but not what is being made
		}
	}); err != nil {
		t.Error(err)
	}
	if got := names(t, s); len(seen) != 1 || len(got) != 2 {
		t.Errorf("there was %v, there is %v", seen, got)
	}
	holds(t, s, parts, 2000)
}

// A file with all blocks, one after the other, is a copy, too, if it is of their size.
func TestImage(t *testing.T) {
	const pages = 100
	parts := guestRAM(t, pages)
	blocks := []ram.Block{parts[0].Block, parts[1].Block}
	path := parts[0].File.Name()
	c, err := OpenImage(path, blocks)
	if err != nil {
		t.Fatal(err)
	}
	if c.Kept.IsZero() || c.Bytes() < pages*unit {
		t.Errorf("of %v, %d bytes", c.Kept, c.Bytes())
	}
	got := make([]byte, unit)
	for page := range 2 * pages {
		p := c.Block(blocks[page/pages])
		if _, err := p.ReadAt(got, int64(page%pages)*unit); err != nil || page%3 != 0 && !bytes.Equal(got, contents(page)) {
			t.Fatalf("page %d begins with %x (%v)", page, got[:4], err)
		}
		if page%3 != 0 && !p.Held(page%pages) || page%3 == 0 && page > 0 && p.Held(page%pages) {
			t.Fatalf("page %d is held: %t", page, p.Held(page%pages))
		}
	}
	must(t, c.Close())
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	for _, bad := range []struct {
		path   string
		blocks []ram.Block
	}{{path, blocks[:1]}, {path + "-", blocks}, {"ram", blocks}, {pipe, blocks}, {t.TempDir(), nil}} {
		if _, err := OpenImage(bad.path, bad.blocks); err == nil {
			t.Errorf("%s is RAM of %d blocks", bad.path, len(bad.blocks))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path string, b []byte) { t.Helper(); must(t, os.WriteFile(path, b, 0o600)) }

func double(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	put(t, path, slices.Concat(b, b))
}

// swap puts something else in a file's place.
func swap(t *testing.T, path string, make func(string) error) {
	t.Helper()
	must(t, os.Remove(path))
	must(t, make(path))
}

// link moves a file or folder, and leaves a link.
func link(t *testing.T, path, to string) {
	t.Helper()
	there := to
	if !filepath.IsAbs(to) {
		there = filepath.Join(filepath.Dir(path), to)
	}
	must(t, os.Rename(path, there))
	must(t, os.Symlink(to, path))
}

func FuzzInfo(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`{"version":1,"uuid":%q,"guest":"web","kept":"2026-01-02T03:04:05Z","blocks":[{"name":"pc.ram","size":4096,"page_size":4096,"data":0}]}`, web)))
	f.Add([]byte(`{"version":1,"blocks":[{}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		i, err := parse(raw, web)
		if err == nil && (i.UUID != web || len(i.Blocks) == 0 || i.Bytes() < 0) {
			t.Errorf("%+v", i)
		}
	})
}
