package guest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/vmmigrate/vmmigrate/testenv/guest/param"
)

// dirWith makes a directory of assets.
func dirWith(t *testing.T, dir string, names ...string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindLooksWhereTheDocumentationSays(t *testing.T) {
	root := t.TempDir()
	dirWith(t, root, "go.mod")
	sub := dirWith(t, filepath.Join(root, "a", "b"))
	t.Chdir(sub)
	t.Setenv(EnvAssets, "")
	if _, err := Find(); !errors.Is(err, ErrNoAssets) || !strings.Contains(err.Error(), filepath.Join(root, "build", "guest")) {
		t.Errorf("nothing there: %v", err)
	}
	built := dirWith(t, filepath.Join(root, "build", "guest"), kernelFile)
	if _, err := Find(); !errors.Is(err, ErrNoAssets) {
		t.Errorf("a kernel without an initrd: %v", err)
	}
	dirWith(t, built, initrdFile)
	if a, err := Find(); err != nil || a.Dir != built || a.Kernel() != filepath.Join(built, kernelFile) {
		t.Errorf("%+v, %v", a, err)
	}
	t.Setenv(EnvAssets, t.TempDir())
	if _, err := Find(); !errors.Is(err, ErrNoAssets) || !strings.Contains(err.Error(), EnvAssets) {
		t.Errorf("a named directory without assets: %v", err)
	}
	named := dirWith(t, t.TempDir(), kernelFile, initrdFile)
	t.Setenv(EnvAssets, named)
	if a, err := Find(); err != nil || a.Dir != named {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestBootSaysItAllOnTheCommandLine(t *testing.T) {
	a := Assets{Dir: "/x"}
	c := Config{Name: "web", Addr: netip.MustParsePrefix("10.0.0.2/24"), Workload: "hotset:rate=9", Seed: 4}
	b, err := a.Boot(c)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := param.Parse(b.Cmdline); err != nil || got.Name != c.Name || got.Workload != c.Workload || got.Seed != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	want := []string{"-kernel", "/x/kernel", "-initrd", "/x/initrd.cpio", "-append", b.Cmdline}
	if strings.Join(b.Args(), "|") != strings.Join(want, "|") {
		t.Errorf("%q", b.Args())
	}
	for _, bad := range []Config{{}, {Name: "x", Addr: c.Addr, Workload: "busy"},
		{Name: "x", Addr: c.Addr, Workload: "cycle:phases=" + strings.Repeat("9999999@999h999m999s/", 60) + "1@1s"}} {
		if _, err := a.Boot(bad); !errors.Is(err, param.ErrConfig) {
			t.Errorf("Boot(%.60v) = %v, want ErrConfig", bad, err)
		}
	}
}

// bzImage is a file that holds payload as a kernel image would.
func bzImage(payload []byte) []byte {
	b := make([]byte, 2*sector+100)
	b[setupSectsAt] = 1
	copy(b[headerMagicAt:], "HdrS")
	binary.LittleEndian.PutUint16(b[bootVersionAt:], 0x20f)
	binary.LittleEndian.PutUint32(b[payloadOffsetAt:], 100)
	binary.LittleEndian.PutUint32(b[payloadLengthAt:], uint32(len(payload)))
	return append(b, payload...)
}

func gzipped(t *testing.T, data string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTheKernelIsUnwrapped(t *testing.T) {
	const elf = "\x7fELF and so on"
	length := []byte{1, 2, 3, 4}
	for name, image := range map[string][]byte{
		"gzip":  bzImage(append(gzipped(t, elf), length...)),
		"plain": bzImage(append([]byte(elf), length...)),
	} {
		if got, err := kernelELF(t.Context(), image); err != nil || string(got) != elf {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	cut := bzImage(append(gzipped(t, elf), length...))
	old := bytes.Clone(cut)
	old[bootVersionAt] = 7
	for name, image := range map[string][]byte{
		"no image":      []byte("vmlinuz"),
		"cut":           cut[:len(cut)-8],
		"old protocol":  old,
		"no ELF inside": bzImage(append(gzipped(t, "text"), length...)),
		"no payload":    bzImage(nil),
		"bad gzip":      bzImage([]byte("\x1f\x8bgarbage....")),
	} {
		if _, err := kernelELF(t.Context(), image); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := unwrapKernel(t.Context(), image, slog.New(slog.DiscardHandler)); !bytes.Equal(got, image) {
			t.Errorf("%s: the image was not kept", name)
		}
	}
}

func FuzzKernelPayload(f *testing.F) {
	f.Add(bzImage(make([]byte, 20)))
	f.Fuzz(func(t *testing.T, image []byte) {
		if p, err := kernelPayload(image); err == nil && len(p) < 8 {
			t.Errorf("a payload of %d bytes", len(p))
		}
	})
}

// moduleFile is an ELF file with a .modinfo section and nothing else.
func moduleFile(deps string) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	info := "license=GPL\x00depends=" + deps + "\x00name=x\x00"
	var b bytes.Buffer
	le := binary.LittleEndian
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	body := 64 + len(info) + len(names)
	for _, f := range []any{uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), uint64(body), uint32(0),
		uint16(64), uint16(0), uint16(0), uint16(64), uint16(3), uint16(2)} {
		binary.Write(&b, le, f)
	}
	b.WriteString(info + names)
	section := func(name, kind uint32, at, size int) {
		for _, f := range []any{name, kind, uint64(0), uint64(0), uint64(at), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0)} {
			binary.Write(&b, le, f)
		}
	}
	section(0, 0, 0, 0)
	section(1, 1, 64, len(info))
	section(10, 3, 64+len(info), len(names))
	return b.Bytes()
}

func TestModulesAreOrderedByWhatTheyDependOn(t *testing.T) {
	packed := map[string][]byte{
		"virtio_net":   gzipped(t, string(moduleFile("net_failover"))),
		"net_failover": moduleFile("failover,built-in"),
		"failover":     moduleFile(""),
		"virtio_blk":   moduleFile(""),
		"evdev":        moduleFile(""),
		"unused":       moduleFile(""),
	}
	got, err := orderModules(t.Context(), packed)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range got {
		name := m.name
		if m.late {
			name += " late"
		}
		if !bytes.HasPrefix(m.data, []byte("\x7fELF")) {
			t.Errorf("%s is not unpacked", m.name)
		}
		names = append(names, name)
	}
	if s := strings.Join(names, ", "); s != "failover, net_failover, virtio_net, virtio_blk, evdev late" {
		t.Error(s)
	}
	packed["failover"] = []byte("no ELF")
	if _, err := orderModules(t.Context(), packed); err == nil || !strings.Contains(err.Error(), "failover") {
		t.Errorf("a broken module: %v", err)
	}
}

func TestTheInitrdHoldsWhatTheKernelAndTheGuestWant(t *testing.T) {
	b, err := buildInitrd([]byte("program"), []module{{"failover", []byte("one"), false}, {"evdev", []byte("two"), true}})
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]uint64)
	for _, r := range records {
		got[r.Name] = r.Mode
	}
	for name, mode := range map[string]uint64{"init": 0o100755, "dev": 0o40755, "dev/console": 0o20600, "proc": 0o40755,
		"modules/boot/00-failover.ko": 0o100644, "modules/late/01-evdev.ko": 0o100644} {
		if got[name] != mode {
			t.Errorf("%s has mode %o, want %o", name, got[name], mode)
		}
	}
}

func TestReadTarKeepsTheKernelAndTheModules(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"./boot/vmlinuz-6.12", "./boot/config-6.12", "./lib/modules/6.12/kernel/drivers/net/virtio_net.ko.xz",
		"./lib/modules/6.12/kernel/net/core/fail-over.ko.xz", "./lib/modules/6.12/kernel/fs/ext4/ext4.ko.xz"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(name)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, name)
	}
	w.Close()
	pkg, err := readTar(tar.NewReader(bytes.NewReader(b.Bytes())))
	if err != nil || string(pkg.kernel) != "./boot/vmlinuz-6.12" || len(pkg.modules) != 2 || pkg.modules["fail_over"] == nil {
		t.Errorf("%q, %v", pkg, err)
	}
	if _, err := readTar(tar.NewReader(bytes.NewReader(b.Bytes()[:520]))); err == nil {
		t.Error("half an archive is no error")
	}
}

