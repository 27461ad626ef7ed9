package storage_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// All that can be written out is, whatever becomes of the others, and a path that is no image holds nobody up.
func TestSync(t *testing.T) {
	dir := t.TempDir()
	image, pipe, missing := filepath.Join(dir, "image"), filepath.Join(dir, "pipe"), filepath.Join(dir, "missing")
	if err := os.WriteFile(image, []byte("some"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := storage.Sync(image, image); err != nil {
		t.Error(err)
	}
	var e *storage.Error
	if err := storage.Sync(image, missing); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &e) || e.Path != missing {
		t.Errorf("an image that is not there: %v", err)
	}
	for _, path := range []string{pipe, dir, "/dev/null"} {
		if err := storage.Sync(path); !errors.As(err, &e) || e.Path != path {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := storage.Sync(); err != nil {
		t.Error(err)
	}
}
