package check

import (
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/internal/sys"
)

func TestContact(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want Contact
	}{
		{nil, ContactOpen},
		{&net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, ContactRefused},
		{&net.OpError{Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, ContactBlocked},
		{syscall.ENETUNREACH, ContactBlocked},
		{syscall.EACCES, ContactBlocked},
		{syscall.EPERM, ContactBlocked},
		{syscall.ETIMEDOUT, ContactBlocked},
		{&net.OpError{Err: os.ErrDeadlineExceeded}, ContactBlocked},
		{errors.New("ssh is not there"), ""},
		{noErrno{syscall.EPERM}, ""},
		{syscall.EMFILE, ""},
	} {
		got := contact(tc.err)
		if got.Value != tc.want || got.OK != (tc.want != "") || got.Open() != (tc.want == "") {
			t.Errorf("%v: %+v, want %q", tc.err, got, tc.want)
		}
	}
}

// A hypervisor behind a unix socket is looked at through its process: here, this test itself.
func TestOpenView(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, uri := range []string{"qemu+qmp://" + sock, "qemu+unix:///system?socket=" + url.QueryEscape(sock), "qemu:///session?socket=" + sock} {
		v, err := OpenView(t.Context(), uri)
		if err != nil || v == nil {
			t.Fatalf("%s: %v, %v", uri, v, err)
		}
		if !strings.Contains(v.String(), strconv.Itoa(os.Getpid())) {
			t.Errorf("%s: %s, want this process", uri, v)
		}
	}
	for _, uri := range []string{"qemu+tls://b/system", "qemu+tcp://b/system", "qemu://b/system", "xen:///system", "alias"} {
		if v, err := OpenView(t.Context(), uri); v != nil || err != nil {
			t.Errorf("%s: %v, %v; want no view", uri, v, err)
		}
	}
	if v, err := OpenView(t.Context(), "qemu+ssh://root@b:2222/system?keyfile=/k"); err != nil || v.String() != "ssh b" {
		t.Errorf("ssh: %v, %v", v, err)
	}
	if _, err := OpenView(t.Context(), "qemu+qmp://"+sock+".gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent socket: %v", err)
	}
	if _, err := OpenView(t.Context(), "qemu://[x"); err == nil {
		t.Error("no error for a broken URI")
	}
}

