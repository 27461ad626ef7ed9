package qmp_test

import (
	"testing"
	"time"

	goqemu "github.com/digitalocean/go-qemu/qmp"

	"github.com/vmmigrate/vmmigrate/qmp"
)

// wrapSocketMonitor connects go-qemu's own monitor and wraps it.
func wrapSocketMonitor(t testing.TB, path string) *qmp.WrappedMonitor {
	t.Helper()
	m, err := goqemu.NewSocketMonitor("unix", path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Connect(); err != nil {
		t.Fatal(err)
	}
	w := qmp.WrapMonitor(m)
	t.Cleanup(func() { _ = w.Close() })
	return w
}
