package libvirthost

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vmmigrate/vmmigrate/migrate"
)

func TestPlaceByURI(t *testing.T) {
	for uri, want := range map[string]struct {
		ok        bool
		ssh, name string
		args      []string
	}{
		"qemu+tls://b.example/system":                               {true, "", "b.example", nil},
		"qemu+tcp://b:16510/system":                                 {true, "", "b", nil},
		"qemu+ssh://b/system":                                       {true, "b", "b", []string{"-o", "BatchMode=yes"}},
		"qemu+ssh://root@b:2222/system?keyfile=/k&command=/bin/ssh": {true, "root@b", "b", []string{"-o", "BatchMode=yes", "-p", "2222", "-i", "/k"}},
		"qemu+ssh://b/system?command=/opt/tunnel":                   {},
		"qemu+ssh://b/session":                                      {},
		"qemu+tls://b/session":                                      {},
	} {
		u, err := parseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		at, err := (&Host{t: u}).Place(t.Context())
		if !want.ok {
			if !errors.Is(err, migrate.ErrNotSupported) || migrate.FixOf(err) == "" {
				t.Errorf("%s: %+v, %v (fix %q)", uri, at, err, migrate.FixOf(err))
			}
			continue
		}
		if err != nil || at.Local || at.PID != 0 || at.SSH != want.ssh || at.Name != want.name || !slices.Equal(at.SSHArgs, want.args) {
			t.Errorf("%s: %+v, %v", uri, at, err)
		}
		if at.PIDFile("web") != "/run/libvirt/qemu/web.pid" || at.SocketDir == "" {
			t.Errorf("%s: paths %q, %q", uri, at.PIDFile("web"), at.SocketDir)
		}
	}
}

// TestPlaceOfADaemonOutOfSight: what answers at the socket is no daemon of libvirt's, as with one that systemd listens for,
// and no file names one.
func TestPlaceOfADaemonOutOfSight(t *testing.T) {
	dir := t.TempDir()
	h := &Host{t: target{transport: transportUnix, path: "/session", socket: filepath.Join(dir, "libvirt-sock"), raw: "x"}, daemon: os.Getpid()}
	if at, err := h.Place(t.Context()); !errors.Is(err, migrate.ErrNotSupported) {
		t.Errorf("%+v, %v", at, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "libvirtd.pid"), []byte("1\n"), 0o600); err != nil { // the machine's init, not libvirt
		t.Fatal(err)
	}
	if at, err := h.Place(t.Context()); !errors.Is(err, migrate.ErrNotSupported) {
		t.Errorf("%+v, %v", at, err)
	}
}

func TestReadPID(t *testing.T) {
	for text, want := range map[string]int{"17\n": 17, "": 0, "x": 0, "-3": 0, "0": 0} {
		file := filepath.Join(t.TempDir(), "x.pid")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readPID(file); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if _, err := readPID(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there")
	}
}

func TestSessionDirs(t *testing.T) {
	state, lib := sessionDirs(os.Getpid())
	if filepath.Base(state) != "run" || filepath.Base(lib) != "lib" || !filepath.IsAbs(state) {
		t.Errorf("%q, %q", state, lib)
	}
}
