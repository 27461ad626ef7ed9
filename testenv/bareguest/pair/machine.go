package pair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/qmp"
	"github.com/vmmigrate/vmmigrate/testenv/bareguest"
)

// patience bounds a single step of a machine.
const patience = time.Minute

// Machine is one QEMU.
type Machine struct {
	// PID is QEMU's.
	PID int
	// QMP is the test's own monitor.
	QMP *qmp.Client
	// Socket is the path of a second monitor, which nobody has connected to.
	Socket string
	// Blocks are the names of its RAM blocks.
	Blocks []string

	files  []*os.File // of the blocks, in the same order
	cmd    *exec.Cmd
	serial io.Reader
}

// launch starts a machine and connects to it.
func launch(t testing.TB, o Options, dir, name, image string, more ...string) *Machine {
	t.Helper()
	m := &Machine{Blocks: o.blocks(), Socket: filepath.Join(dir, name+".qmp")}
	own := filepath.Join(dir, name+"-test.qmp")
	args := append(bareguest.Args(image), "-name", name+",debug-threads=on", "-accel", o.Accel, "-cpu", bareguest.CPU(o.Accel),
		"-m", fmt.Sprintf("%dM", o.Memory/mib), "-smp", fmt.Sprint(o.CPUs), "-serial", "stdio",
		"-qmp", "unix:"+own+",server=on,wait=off", "-qmp", "unix:"+m.Socket+",server=on,wait=off")
	args = append(args, m.memory(t, o)...)
	args = append(append(args, o.Args...), more...)
	m.cmd = exec.Command("qemu-system-x86_64", args...)
	if o.HugePages {
		m.cmd.ExtraFiles = m.files
	}
	var log bytes.Buffer
	m.cmd.Stderr = &log
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.serial = out
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		if t.Failed() {
			t.Logf("qemu of the %s: %s", name, &log)
		}
	})
	m.PID = m.cmd.Process.Pid
	m.connect(t, own)
	return m
}

// memory makes the files of the RAM blocks and returns QEMU's arguments for them.
func (m *Machine) memory(t testing.TB, o Options) []string {
	t.Helper()
	dir, size := "", o.Memory/int64(len(m.Blocks))
	if !o.HugePages {
		dir = folder(t, "/dev/shm")
	}
	var args []string
	for i, name := range m.Blocks {
		f, path, err := ramFile(dir, name, 3+i)
		if err == nil {
			t.Cleanup(func() { f.Close() })
			err = f.Truncate(size)
		}
		if err != nil {
			t.Fatalf("RAM block %s: %v", name, err)
		}
		m.files = append(m.files, f)
		args = append(args, "-object", fmt.Sprintf("memory-backend-file,id=%s,size=%d,share=on,mem-path=%s", name, size, path))
		if len(m.Blocks) > 1 {
			args = append(args, "-numa", fmt.Sprintf("node,nodeid=%d,memdev=%s", i, name))
		}
	}
	if len(m.Blocks) == 1 {
		return append(args, "-machine", "q35,memory-backend="+m.Blocks[0])
	}
	return append(args, "-machine", "q35")
}

// ramFile makes the file of one block: in dir, or without one on a hugetlbfs that
// is mounted nowhere and goes with its last descriptor. path is what QEMU calls it;
// fd is the descriptor that it has in QEMU in the second case.
func ramFile(dir, name string, fd int) (f *os.File, path string, err error) {
	if dir != "" {
		path = filepath.Join(dir, name)
		f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		return f, path, err
	}
	fs, err := unix.Fsopen("hugetlbfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, "", fmt.Errorf("fsopen hugetlbfs: %w", err)
	}
	defer unix.Close(fs)
	err = unix.FsconfigSetString(fs, "pagesize", "2M")
	if err := errors.Join(err, unix.FsconfigCreate(fs)); err != nil {
		return nil, "", fmt.Errorf("make a hugetlbfs: %w", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("mount hugetlbfs: %w", err)
	}
	defer unix.Close(mount)
	file, err := unix.Openat(mount, name, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("open on hugetlbfs: %w", err)
	}
	return os.NewFile(uintptr(file), name), fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

// connect waits for QEMU's monitor.
func (m *Machine) connect(t testing.TB, socket string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		c, err := qmp.Dial(ctx, "unix", socket)
		if err == nil {
			m.QMP = c
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

// Do executes a QMP command and fails the test if QEMU refuses it.
func (m *Machine) Do(t testing.TB, command string, args, result any) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if err := m.QMP.Execute(ctx, command, args, result); err != nil {
		t.Fatal(err)
	}
}

// Hear reads what the guest writes on its serial port and wants it to begin so. A
// guest that does not come to it hangs the test until its time is over.
func (m *Machine) Hear(t testing.TB, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(m.serial, b); err != nil || string(b) != want {
		t.Fatalf("heard %q, %v, want %q", b, err, want)
	}
}

// Hole reports whether the byte at an offset of a block lies in a hole of its file:
// a page that is not there. hugetlbfs does not tell: there it is never so.
func (m *Machine) Hole(t testing.TB, block int, offset int64) bool {
	t.Helper()
	at, err := unix.Seek(int(m.files[block].Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	return at != offset
}

// RAM is the guest's memory from its beginning, read through the files of its
// blocks. It is valid until the test ends, also after Kill. Reading faults nothing
// in: a page that is not there reads as zeros.
func (m *Machine) RAM(t testing.TB) io.ReaderAt {
	t.Helper()
	var parts chain
	for _, f := range m.files {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part{f, info.Size()})
	}
	return parts
}

// Put writes into a block's file, behind QEMU's back: what a file held before its
// guest came to it.
func (m *Machine) Put(t testing.TB, block int, offset int64, p []byte) {
	t.Helper()
	if _, err := m.files[block].WriteAt(p, offset); err != nil {
		t.Fatal(err)
	}
}

// Check holds the guest's memory to its rule and fails the test if it breaks it.
// The guest has to be stopped.
func (m *Machine) Check(t testing.TB) bareguest.State {
	t.Helper()
	s, err := bareguest.CheckRAM(m.RAM(t))
	if err != nil {
		t.Error(err)
	}
	return s
}

// Status is QEMU's run state ("running", "paused", "inmigrate" …).
func (m *Machine) Status(t testing.TB) string {
	t.Helper()
	var s struct {
		Status string `json:"status"`
	}
	m.Do(t, "query-status", nil, &s)
	return strings.TrimSpace(s.Status)
}

// Kill ends QEMU as a crash would. It is idempotent.
func (m *Machine) Kill() {
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait() // it was killed; there is nothing to learn
}
