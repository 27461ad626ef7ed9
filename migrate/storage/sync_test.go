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
	if err := storage.Sync(false, image, image); err != nil {
		t.Error(err)
	}
	var e *storage.Error
	if err := storage.Sync(false, image, missing); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &e) || e.Path != missing {
		t.Errorf("an image that is not there: %v", err)
	}
	for _, path := range []string{pipe, dir, "/dev/null"} {
		if err := storage.Sync(true, path); !errors.As(err, &e) || e.Path != path {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := storage.Sync(true); err != nil {
		t.Error(err)
	}
}

// What is dropped is not in the cache any more, where the file system has one.
func TestSyncDrops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var fsType unix.Statfs_t
	if err := unix.Statfs(path, &fsType); err != nil || fsType.Type == unix.TMPFS_MAGIC {
		t.Logf("%v; tmpfs holds files in nothing but the cache", err)
		return
	}
	for drop, want := range map[bool]uint64{false: 256, true: 0} {
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := storage.Sync(drop, path); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var got unix.Cachestat_t
		err = unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: 1 << 20}, &got, 0)
		if err = errors.Join(err, f.Close()); errors.Is(err, unix.ENOSYS) {
			t.Log("this kernel does not tell what it caches")
			return
		}
		if err != nil || got.Cache*uint64(os.Getpagesize()) != want*4096 || got.Dirty != 0 {
			t.Errorf("dropped %t: %+v, %v", drop, got, err)
		}
	}
}
