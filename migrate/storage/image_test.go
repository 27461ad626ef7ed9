package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmmigrate/vmmigrate/internal/need"
)

// run runs a tool of QEMU's.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func describe(t *testing.T, path, format string) Image {
	t.Helper()
	i, err := Describe(t.Context(), Query{Path: path, Format: format})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// dir is a folder whose path has no links.
func dir(t *testing.T) string {
	t.Helper()
	d, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func spec(path, format string) Spec {
	return Spec{Migration: "m-1", Target: "vda", Path: path, Format: format, Size: 64 << 20}
}

// make stages and places an image.
func makeImage(t *testing.T, s Spec) Made {
	t.Helper()
	m, err := Stage(t.Context(), s)
	if err == nil {
		err = Place(m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestT1DescribeTellsOfEachLayer(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	a, b := filepath.Join(d, "a.qcow2"), filepath.Join(d, "b.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=128k,lazy_refcounts=on,extended_l2=on", a, "64M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "a.qcow2", b)
	i := describe(t, b, "qcow2")
	if len(i.Layers) != 2 || i.Kind != KindFile || i.InUse || i.Free <= 0 || i.Layers[0].Backing != a || i.Layers[0].BackingFormat != "qcow2" {
		t.Errorf("%+v", i)
	}
	if l := i.Layers[1]; l.ClusterSize != 128<<10 || !l.LazyRefcounts || !l.ExtendedL2 || l.VirtualSize != 64<<20 || l.Allocated <= 0 {
		t.Errorf("%+v", l)
	}
	if i := describe(t, b, ""); len(i.Layers) != 1 {
		t.Errorf("with the format guessed, other files are opened: %+v", i)
	}
	gone := describe(t, filepath.Join(d, "none"), "raw")
	if gone.Kind != KindAbsent || gone.Filesystem != i.Filesystem {
		t.Errorf("%+v", gone)
	}
}

// What a guest wrote into a raw disk is not taken for a header.
func TestT1DescribeBelievesNoGuestsHeader(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	secret, disk := filepath.Join(d, "secret"), filepath.Join(d, "disk")
	run(t, "qemu-img", "create", "-q", "-f", "raw", secret, "1M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, disk)
	if i := describe(t, disk, "raw"); len(i.Layers) != 1 || i.Layers[0].Format != "raw" {
		t.Errorf("%+v", i)
	}
}

func TestT1DescribeRefuses(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	link := filepath.Join(d, "link")
	if err := errors.Join(os.Symlink("nowhere", link), unix.Mkfifo(filepath.Join(d, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, q := range []Query{{Path: "x"}, {Path: d}, {Path: link}, {Path: filepath.Join(d, "fifo")}, {Path: "/dev/null"},
		{Path: filepath.Join(d, "no", "folder")}} {
		if i, err := Describe(t.Context(), q); err == nil {
			t.Errorf("%s: %+v", q.Path, i)
		}
	}
}

func TestT1ImageInUse(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	path := filepath.Join(d, "a.raw")
	m := makeImage(t, spec(path, "raw"))
	cmd := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", path) // it opens the image, and then waits for commands
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "length\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has it open
		t.Fatal(err)
	}
	if !describe(t, path, "raw").InUse {
		t.Error("it is not seen that qemu-nbd has it")
	}
	if _, err := Remove(m); !errors.Is(err, ErrInUse) {
		t.Errorf("removed although it is in use: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out) // until it ends
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if gone, err := Remove(m); !gone || err != nil {
		t.Errorf("%t, %v", gone, err)
	}
}

func TestT1MadeLikeTheSource(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	for name, options := range map[string]string{
		"plain": "", "old": "compat=0.10", "large": "cluster_size=1M,lazy_refcounts=on", "sub": "cluster_size=128k,extended_l2=on",
	} {
		src, dst := filepath.Join(d, name), filepath.Join(d, name+"-there")
		args := []string{"create", "-q", "-f", "qcow2"}
		if options != "" {
			args = append(args, "-o", options)
		}
		run(t, "qemu-img", append(args, src, "64M")...)
		like, _ := describe(t, src, "qcow2").Top()
		s := spec(dst, "qcow2")
		s.Like = &like
		makeImage(t, s)
		made, _ := describe(t, dst, "qcow2").Top()
		if like.Path = dst; made.Allocated > like.Allocated*105/100 {
			t.Errorf("%s takes %d bytes, the source's %d", name, made.Allocated, like.Allocated)
		}
		made.Allocated = like.Allocated
		if made != like {
			t.Errorf("%s:\n got %+v\nwant %+v", name, made, like)
		}
		run(t, "qemu-img", "check", "-q", dst)
		run(t, "qemu-img", "compare", "-q", src, dst)
	}
}

func TestT1MadeRawAndWithBacking(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	base, top := filepath.Join(d, "base"), filepath.Join(d, "top")
	makeImage(t, spec(base, "raw"))
	if i := describe(t, base, "raw"); i.Layers[0].VirtualSize != 64<<20 || i.Allocated() > 1<<20 {
		t.Errorf("a raw image is %+v", i)
	}
	s := spec(top, "qcow2")
	s.Backing, s.BackingFormat = base, "raw"
	makeImage(t, s)
	if i := describe(t, top, "qcow2"); len(i.Layers) != 2 || i.Layers[0].Backing != base {
		t.Errorf("%+v", i)
	}
	s.Path, s.Backing = filepath.Join(d, "other"), filepath.Join(d, "none")
	if _, err := Stage(t.Context(), s); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made on nothing: %v", err)
	}
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", base)
	x, err := Extents(t.Context(), Query{Path: base, Format: "raw"})
	if err != nil || len(x) != 3 || x[1].Offset != 1<<20 || x[1].Length != 64<<10 || !x[1].Data || x[0].Data {
		t.Errorf("%+v, %v", x, err)
	}
}

func TestT1NothingIsOverwritten(t *testing.T) {
	need.NBD(t)
	for what, put := range map[string]func(path string) error{
		"a file":            func(p string) error { return os.WriteFile(p, []byte("mine"), 0o600) },
		"a link to nothing": func(p string) error { return os.Symlink("nowhere", p) },
		"a folder":          func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		d := dir(t)
		path := filepath.Join(d, "x")
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		_, err := Stage(t.Context(), spec(path, "raw"))
		if !errors.Is(err, ErrExists) || len(names(t, d)) != 1 {
			t.Errorf("%s: %v, %v", what, err, names(t, d))
		}
		if err := os.Rename(path, path+"-away"); err != nil {
			t.Fatal(err)
		}
		m, err := Stage(t.Context(), spec(path, "raw"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Rename(path+"-away", path)); err != nil {
			t.Fatal(err)
		}
		if err := Place(m); !errors.Is(err, ErrExists) {
			t.Errorf("%s came between: %v", what, err)
		}
		gone, err := Remove(m)
		if now := names(t, d); !gone || err != nil || len(now) != 1 || now[0] != "x" {
			t.Errorf("%s: removed %t, %v, left %v", what, gone, err, now)
		}
	}
}

func TestT1RemoveOnlyWhatWasMade(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	path := filepath.Join(d, "x")
	m := makeImage(t, spec(path, "qcow2"))
	if err := Place(m); err != nil {
		t.Errorf("placed twice: %v", err)
	}
	content, err := os.ReadFile(path)
	if err := errors.Join(err, os.Rename(path, path+".kept"), os.WriteFile(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
	if gone, err := Remove(m); gone || !errors.Is(err, ErrForeign) {
		t.Errorf("another file was removed: %t, %v", gone, err)
	}
	if err := Place(m); err == nil {
		t.Error("another file passes for the placed one")
	}
	if err := os.Rename(path+".kept", path); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} {
		if gone, err := Remove(m); gone != want || err != nil {
			t.Errorf("%t, %v", gone, err)
		}
	}
}

// One who died before he could write down what was made has only the names.
func TestT1RemoveByNameAlone(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	s := spec(filepath.Join(d, "x"), "raw")
	if _, err := Stage(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone, err := Remove(s.Intended())
	if now := names(t, d); !gone || err != nil || len(now) != 1 || now[0] != "x" {
		t.Errorf("%t, %v, left %v", gone, err, now)
	}
	for _, m := range []Made{{Path: s.Path, Staged: "x"}, {Path: s.Path, Staged: "../x"}, {Path: "x", Staged: s.Intended().Staged}} {
		if gone, err := Remove(m); gone || err == nil {
			t.Errorf("%+v: %t, %v", m, gone, err)
		}
	}
	if gone, err := Remove(Made{Path: filepath.Join(d, "no", "x"), Staged: s.Intended().Staged}); gone || err != nil {
		t.Errorf("of a folder that is gone: %t, %v", gone, err)
	}
}

func TestT1StageRefuses(t *testing.T) {
	need.NBD(t)
	d := dir(t)
	for name, change := range map[string]func(*Spec){
		"size":          func(s *Spec) { s.Size = 0 },
		"odd size":      func(s *Spec) { s.Size = 1000 },
		"format":        func(s *Spec) { s.Format = "vmdk" },
		"path":          func(s *Spec) { s.Path = "x" },
		"device folder": func(s *Spec) { s.Path = "/dev/vmmigrate-x" },
		"no folder":     func(s *Spec) { s.Path = filepath.Join(d, "no", "x") },
		"name":          func(s *Spec) { s.Target = "../x" },
		"migration":     func(s *Spec) { s.Migration = "" },
		"data file":     func(s *Spec) { s.Like = &Layer{Format: "qcow2", DataFile: "d"} },
		"encrypted":     func(s *Spec) { s.Like = &Layer{Format: "qcow2", Encrypted: true} },
		"raw backing":   func(s *Spec) { s.Format, s.Backing = "raw", "/x" },
		"owner":         func(s *Spec) { s.OwnerLike = filepath.Join(d, "none") },
		"clusters":      func(s *Spec) { s.Like = &Layer{Format: "qcow2", ClusterSize: 3} },
		"no room":       func(s *Spec) { s.Data = maxSize },
	} {
		s := spec(filepath.Join(d, "x"), "qcow2")
		change(&s)
		if m, err := Stage(t.Context(), s); err == nil {
			t.Errorf("%s: %+v", name, m)
		} else if name == "no room" && (!errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), fmt.Sprint(Need(maxSize)))) {
			t.Errorf("%v", err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Stage(ctx, spec(filepath.Join(d, "x"), "qcow2")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if left := names(t, d); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestT1OwnerAndMode(t *testing.T) {
	need.NBD(t)
	if os.Geteuid() != 0 {
		t.Log("not root: owners are not changed")
	}
	d := dir(t)
	example := filepath.Join(d, "example")
	if err := errors.Join(os.Chmod(d, 0o771), os.WriteFile(example, nil, 0o640), os.Chmod(example, 0o644)); err != nil {
		t.Fatal(err)
	}
	uid := uint32(os.Geteuid())
	if uid == 0 {
		uid = 1234
		if err := errors.Join(os.Chown(d, 1234, 5678), os.Chown(example, 1234, 99)); err != nil {
			t.Fatal(err)
		}
	}
	for like, mode := range map[string]fs.FileMode{"": 0o660, example: 0o644} {
		s := spec(filepath.Join(d, "x"), "raw")
		s.OwnerLike = like
		m := makeImage(t, s)
		var st unix.Stat_t
		if err := unix.Stat(s.Path, &st); err != nil || fs.FileMode(st.Mode&0o7777) != mode || st.Uid != uid {
			t.Errorf("like %q: mode %o, owner %d, %v", like, st.Mode, st.Uid, err)
		}
		if _, err := Remove(m); err != nil {
			t.Fatal(err)
		}
	}
}

// A file system that fills up while the image is made leaves nothing, and says so.
func TestT2FullFileSystem(t *testing.T) {
	need.NBD(t)
	need.Netns(t) // root
	d := dir(t)
	if err := unix.Mount("none", d, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d, 0); err != nil {
			t.Error(err)
		}
	})
	s := spec(filepath.Join(d, "x"), "qcow2")
	s.Like = &Layer{Format: "qcow2", ClusterSize: 2 << 20}
	_, err := Stage(t.Context(), s)
	if !errors.Is(err, ErrNoRoom) || len(names(t, d)) > 0 {
		t.Errorf("%v, left %v", err, names(t, d))
	}
	s.Like, s.Data = nil, 250<<10 // with a twentieth more it does not fit
	if _, err = Stage(t.Context(), s); !errors.Is(err, ErrNoRoom) {
		t.Errorf("%v", err)
	}
}
