package disks

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
)

// QEMU connects and reads before the source's end is there, and while the disk turns from what it is into what it was.
func TestT2ReadsBeforeTheGuestComes(t *testing.T) {
	tools(t)
	const size = 6 << 20
	path, content := qcow2Disk(t, size, 4)
	server, err := newChild("--format=qcow2", path) // in the place of the source's QEMU
	if err != nil {
		t.Fatal(err)
	}
	defer server.close()
	server.args[4] = "--export-name=vda"
	c, err := server.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	e, dir := New(Options{}), shortDir(t)
	d := destOf(t, e, destSpec(t, dir, size)).(*afterEnd)
	qemu := reader(t, dir)
	early, read := make([]byte, 4096), make(chan error, 1)
	go func() { read <- qemu.ReadAt(t.Context(), early, size-4096) }()
	s, err := sourceOf(t, e, d.Addr(), false, agent.SourceDisk{Target: "vda", Path: path, Format: "qcow2", Size: size, Live: server.socket()})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || !bytes.Equal(early, content[size-4096:]) {
		t.Fatalf("the first read: %v", err)
	}
	list, err := qemu.BlockStatus(t.Context(), nbd.BaseAllocation, 0, size)
	if err != nil || len(list) != 1 || list[0].Flags != 0 {
		t.Errorf("before anything is known: %v, %v", list, err)
	}
	if a := d.disks[0]; a.remaining() != size || !a.present.Empty() {
		t.Error("something is kept that the guest may still change")
	}
	if err := server.close(); err != nil { // the source's QEMU is gone
		t.Fatal(err)
	}
	go func() { read <- qemu.ReadAt(t.Context(), early, 0) }()
	if err := s.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || !bytes.Equal(early, content[:4096]) {
		t.Fatalf("a read between: %v", err)
	}
	checkAll(t, qemu, content)
}

// What is said of holes is true from the first moment, and all of it is said in the end.
func TestT1HolesAreToldWhenTheyAreKnown(t *testing.T) {
	const size = 8 << 20
	d, dir, content := departed(t, Options{}, size)
	qemu := reader(t, dir)
	list, err := qemu.BlockStatus(t.Context(), nbd.BaseAllocation, 0, size)
	if err != nil || len(list) != 1 || list[0].Flags != 0 {
		t.Errorf("before anything is known: %v, %v", list, err)
	}
	if list, err := (export{d.disks[0]}).Extents(t.Context(), unit/2, size-unit); err != nil || len(list) != 1 || list[0] != (nbd.Status{Length: unit / 2}) {
		t.Errorf("a client could remember for good that this is data: %v, %v", list, err)
	}
	if _, err := d.Fetch(t.Context(), nobody); err != nil {
		t.Fatal(err)
	}
	same(t, qemu, content)
}

// A source's end that cannot be served any more is no reason to answer a guest with an error: its agent hangs up.
func TestT1NoErrorForAGuestWhoseAgentGoes(t *testing.T) {
	const size = 4 << 20
	var wire cable
	d, dir, content := departed(t, Options{Dial: wire.dial, Rejoin: 50 * time.Millisecond}, size)
	s := &spoiler{}
	d.e.o.Spoil = s.spoil
	wire.set(true)
	qemu := reader(t, dir)
	got, read := make([]byte, 4096), make(chan error, 1)
	go func() { read <- qemu.ReadAt(t.Context(), got, 0) }()
	s.await("disk-read", 1)
	spec := d.spec
	spec.Resume = true
	next := destOf(t, d.e, spec).(*afterEnd) // takes over
	path := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	wire.set(false)
	if _, err := sourceOf(t, d.e, next.Addr(), true, agent.SourceDisk{Target: "vda", Path: path, Format: "raw", Size: size}); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || !bytes.Equal(got, content[:4096]) {
		t.Errorf("the read of a guest whose agent was replaced: %v", err)
	}
}

// Without a coordinator the source's end stays until nobody listens at the destination; the destination's fetches all, and stays
// until nobody reads there.
func TestT1EndsLinger(t *testing.T) {
	const size = 8 << 20
	path, content := rawDisk(t, size, 11)
	from, to := New(Options{}), New(Options{Linger: time.Second})
	dir := shortDir(t)
	d := destOf(t, to, destSpec(t, dir, size)).(*afterEnd)
	if _, err := sourceOf(t, from, d.Addr(), true, agent.SourceDisk{Target: "vda", Path: path, Format: "raw", Size: size}); err != nil {
		t.Fatal(err)
	}
	qemu := reader(t, dir)
	if err := d.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone := make(chan string, 2)
	go func() {
		to.Linger(t.Context())
		_ = to.Close(t.Context())
		gone <- "destination"
	}()
	go func() {
		from.Linger(t.Context())
		_ = from.Close(t.Context())
		gone <- "source"
	}()
	checkAll(t, qemu, content)
	select {
	case side := <-gone:
		t.Fatalf("the %s's end did not stay", side)
	default:
	}
	_ = qemu.Close()
	if first, second := <-gone, <-gone; first != "destination" || second != "source" {
		t.Errorf("the %s's end went before the %s's", first, second)
	}
	_, present, zero, err := openCache(d.disks[0].DestDisk, migration(t), true)
	if err != nil || present.Count()+zero.Count() != present.Len() {
		t.Errorf("the cache that is left: %v", err)
	}
}

const stranger = 65534

// The disk is for QEMU: for the owner of the socket's folder, for the superuser, and for nobody else.
func TestT2TheDiskOfAStranger(t *testing.T) {
	need.Netns(t)
	tools(t)
	const size = 4 << 20
	d, dir, _ := departed(t, Options{}, size)
	if err := os.Chmod(filepath.Join(dir, "vda.sock"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	knock := func(dir string) error {
		cmd := exec.Command("nbdinfo", "--size", uri(dir))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
		return cmd.Run()
	}
	if knock(dir) == nil {
		t.Error("a stranger reads the disk")
	}
	mine := shortDir(t)
	if err := os.Chown(mine, stranger, stranger); err != nil {
		t.Fatal(err)
	}
	server, err := nbd.NewServer(nbd.Config{Exports: nbd.NewExports(nbd.Export{Name: "vda", Backend: export{d.disks[0]}, ReadOnly: true})})
	if err != nil {
		t.Fatal(err)
	}
	x, err := openDoor(t.Context(), filepath.Join(mine, "vda.sock"), server, d.e.o.Log)
	if err != nil {
		t.Fatal(err)
	}
	if err := knock(mine); err != nil {
		t.Errorf("QEMU's user: %v", err)
	}
	if owner, err := ownerOf(filepath.Join(mine, "vda.sock")); err != nil || owner != stranger || x.made.Mode().Perm() != 0o600 {
		t.Errorf("the socket is user %d's, %v, %v", owner, x.made.Mode(), err)
	}
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
}