func TestLocalSocket(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	u := &url.URL{Scheme: "qemu", Path: "/session"}
	want := filepath.Join(dir, "libvirt", "libvirt-sock")
	if got := localSocket(u); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	want = filepath.Join(dir, "libvirt", "virtqemud-sock")
	if err := errors.Join(os.Mkdir(filepath.Dir(want), 0o700), os.WriteFile(want, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := localSocket(u); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// viewSuite is what every view of this very machine has to answer.
func viewSuite(t *testing.T, v View) {
	ctx, dir := t.Context(), t.TempDir()
	file := filepath.Join(dir, "it's a file")
	if err := errors.Join(os.WriteFile(file, []byte("text\x00\n"), 0o640), os.Chmod(file, 0o640)); err != nil {
		t.Fatal(err)
	}
	if b, err := v.ReadFile(ctx, file); err != nil || string(b) != "text\x00\n" {
		t.Errorf("file holds %q, %v", b, err)
	}
	if info, err := v.Stat(ctx, file); err != nil || info.Mode != 0o100640 || info.Size != 6 || int(info.UID) != os.Geteuid() {
		t.Errorf("stat %+v, %v", info, err)
	}
	want, err := sys.FilesystemInRoot("/", dir)
	if got, gerr := v.Filesystem(ctx, dir); err != nil || gerr != nil || !strings.HasPrefix(want, "type") && got != want {
		t.Errorf("file system %q, %v, want %q, %v", got, gerr, want, err)
	}
	for name, ask := range map[string]func(string) error{
		"read":       func(p string) error { _, err := v.ReadFile(ctx, p); return err },
		"stat":       func(p string) error { _, err := v.Stat(ctx, p); return err },
		"filesystem": func(p string) error { _, err := v.Filesystem(ctx, p); return err },
	} {
		if err := ask(file + ".gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of an absent file: %v", name, err)
		}
	}
	big := filepath.Join(dir, "big")
	if err := errors.Join(os.WriteFile(big, nil, 0o600), os.Truncate(big, maxFile+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.ReadFile(ctx, big); err == nil {
		t.Error("a file beyond the limit was read")
	}
	viewSuiteNetwork(t, v)
}

func viewSuiteNetwork(t *testing.T, v View) {
	ctx := t.Context()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, port := l.Addr().String(), l.Addr().(*net.TCPAddr).Port
	if devices, err := v.Devices(ctx); err != nil || !devices["lo"] || len(devices) > 100 {
		t.Errorf("devices %v, %v, want lo among them", devices, err)
	}
	ports, err := v.Listeners(ctx)
	if err != nil || !ports[port] {
		t.Errorf("listeners %v, %v, want %d", ports, err, port)
	}
	if err := v.Dial(ctx, addr); err != nil {
		t.Errorf("open port: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := contact(v.Dial(ctx, addr)); got.Value != ContactRefused {
		t.Errorf("closed port: %+v", got)
	}
	if err := v.Dial(ctx, "localhost:1"); err == nil {
		t.Error("a name was dialled")
	}
	for _, name := range []string{"192.0.2.7", "localhost"} {
		if addrs, err := v.Resolve(ctx, name); err != nil || len(addrs) == 0 {
			t.Errorf("%s means %v, %v", name, addrs, err)
		}
	}
	a, err1 := v.Identity(ctx)
	b, err2 := v.Identity(ctx)
	if a == "" || a != b || err1 != nil || err2 != nil {
		t.Errorf("identity %q, %q, %v, %v", a, b, err1, err2)
	}
	before := time.Now().Truncate(time.Microsecond)
	if clock, err := v.Clock(ctx); err != nil || clock.Before(before) || clock.After(time.Now()) {
		t.Errorf("clock %s, %v, want one between %s and now", clock, err, before)
	}
	if _, _, err := v.Owner(ctx); err != nil {
		t.Errorf("owner: %v", err)
	}
}

// fakeSSH is a program that takes ssh's arguments and runs the command here, behind the given words.
func fakeSSH(t *testing.T, before string) *sshView {
	t.Helper()
	prog := filepath.Join(t.TempDir(), "ssh")
	script := "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\n" + before + " sh -c \"$*\"\n"
	if err := os.WriteFile(prog, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return newSSHView(&url.URL{Scheme: "qemu+ssh", Host: "b", Path: "/system", RawQuery: "command=" + url.QueryEscape(prog)})
}

func TestSSHView(t *testing.T) { viewSuite(t, fakeSSH(t, "exec")) }

func TestSSHViewArguments(t *testing.T) {
	u, err := url.Parse("qemu+ssh://root@b:2222/system?keyfile=/k")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(newSSHView(u).argv, " ")
	for _, part := range []string{"ssh ", " -o BatchMode=yes ", " -p 2222 ", " -l root ", " -i /k ", " -- b"} {
		if !strings.Contains(got, part) {
			t.Errorf("%s lacks %q", got, part)
		}
	}
}

func TestSSHViewFails(t *testing.T) {
	v := fakeSSH(t, "echo 'Permission denied (publickey).' >&2; exit 255;")
	_, err := v.ReadFile(t.Context(), "/etc/hosts")
	if err == nil || !strings.Contains(err.Error(), "Permission denied (publickey)") {
		t.Errorf("%v", err)
	}
	// That ssh does not let us in says nothing about the port.
	if got := contact(v.Dial(t.Context(), "192.0.2.1:1")); !got.Open() {
		t.Errorf("%+v, want could not tell", got)
	}
}

// Without bash, netcat's words decide; without either, nothing is said.
func TestSSHViewNetcat(t *testing.T) {
	for said, want := range map[string]Contact{
		"nc: connect to 192.0.2.1 port 1 (tcp) failed: Connection refused": ContactRefused,
		"nc: connect: No route to host":                                    ContactBlocked,
		"nc: connect: Network is unreachable":                              ContactBlocked,
		"nc: timed out":                                                    ContactBlocked,
		"nc: Permission denied":                                            ContactBlocked,
		"nc: unknown option -z":                                            "",
		"":                                                                 ContactOpen,
	} {
		dir := t.TempDir()
		sh, err := filepath.EvalSymlinks("/bin/sh")
		if err != nil {
			t.Fatal(err)
		}
		nc := "#!/bin/sh\n[ -z \"" + said + "\" ] && exit 0\necho \"" + said + "\" >&2\nexit 1\n"
		if err := errors.Join(os.Symlink(sh, filepath.Join(dir, "sh")), os.WriteFile(filepath.Join(dir, "nc"), []byte(nc), 0o755)); err != nil {
			t.Fatal(err)
		}
		got := contact(fakeSSH(t, "PATH="+dir+"; exec").Dial(t.Context(), "192.0.2.1:1"))
		if got.Value != want || got.Open() != (want == "") {
			t.Errorf("%q: %+v, want %q", said, got, want)
		}
	}
	got := contact(fakeSSH(t, "PATH="+t.TempDir()+"; exec /bin/").Dial(t.Context(), "192.0.2.1:1"))
	if !got.Open() {
		t.Errorf("without bash and nc: %+v", got)
	}
}

func TestHere(t *testing.T) {
	v := Here()
	if addrs, err := v.Resolve(t.Context(), "127.0.0.1"); err != nil || len(addrs) != 1 {
		t.Errorf("%v, %v", addrs, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := v.Dial(t.Context(), l.Addr().String()); err != nil || v.String() != "here" {
		t.Errorf("%s: %v", v, err)
	}
	if err := notFound(&net.DNSError{IsNotFound: true}); err != nil {
		t.Errorf("an absent name is an error: %v", err)
	}
	if err := notFound(&net.DNSError{IsTimeout: true}); err == nil {
		t.Error("a silent resolver is taken for an absent name")
	}
}
