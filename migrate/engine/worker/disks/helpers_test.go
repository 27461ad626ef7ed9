package disks

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/agent/datalink"
)

// run runs a program to its end.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// tools skips a test where QEMU's tools are missing.
func tools(t testing.TB) {
	t.Helper()
	need.QEMU(t)
}

// rawDisk is a sparse image: data, holes of all sizes, and zeros that are stored. It gives the path and what is in it.
func rawDisk(t testing.TB, size int64, seed uint64) (string, []byte) {
	t.Helper()
	content := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{byte(seed)})
	dice := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < size; {
		n := min(4096*(1+dice.Int64N(100)), size-at)
		p := content[at : at+n]
		if what := dice.IntN(5); what < 2 {
			_, _ = rng.Read(p) // it never fails
		}
		if dice.IntN(5) < 3 || p[0] != 0 || len(p) > 1 && p[1] != 0 {
			if _, err := f.WriteAt(p, at); err != nil {
				t.Fatal(err)
			}
		}
		at += n
	}
	return path, content
}

// qcow2Disk is the same as qcow2, with a layer below that has every other part of it.
func qcow2Disk(t testing.TB, size int64, seed uint64) (string, []byte) {
	t.Helper()
	raw, content := rawDisk(t, size, seed)
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "top, really.qcow2")
	run(t, "qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, base)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	half := size / 2 &^ 0xffff
	changed, _ := rawDisk(t, half, seed+1)
	p, err := os.ReadFile(changed)
	if err != nil {
		t.Fatal(err)
	}
	copy(content, p)
	script := ""
	for at := int64(0); at < half; at += 1 << 20 {
		piece := filepath.Join(dir, fmt.Sprint(at))
		if err := os.WriteFile(piece, p[at:min(half, at+1<<20)], 0o600); err != nil {
			t.Fatal(err)
		}
		script += fmt.Sprintf("write -s %s %d %d\n", piece, at, min(half-at, 1<<20))
	}
	cmd := exec.Command("qemu-io", "-f", "qcow2", top)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "rror") {
		t.Fatalf("qemu-io: %v: %s", err, out)
	}
	return top, content
}

// migration names one that nobody else on this machine has, who runs the same test: agents find each other by it.
func migration(t testing.TB) string { return fmt.Sprint(t.Name(), os.Getpid()) }

// link is what both ends are told.
func testLink(addr string) agent.Link { return agent.Link{Addr: addr, Token: "secret", Conns: 2} }

// acceptor is a destination's end of a link alone.
func acceptor(t *testing.T, e *Ends) *datalink.Acceptor {
	t.Helper()
	a, err := e.acceptLink(t.Context(), migration(t), testLink("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// holder has an image open as QEMU would, until it is told to let go.
func holder(t *testing.T, format, path string) (letGo func()) {
	t.Helper()
	cmd := exec.Command("qemu-io", "-f", format, path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	letGo = func() {
		if done {
			return
		}
		done = true
		_ = in.Close() // which it takes for quit
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(letGo)
	if _, err := io.WriteString(in, "read 0 512\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it is open when it answers
		t.Fatal(err)
	}
	return letGo
}

// closing closes at the test's end.
func closing(t *testing.T, close func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		if err := close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
