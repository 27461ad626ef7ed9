//go:build linux

package track_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/testenv/guest"
)

// A kernel with soft-dirty bits is not ours, maybe, but Debian's, which the lab's guests run: there the suite runs as the
// only program, inside a QEMU. It is slow, so not all of it does.
func TestT3SoftDirtyInAGuest(t *testing.T) {
	need.QEMU(t)
	assets, err := guest.Find()
	need.Guest(t, err)
	// Of its words those for the kernel count, which make it boot quicker.
	boot, err := assets.Boot(guest.Config{Name: "track", Addr: netip.MustParsePrefix("10.0.2.15/24")})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, archive(t, staticTest(t, dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
		"-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", boot.Kernel, "-initrd", initrd,
		"-append", boot.Cmdline+" -- -test.v -test.run=TestT1SoftDirty/memfd/(WhatWasWritten|KernelWrites|Discards|TheCopyIsEqual|TheProcessDies)")
	out, err := cmd.CombinedOutput()
	text := strings.ReplaceAll(string(out), "\r", "")
	if err != nil || !strings.Contains(text, "\nexit code 0\n") || !strings.Contains(text, "--- PASS: TestT1SoftDirty ") {
		t.Fatalf("in the guest: %v\n%s", err, text)
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "--- ") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// staticTest builds this package's tests as a program that needs no library.
func staticTest(t *testing.T, dir string) []byte {
	t.Helper()
	to := filepath.Join(dir, "test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-o", to, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("needs the go command, to build the tests for the guest: %v: %s; remedy: run the tests with .ci/env go test", err, out)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// archive is an initrd with the program as /init, and the console and folders that it needs.
func archive(t *testing.T, program []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := cpio.Newc.Writer(&out)
	records := []cpio.Record{cpio.Directory("dev", 0o755), cpio.Directory("proc", 0o755), cpio.Directory("sys", 0o755), cpio.Directory("tmp", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1), cpio.StaticFile("init", string(program), 0o755)}
	for i := range records {
		records[i].Info.Ino, records[i].Info.NLink = uint64(i+1), 1
		if records[i].Info.Mode&unix.S_IFMT == unix.S_IFDIR {
			records[i].Info.NLink = 2
		}
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		t.Fatal(err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
