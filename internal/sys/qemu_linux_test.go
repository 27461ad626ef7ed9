package sys

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"golang.org/x/sys/unix"
)

// qemu is a QEMU whose guest does not run yet, with 64 MiB of RAM in a file, and its QMP on standard input and output.
type qemu struct {
	t     *testing.T
	pid   int
	in    io.Writer
	lines *bufio.Scanner
	ram   string
}

func startQEMU(t *testing.T, args ...string) *qemu {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sys-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	q := &qemu{t: t, ram: filepath.Join(dir, "ram")}
	args = append([]string{"-S", "-nodefaults", "-display", "none", "-qmp", "stdio", "-m", "64", "-machine", "pc,memory-backend=ram",
		"-object", "memory-backend-file,id=ram,size=64M,share=on,mem-path=" + q.ram}, args...)
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Stderr = os.Stderr
	if q.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // that it was killed is no news
	q.pid, q.lines = cmd.Process.Pid, bufio.NewScanner(out)
	if !q.lines.Scan() { // the greeting
		t.Fatal("QEMU does not greet")
	}
	q.do("qmp_capabilities", nil)
	return q
}

// do is one command; events are passed over.
func (q *qemu) do(command string, into any) {
	q.t.Helper()
	fmt.Fprintf(q.in, `{"execute":%q}`+"\n", command)
	for q.lines.Scan() {
		var answer struct {
			Return json.RawMessage `json:"return"`
			Error  json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(q.lines.Bytes(), &answer); err != nil || answer.Error != nil {
			q.t.Fatalf("%s: %s, %v", command, q.lines.Text(), err)
		}
		if answer.Return == nil {
			continue
		}
		if into != nil {
			if err := json.Unmarshal(answer.Return, into); err != nil {
				q.t.Fatal(err)
			}
		}
		return
	}
	q.t.Fatalf("%s: QEMU is gone", command)
}

func (q *qemu) vcpus() (tids []int) {
	q.t.Helper()
	var cpus []struct {
		TID int `json:"thread-id"`
	}
	q.do("query-cpus-fast", &cpus)
	for _, c := range cpus {
		tids = append(tids, c.TID)
	}
	return tids
}

func (q *qemu) running() bool {
	q.t.Helper()
	var status struct{ Running bool }
	q.do("query-status", &status)
	return status.Running
}

// ramMapping finds where the RAM lies in QEMU.
func (q *qemu) ramMapping() Map {
	q.t.Helper()
	maps, err := Maps(q.pid)
	if err != nil {
		q.t.Fatal(err)
	}
	i := slices.IndexFunc(maps, func(m Map) bool { return strings.HasPrefix(m.Path, q.ram) && m.End-m.Start == 64<<20 })
	if i < 0 {
		q.t.Fatalf("no mapping of %s", q.ram)
	}
	return maps[i]
}

// Neither a vCPU nor the main loop is stopped, whether QEMU names its threads or not.
func TestT3QuietThreadOfQEMU(t *testing.T) {
	need.QEMU(t)
	for _, names := range []string{"on", "off"} {
		t.Run("names "+names, func(t *testing.T) {
			q := startQEMU(t, "-accel", "tcg", "-smp", "2", "-name", "q,debug-threads="+names, "-object", "iothread,id=io")
			q.do("cont", nil)
			threads, err := threadsOf(q.pid)
			if err != nil {
				t.Fatal(err)
			}
			// While QEMU starts, the quiet thread has work.
			untilThread(t, q.pid, threads[1].tid, "asleep", func(th thread, _ int) bool { return th.state == 'S' })
			if threads, err = threadsOf(q.pid); err != nil {
				t.Fatal(err)
			}
			order := byQuiet(threads)
			if slices.Contains(q.vcpus(), order[0].tid) || order[0].leader {
				t.Errorf("first is %+v of %+v", order[0], order)
			}
			if threads[1].state == 'S' && order[0].tid != threads[1].tid {
				t.Errorf("first is %+v, want the second that was created, of %+v", order[0], threads)
			}
			if names == "on" && !order[len(order)-3].leader { // then the vCPUs
				t.Errorf("the main loop comes before others: %+v", order)
			}
		})
	}
}

// A running guest does not notice.
func TestT3InjectIntoQEMU(t *testing.T) {
	need.QEMU(t)
	need.UFFD(t)
	q := startQEMU(t, "-accel", "tcg")
	q.do("cont", nil)
	for range 50 {
		u, n, err := InjectUserFault(t.Context(), q.pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(u.Close(), InjectClose(t.Context(), q.pid, n)); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever is asked, all of them take it: the other threads are chosen when the quiet one does not stop.
	threads, err := threadsOf(q.pid)
	if err != nil {
		t.Fatal(err)
	}
	k := &kid{t: t, pid: q.pid}
	for _, th := range threads {
		for range 10 {
			if err := k.onThread(th.tid, getpid); err != nil {
				t.Errorf("%+v: %v", th, err)
			}
		}
	}
	if !q.running() {
		t.Error("the guest does not run any more")
	}
	if got, err := AdoptUserFaults(q.pid); len(got) != 0 || err != nil {
		t.Errorf("%d userfaultfds are left, %v", len(got), err)
	}
}

// The firmware's first pages are missing and come from us; it runs on with them.
func TestT3PageInAGuest(t *testing.T) {
	need.QEMU(t)
	need.UFFD(t)
	t.Run("tcg", func(t *testing.T) { pageIn(t, "tcg") })
	t.Run("kvm", func(t *testing.T) { need.KVM(t); pageIn(t, "kvm") })
}

func pageIn(t *testing.T, accel string) {
	q := startQEMU(t, "-accel", accel, "-cpu", "qemu64")
	m := q.ramMapping()
	f, off, err := OpenMapped(q.pid, m.Start, true)
	if err != nil || off != 0 {
		t.Fatal(off, err)
	}
	defer func() { _ = f.Close() }() // nothing is lost with it
	if err := PunchHole(f, 0, 64<<20); err != nil {
		t.Fatal(err)
	}
	u, _, err := InjectUserFault(t.Context(), q.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = u.Close() }() // again is fine
	if _, err := u.API(FeatureMissingShmem | FeatureThreadID); err != nil {
		t.Fatal(err)
	}
	if err := u.Register(m.Start, m.End-m.Start, Missing); err != nil {
		t.Fatal(err)
	}
	vcpus := q.vcpus()
	q.do("cont", nil)
	w, err := NewWaker()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }() // only ours
	timer := time.AfterFunc(patience, func() { _ = w.Wake() })
	defer timer.Stop()
	byVCPU := 0
	for events := make([]Event, 16); byVCPU < 20; {
		if _, err := Wait(w, u.FD()); err != nil {
			t.Fatalf("%d faults of the guest only: %v", byVCPU, err)
		}
		n, err := u.Read(events)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		for _, e := range events[:n] {
			if slices.Contains(vcpus, int(e.TID)) {
				byVCPU++
			}
			if _, err := u.ZeroPage(e.Addr&^4095, 4096, true); err != nil && !errors.Is(err, unix.EEXIST) {
				t.Fatal(err)
			}
		}
	}
	if err := u.Unregister(m.Start, m.End-m.Start); err != nil {
		t.Fatal(err)
	}
	if !q.running() {
		t.Error("the guest does not run any more")
	}
}
