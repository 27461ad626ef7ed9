package worker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// An agent makes an image, refuses to make it twice with a fix, and takes back what it made.
func TestT1WorkerMakesImages(t *testing.T) {
	need.NBD(t)
	w, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := storage.Spec{Migration: "m-1", Target: "vda", Path: filepath.Join(t.TempDir(), "x"), Format: "qcow2", Size: 1 << 20}
	m, err := w.StageImage(t.Context(), s)
	if os.Geteuid() != 0 {
		if !errors.Is(err, migrate.ErrNotSupported) {
			t.Errorf("not root, but: %v", err)
		}
		return
	}
	if err == nil {
		err = w.PlaceImage(t.Context(), m)
	}
	if err != nil {
		t.Fatal(err)
	}
	img, err := w.DescribeImage(t.Context(), storage.Query{Path: s.Path, Format: s.Format})
	if top, ok := img.Top(); err != nil || !ok || top.VirtualSize != s.Size {
		t.Errorf("%+v, %v", img, err)
	}
	if _, err := w.StageImage(t.Context(), s); !errors.Is(err, storage.ErrExists) || !strings.Contains(migrate.FixOf(err), "--disk") {
		t.Errorf("%v, fix %q", err, migrate.FixOf(err))
	}
	if err := w.RemoveImage(t.Context(), m); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}
