//go:build linux

package track_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate/ram"
	"github.com/vmmigrate/vmmigrate/precopy/track"
	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
)

// guestRAM is in bytes; the guest writes 8 MiB of it, from the first on.
const (
	guestRAM  = 32 << 20
	guestFrom = 1 << 20
	guestTo   = 9 << 20
)

// machine is a QEMU whose guest writes its memory page by page.
type machine struct {
	qmp    *qmp.Client
	ram    string
	serial io.Reader
	cmd    *exec.Cmd
	pid    int
}

func launch(t *testing.T, accel string, c bareguest.Config) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "track")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the next test has its own
	m := &machine{ram: filepath.Join(dir, "ram")}
	image, socket := filepath.Join(dir, "image"), filepath.Join(dir, "qmp")
	if err := bareguest.Write(image, c); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-system-x86_64", append(bareguest.Args(image), "-machine", "q35,memory-backend=ram", "-accel", accel,
		"-cpu", bareguest.CPU(accel), "-m", fmt.Sprint(guestRAM>>20), "-serial", "stdio", "-qmp", "unix:"+socket+",server=on,wait=off",
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,share=on,mem-path=%s", guestRAM, m.ram))...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if m.serial, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.cmd, m.pid = cmd, cmd.Process.Pid
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			t.Logf("qemu: %s", &log)
		}
	})
	m.hear(t, "ABB") // then its monitor listens, too
	if m.qmp, err = qmp.Dial(t.Context(), "unix", socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.qmp.Close() }) // QEMU is killed
	return m
}

// hear reads so many letters from the guest's serial port.
func (m *machine) hear(t *testing.T, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(m.serial, b); err != nil || string(b) != want {
		t.Fatalf("heard %q, %v, want %q", b, err, want)
	}
}

// passes lets the guest complete so many from now on; the letters may be of passes before.
func (m *machine) passes(t *testing.T, n uint64) {
	t.Helper()
	f, err := os.Open(m.ram)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	begun, err := bareguest.ReadState(f)
	for now := begun; err == nil && now.Pass < begun.Pass+n; now, err = bareguest.ReadState(f) {
		m.hear(t, "B")
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait() // it was killed
}

func (m *machine) do(t *testing.T, command string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.qmp.Execute(ctx, command, nil, nil); err != nil {
		t.Fatal(err)
	}
}

// region finds the guest's RAM in QEMU.
func (m *machine) region(t *testing.T) track.Region {
	t.Helper()
	maps, err := sys.Maps(m.pid)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(m.ram)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // read only
	for _, x := range maps {
		if x.Path == m.ram && x.End-x.Start == guestRAM {
			return track.Region{Block: ram.Block{Name: "ram", Size: guestRAM, PageSize: 4096}, Addr: x.Start, File: f}
		}
	}
	t.Fatal("QEMU does not map its RAM")
	return track.Region{}
}

// A guest that runs is copied by what harvests tell, under both accelerators, and the copy obeys the guest's own rule.
func TestT3TheGuestsCopyIsWhole(t *testing.T) {
	need.QEMU(t)
	for _, accel := range []string{"tcg", "kvm"} {
		for _, kind := range track.Kinds() {
			t.Run(accel+"/"+kind, func(t *testing.T) {
				if accel == "kvm" {
					need.KVM(t)
				}
				if p := track.Probe(kind); p.Presence == sys.Absent {
					t.Skipf("needs %s: %s; remedy: %s", kind, p.Reason, p.Remedy)
				}
				copyGuest(t, kind, launch(t, accel, bareguest.Config{Start: guestFrom, End: guestTo, Report: 1}))
			})
		}
	}
}

func copyGuest(t *testing.T, kind string, m *machine) {
	r := m.region(t)
	tr, err := track.Open(t.Context(), kind, m.pid, []track.Region{r})
	if err != nil {
		t.Fatal(err)
	}
	copied := make([]byte, guestRAM)
	harvest := func() int {
		set, err := tr.Harvest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for lo, hi := range set[0].Runs() {
			part := copied[lo<<12 : hi<<12]
			if _, err := r.File.ReadAt(part, int64(lo)<<12); err != nil {
				t.Fatal(err)
			}
			if w, ok := tr.(track.Witness); ok {
				w.Sent(0, int64(lo)<<12, part)
			}
		}
		return set[0].CountRange(guestFrom>>12, guestTo>>12)
	}
	const working = (guestTo - guestFrom) >> 12
	if n := harvest(); n != working {
		t.Errorf("the first harvest has %d of %d pages", n, working)
	}
	for range 5 {
		m.passes(t, 2) // every page was written
		if n := harvest(); n != working {
			t.Errorf("the guest wrote %d pages, %d are told", working, n)
		}
	}
	m.do(t, "stop")
	harvest()
	state, err := bareguest.CheckRAM(bytes.NewReader(copied))
	if err != nil {
		t.Errorf("the copy: %v", err)
	}
	if now, err := bareguest.CheckRAM(r.File); err != nil || now.Pass != state.Pass || now.Cursor != state.Cursor {
		t.Errorf("the copy is of pass %d, the guest in pass %d, %v", state.Pass, now.Pass, err)
	}
	if n := harvest(); n != 0 {
		t.Errorf("the guest stands still, and %d pages are told", n)
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	m.do(t, "cont") // and without the tracker it goes on
	m.passes(t, 2)
}

// QEMU is killed while it is tracked: every page is dirty.
func TestT3QEMUDies(t *testing.T) {
	need.QEMU(t)
	need.UFFD(t)
	m := launch(t, "tcg", bareguest.Config{Start: guestFrom, End: guestTo, Report: 1})
	tr, err := track.Open(t.Context(), "", m.pid, []track.Region{m.region(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tr.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	if _, err := tr.Harvest(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.kill()
	if set, err := tr.Harvest(t.Context()); !errors.Is(err, track.ErrGone) || set.Count() != guestRAM>>12 {
		t.Errorf("%v with %d pages", err, set.Count())
	}
}
