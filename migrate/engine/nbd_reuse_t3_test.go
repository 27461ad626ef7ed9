package engine_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker"
	"github.com/vmmigrate/vmmigrate/migrate/engine/worker/kept"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest/pair"
)

const reusedUUID = "6a1f0c5e-3f0b-4c9a-9d55-3c1d2b7a9e10"

// save writes what a guest's RAM is now into a file.
func save(t *testing.T, path string, m *pair.Machine, size int64) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := io.Copy(f, io.NewSectionReader(m.RAM(t), 0, size)); err != nil {
		t.Fatal(err)
	}
	return f
}

// keepNow leaves a copy of what a guest's RAM is now.
func keepNow(t *testing.T, s kept.Store, m *pair.Machine, size int64) {
	t.Helper()
	f := save(t, filepath.Join(t.TempDir(), "ram"), m, size)
	if _, err := s.Keep(t.Context(), kept.Guest{UUID: reusedUUID}, []kept.Part{{Block: ram.Block{Name: "ram", Size: size, PageSize: 4096}, File: f}}, nil); err != nil {
		t.Fatal(err)
	}
}

// tamper changes a byte in every page of a copy.
func tamper(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, reusedUUID, "*.ram"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	b := make([]byte, 1)
	for at := int64(0); err == nil && at < info.Size(); at += 4096 {
		if _, err = f.ReadAt(b, at+at/4096%4096); err == nil {
			b[0]++
			_, err = f.WriteAt(b, at+at/4096%4096)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What the destination has of the guest's RAM from before does not cross the link, and whatever the copy holds, the guest has
// its own RAM afterwards. The source keeps a copy of it as it was when the guest left.
func TestT3NBDReusesRAM(t *testing.T) {
	const size, from, to = 64 * mib, 8 * mib, 56 * mib // what the guest does not write lies between the two
	for name, c := range map[string]struct {
		strategy migrate.Strategy
		tampered bool
		tracker  string
		image    bool
	}{
		"precopy":               {strategy: migrate.StrategyPrecopy},
		"hybrid":                {strategy: migrate.StrategyHybrid},
		"postcopy":              {strategy: migrate.StrategyPostcopy},
		"compared by its pages": {strategy: migrate.StrategyPrecopy, tracker: "hash"},
		"a saved image":         {strategy: migrate.StrategyHybrid, image: true},
		"tampered":              {strategy: migrate.StrategyPostcopy, tampered: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := kept.Store{Dir: filepath.Join(t.TempDir(), "kept")}
			o := pair.Options{Memory: size, Args: []string{"-uuid", reusedUUID}, Guest: bareguest.Config{Start: mib, End: 4 * mib, Rate: 2000}}
			p := migrate.Params{Strategy: c.strategy, Tracker: c.tracker, Reuse: true, KeepCopy: true, Timeout: 10 * time.Second}
			image := filepath.Join(t.TempDir(), "image")
			if c.image {
				p.Reuse, p.ReuseRAM = false, image
			}
			m := begin(t, o, p, worker.Options{KeepDir: s.Dir})
			own := make([]byte, to-from)
			rand.Read(own)
			clear(own[10*mib : 12*mib])
			m.Source.Put(t, 0, from, own)
			if c.image {
				save(t, image, m.Source, size)
			} else {
				keepNow(t, s, m.Source, size)
			}
			rand.Read(own[20*mib : 21*mib])
			m.Source.Put(t, 0, from, own)
			if c.tampered {
				tamper(t, s.Dir)
			}
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			if step, err := m.steps(ctx); err != nil {
				t.Fatalf("%s: %v (%v)", step, err, m.tell.notes)
			}
			goesOn(t, m.Dest)
			has := make([]byte, len(own))
			if _, err := m.Dest.RAM(t).ReadAt(has, from); err != nil || !bytes.Equal(has, own) {
				t.Error("the guest does not have its RAM", err)
			}
			m.tell.mu.Lock()
			defer m.tell.mu.Unlock()
			st := m.tell.ours
			if st.Reused == nil {
				t.Fatal("nobody told of reuse:", m.tell.notes)
			}
			t.Logf("%d bytes for %d pages, %d of them reused; %v", *st.RAMSent, *st.NormalPages, *st.Reused, m.tell.notes)
			if pages := *st.Reused * 4096; c.tampered != (pages == 0) || !c.tampered && pages < (to-from)-8*mib {
				t.Errorf("%d MiB were reused", pages/mib)
			}
			// What the guest writes itself, 3 MiB in the end, comes once more in each round: a busy machine needs more of them.
			if fetched := *st.RAMSent; c.tampered != (fetched > (to-from)-8*mib) || !c.tampered && fetched > (to-from)/2 {
				t.Errorf("%d MiB were fetched", fetched/mib)
			}
			if notes := strings.Join(m.tell.notes, "\n"); !strings.Contains(notes, "only what differs is fetched") || !strings.Contains(notes, "was kept at the source") {
				t.Error(notes)
			}
			left, err := s.Find(reusedUUID)
			if err != nil {
				t.Fatal(err)
			}
			defer left.Close()
			was, is := make([]byte, size), make([]byte, size)
			if _, err := left.Block(ram.Block{Name: "ram", Size: size, PageSize: 4096}).ReadAt(is, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Source.RAM(t).ReadAt(was, 0); err != nil || !bytes.Equal(was, is) {
				t.Error("what was kept is not what the guest left", err)
			}
		})
	}
}

// A guest of which nothing is there moves as ever, and so does one whose host has no room for a copy.
func TestT3NBDHasNothingToReuse(t *testing.T) {
	o := pair.Options{Memory: 32 * mib, Args: []string{"-uuid", reusedUUID}, Guest: bareguest.Config{Start: mib, End: 4 * mib, Rate: 2000}}
	m := begin(t, o, migrate.Params{Strategy: migrate.StrategyHybrid, Reuse: true, KeepCopy: true}, worker.Options{KeepDir: filepath.Join(t.TempDir(), "kept"), KeepLimit: 1})
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if step, err := m.steps(ctx); err != nil {
		t.Fatalf("%s: %v (%v)", step, err, m.tell.notes)
	}
	goesOn(t, m.Dest)
	m.tell.mu.Lock()
	defer m.tell.mu.Unlock()
	if m.tell.ours.Reused != nil {
		t.Errorf("%d pages were reused", *m.tell.ours.Reused)
	}
	notes := strings.Join(m.tell.notes, "\n")
	for _, want := range []string{"none of the guest's RAM can be reused: no copy", "no copy of the guest's RAM was kept at the source: ", "MiB are the limit"} {
		if !strings.Contains(notes, want) {
			t.Errorf("%q does not say %q", notes, want)
		}
	}
}
