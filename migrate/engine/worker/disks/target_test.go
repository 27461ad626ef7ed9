package disks

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
	"github.com/vmmigrate/vmmigrate/migrate"
	"github.com/vmmigrate/vmmigrate/migrate/agent"
	"github.com/vmmigrate/vmmigrate/migrate/nbd"
	"github.com/vmmigrate/vmmigrate/migrate/storage"
)

// tool runs a tool of QEMU's and gives what it says.
func tool(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

// must is tool that may not fail.
func must(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := tool(t, name, args...); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// blank makes an image of zeros.
func blank(t testing.TB, format string, size int64) agent.DestDisk {
	t.Helper()
	return blankIn(t, t.TempDir(), format, size)
}

func blankIn(t testing.TB, dir, format string, size int64) agent.DestDisk {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := agent.DestDisk{Target: "vda", Size: size, Path: filepath.Join(dir, "image."+format), Format: format}
	must(t, "qemu-img", "create", "-q", "-f", format, d.Path, itoa(size))
	return d
}

func openIt(t *testing.T, d agent.DestDisk) target {
	t.Helper()
	to, err := openTarget(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = to.close(t.Context()) }) // a test that failed
	return to
}

func TestT1Target(t *testing.T) {
	need.NBD(t)
	for _, format := range []string{"raw", "qcow2"} {
		t.Run(format, func(t *testing.T) {
			d := blank(t, format, 64<<20)
			to := openIt(t, d)
			p := bytes.Repeat([]byte("disk"), 1<<18)
			for _, err := range []error{to.write(t.Context(), p, 3<<20), to.zero(t.Context(), 3<<20, 256<<10), to.write(t.Context(), p[:512], 63<<20)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if out, err := tool(t, "qemu-io", "-f", format, "-c", "write 0 64k", d.Path); err == nil {
				t.Errorf("somebody else writes to it: %s", out)
			}
			if _, err := openTarget(short(t), d); !errors.Is(err, storage.ErrInUse) {
				t.Errorf("opened twice: %v", err)
			}
			got := make([]byte, 2<<20)
			holes, err := to.ReadSparse(t.Context(), got, 2<<20)
			for _, h := range holes {
				clear(got[h.Offset-2<<20 : h.End()-2<<20])
			}
			if want := append(append(make([]byte, 1<<20+256<<10), p[256<<10:]...), make([]byte, 0)...); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read something else, %v", err)
			}
			list, err := to.Extents(t.Context(), 0, d.Size)
			if err != nil || dataIn(list) > 1<<20 || dataIn(list) < 768<<10 {
				t.Errorf("%d bytes of data in %v, %v", dataIn(list), list, err)
			}
			if err := errors.Join(to.flush(t.Context()), to.close(t.Context())); err != nil {
				t.Fatal(err)
			}
			must(t, "qemu-io", "-f", format, "-c", "read -P 0 0 3M", "-c", "read -P 0 3M 256k", "-c", "read -P 0 4M 59M", "-c", "write 0 64k", d.Path)
			if size := allocated(t, d.Path); size > 2<<20 {
				t.Errorf("it takes %d bytes", size)
			}
		})
	}
}

func dataIn(list []nbd.Status) (n int64) {
	for _, s := range list {
		if s.Flags&nbd.StatusZero == 0 {
			n += s.Length
		}
	}
	return n
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestT1TargetRefuses(t *testing.T) {
	need.NBD(t)
	d := blank(t, "qcow2", 1<<20)
	for name, change := range map[string]func(*agent.DestDisk){
		"format":   func(d *agent.DestDisk) { d.Format = "vmdk" },
		"other":    func(d *agent.DestDisk) { d.Format = "raw" },
		"size":     func(d *agent.DestDisk) { d.Size *= 2 },
		"too much": func(d *agent.DestDisk) { d.Size /= 2 },
		"nothing":  func(d *agent.DestDisk) { d.Path += "x" },
		"relative": func(d *agent.DestDisk) { d.Path = "x" },
	} {
		bad := d
		change(&bad)
		if to, err := openTarget(t.Context(), bad); err == nil {
			t.Errorf("%s: %v", name, to.close(t.Context()))
		} else {
			t.Log(name, err)
		}
	}
	// Nothing of it holds the image.
	must(t, "qemu-io", "-f", "qcow2", "-c", "write 0 64k", d.Path)
}

// A qemu-nbd that dies takes no one with it, and its image can be opened again.
func TestT1ToolDies(t *testing.T) {
	need.NBD(t)
	d := blank(t, "qcow2", 16<<20)
	to := openIt(t, d).(*toolTarget)
	if err := to.write(t.Context(), make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := to.scribe.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-to.scribe.ended
	if err := to.write(t.Context(), make([]byte, 4096), 0); err == nil {
		t.Error("written to nobody")
	}
	if err := to.close(t.Context()); err == nil {
		t.Error("closed as if it had gone well")
	}
	if err := openIt(t, d).close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestT2TargetIsFull(t *testing.T) {
	need.Netns(t)
	need.NBD(t)
	for _, format := range []string{"raw", "qcow2"} {
		dir := smallFolder(t, "2m")
		to := openIt(t, blankIn(t, dir, format, 16<<20))
		p := bytes.Repeat([]byte{1}, 1<<20)
		var err error
		for off := int64(0); off < 16<<20 && err == nil; off += 1 << 20 {
			err = to.write(t.Context(), p, off)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", format, err)
		}
		err = targetError(agent.DestDisk{Target: "vda", Path: "/x"}, "write", 5, err)
		if !errors.Is(err, storage.ErrNoRoom) || migrate.FixOf(err) == "" {
			t.Errorf("%s: %v", format, err)
		}
		if err := to.close(t.Context()); err != nil {
			t.Log(format, err)
		}
	}
}

// smallFolder is a file system of its own.
func smallFolder(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	return dir
}