func TestMakeSaysWhatIsWrong(t *testing.T) {
	deb := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(deb, []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{deb, deb + ".missing"} {
		out := t.TempDir()
		if _, err := Make(t.Context(), MakeConfig{Deb: path, Out: out}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Make of %s: %v", path, err)
		}
		if files, _ := os.ReadDir(out); len(files) != 0 {
			t.Errorf("a failed Make left %v", files)
		}
	}
}

func TestTheAcceleratorIsAskedForOnce(t *testing.T) {
	asked := 0
	boots := func(yes bool) probe {
		return func(context.Context, Assets) bool { asked++; return yes }
	}
	a := Assets{Dir: t.TempDir()}
	steps := []struct {
		key   string
		boots bool
		want  string
		asked int
	}{
		{"6.1 with kvm", true, KVM, 1},
		{"6.1 with kvm", false, KVM, 1},
		{"6.2 with kvm", false, TCG, 2},
		{"6.2 with kvm", true, TCG, 2},
	}
	for i, s := range steps {
		got, err := a.accel(t.Context(), s.key, boots(s.boots))
		if err != nil || got != s.want || asked != s.asked {
			t.Errorf("step %d: %s, %v after %d boots, want %s after %d", i, got, err, asked, s.want, s.asked)
		}
	}
	for _, text := range []string{"", "xen\nkey\n", "tcg\nkey", "tcg\nother\n"} {
		if accel, ok := cachedAccel(text, "key"); ok {
			t.Errorf("%q was taken for %s", text, accel)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.accel(ctx, "another", boots(false)); !errors.Is(err, context.Canceled) {
		t.Errorf("an answer that was not waited for: %v", err)
	}
	gone := Assets{Dir: filepath.Join(t.TempDir(), "gone")}
	if got, err := gone.accel(t.Context(), "k", boots(true)); err != nil || got != KVM {
		t.Errorf("without a place to keep it: %s, %v", got, err)
	}
}

func TestTheConsoleIsReadUntilTheGuestSpeaks(t *testing.T) {
	if !sawGuest(strings.NewReader("[ 0.1] Linux\r\nvmmigrate-guest: up\r\n")) {
		t.Error("the guest was not seen")
	}
	if sawGuest(strings.NewReader("[ 0.1] Kernel panic\n" + strings.Repeat("x", 1<<17))) {
		t.Error("a guest was seen")
	}
}

func TestAPackageWithoutAKernelIsRefused(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed: apt-get install dpkg")
	}
	if _, err := unpack(t.Context(), ar(t, "./usr/share/doc/x")); err == nil || !strings.Contains(err.Error(), "no boot/vmlinuz") {
		t.Errorf("unpack = %v", err)
	}
}

// ar makes a package file that holds one empty file.
func ar(t *testing.T, name string) string {
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, f := range []struct{ name, data string }{{"debian-binary", "2.0\n"}, {"control.tar", data.String()}, {"data.tar", data.String()}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", f.name, 0, 0, 0, "100644", len(f.data), f.data)
	}
	path := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
