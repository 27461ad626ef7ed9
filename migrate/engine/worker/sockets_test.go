package worker

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// Sockets that nobody listens on are swept; those in use, and what is not ours, stay.
func TestSweepSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "sweep") // paths of sockets have to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listen := func(name string, keep bool) string {
		path := filepath.Join(dir, name)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if keep {
			t.Cleanup(func() { _ = l.Close() })
		} else if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dead := []string{listen("vmmigrate-m-1.in", false), listen("vmmigrate-m-1.out", false), listen("vmmigrate-m-2.qmp", false)}
	stay := []string{listen("vmmigrate-m-3.in", true), listen("vmmigrate-m-3.qmp", true), listen("monitor.sock", false)}
	file := filepath.Join(dir, "vmmigrate-m-4.in")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sweepSockets(filepath.Join(dir, "vmmigrate-m-9.in"), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	for _, path := range dead {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range append(stay, file) {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}
