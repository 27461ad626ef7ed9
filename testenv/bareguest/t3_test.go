package bareguest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const memoryMiB = 32

// machine is one QEMU with a bare guest.
type machine struct {
	qmp    *qmp.Client
	ram    string
	serial io.Reader
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// launch starts a guest that writes 8 MiB, fast enough for many passes.
func launch(t *testing.T, accel string, c bareguest.Config, extra ...string) *machine {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := bareguest.Write(image, c); err != nil {
		t.Fatal(err)
	}
	m := &machine{ram: filepath.Join(dir, "ram")}
	socket := filepath.Join(dir, "qmp")
	args := append(bareguest.Args(image), "-machine", "q35,memory-backend=ram", "-accel", accel, "-cpu", bareguest.CPU(accel),
		"-m", fmt.Sprint(memoryMiB), "-serial", "stdio", "-qmp", "unix:"+socket+",server=on,wait=off",
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,share=on,mem-path=%s", memoryMiB, m.ram))
	cmd := exec.Command("qemu-system-x86_64", append(args, extra...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.serial = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("qemu: %s", &log)
		}
	})
	m.connect(t, socket)
	return m
}

func (m *machine) connect(t *testing.T, socket string) {
	ctx := limit(t)
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		c, err := qmp.Dial(ctx, "unix", socket)
		if err == nil {
			m.qmp = c
			t.Cleanup(func() { c.Close() })
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-poll.C:
		}
	}
}

func (m *machine) do(t *testing.T, command string, args any) {
	t.Helper()
	if err := m.qmp.Execute(limit(t), command, args, nil); err != nil {
		t.Fatal(err)
	}
}

// hear reads so many letters from the serial port.
func (m *machine) hear(t *testing.T, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(m.serial, b); err != nil || string(b) != want {
		t.Fatalf("heard %q, %v, want %q", b, err, want)
	}
}

func (m *machine) check(t *testing.T) (bareguest.State, error) {
	t.Helper()
	f, err := os.Open(m.ram)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return bareguest.CheckRAM(f)
}

// accels runs a test under both accelerators.
func accels(t *testing.T, run func(t *testing.T, accel string)) {
	need.QEMU(t)
	t.Run("tcg", func(t *testing.T) { run(t, "tcg") })
	t.Run("kvm", func(t *testing.T) { need.KVM(t); run(t, "kvm") })
}

var small = bareguest.Config{Start: 1 << 20, End: 9 << 20, Report: 1}

func TestT3TheGuestKeepsItsRule(t *testing.T) {
	accels(t, func(t *testing.T, accel string) {
		m := launch(t, accel, small)
		m.hear(t, "ABB")
		var last uint64
		for range 10 {
			m.do(t, "stop", nil)
			s, err := m.check(t)
			if err != nil {
				t.Fatal(err)
			}
			if s.Pass < 2 || s.Pass < last {
				t.Errorf("pass %d after %d", s.Pass, last)
			}
			last = s.Pass
			m.do(t, "cont", nil)
			m.hear(t, "B")
		}
	})
}

func TestT3TheGuestKeepsItsRuleAtARate(t *testing.T) {
	accels(t, func(t *testing.T, accel string) {
		m := launch(t, accel, bareguest.Config{Start: 1 << 20, End: 2 << 20, Rate: 5000, Report: 1})
		m.hear(t, "ABBB")
		m.do(t, "stop", nil)
		if _, err := m.check(t); err != nil {
			t.Error(err)
		}
	})
}

func TestT3ASpoiltPageIsFound(t *testing.T) {
	accels(t, func(t *testing.T, accel string) {
		m := launch(t, accel, small)
		m.hear(t, "ABB")
		m.do(t, "stop", nil)
		f, err := os.OpenFile(m.ram, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		old := make([]byte, bareguest.PageSize)
		if _, err := f.ReadAt(old, 3<<20); err != nil {
			t.Fatal(err)
		}
		m.do(t, "cont", nil)
		m.hear(t, "BBB")
		m.do(t, "stop", nil)
		if _, err := f.WriteAt(old, 3<<20); err != nil {
			t.Fatal(err)
		}
		// It stays wrong while the guest writes on.
		for range 2 {
			if _, err := m.check(t); !errors.Is(err, bareguest.ErrIntegrity) || !strings.Contains(err.Error(), "0x300000 has") {
				t.Fatalf("a stale page at 0x300000: %v", err)
			}
			m.do(t, "cont", nil)
			m.hear(t, "BB")
			m.do(t, "stop", nil)
		}
	})
}

func TestT3TheGuestMigrates(t *testing.T) {
	accels(t, func(t *testing.T, accel string) {
		from := launch(t, accel, small)
		from.hear(t, "ABB")
		path := filepath.Join(t.TempDir(), "migrate")
		to := launch(t, accel, small, "-incoming", "unix:"+path)
		from.do(t, "migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 32, "downtime-limit": 1000})
		events := migrationEvents(t, from)
		from.do(t, "migrate", map[string]any{"uri": "unix:" + path})
		completed(t, events)
		to.hear(t, "BB")
		to.do(t, "stop", nil)
		s, err := to.check(t)
		if err != nil {
			t.Error(err)
		}
		if old, err := from.check(t); err != nil || s.Pass < old.Pass+1 {
			t.Errorf("pass %d here, %d left behind, %v", s.Pass, old.Pass, err)
		}
	})
}

func migrationEvents(t *testing.T, m *machine) <-chan qmp.Event {
	t.Helper()
	m.do(t, "migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}})
	events, err := m.qmp.Events(limit(t), "MIGRATION")
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func completed(t *testing.T, events <-chan qmp.Event) {
	t.Helper()
	for e := range events {
		var data struct{ Status string }
		if err := json.Unmarshal(e.Data, &data); err != nil {
			t.Fatal(err)
		}
		switch data.Status {
		case "completed":
			return
		case "failed":
			t.Fatal("the migration failed")
		}
	}
	t.Fatal("the migration did not end")
}

// BenchmarkBoot is the time from QEMU's start to the guest's first letter.
func BenchmarkBoot(b *testing.B) {
	need.QEMU(b)
	image := filepath.Join(b.TempDir(), "image")
	if err := bareguest.Write(image, small); err != nil {
		b.Fatal(err)
	}
	for _, accel := range []string{"tcg", "kvm"} {
		b.Run(accel, func(b *testing.B) {
			if accel == "kvm" {
				need.KVM(b)
			}
			for b.Loop() {
				boot(b, accel, image)
			}
		})
	}
}

func boot(b *testing.B, accel, image string) {
	cmd := exec.Command("qemu-system-x86_64", append(bareguest.Args(image), "-machine", "q35", "-accel", accel,
		"-cpu", bareguest.CPU(accel), "-m", fmt.Sprint(memoryMiB), "-serial", "stdio")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		b.Error(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
