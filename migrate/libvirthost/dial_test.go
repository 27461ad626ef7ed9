package libvirthost

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv"
)

// openFrom opens a URI as a client on a host of the lab and gives what it told.
func openFrom(ctx context.Context, t *testing.T, h *testenv.Host, uri string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), openEnv+"="+uri)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v: %s", uri, err, out.String())
	}
	return out.String()
}

// TestT4Dialers reaches real daemons by every transport, from a host as a user of it would.
func TestT4Dialers(t *testing.T) {
	lab := theLab.up(t)
	a, b := mustHost(t, lab, "a"), mustHost(t, lab, "b")
	ssh := standInSSH(t, a)
	for _, c := range []struct{ name, uri, says string }{
		{"the host's own", "qemu:///system", "uuid: " + a.UUID() + " encrypted: true local: true"},
		{"the default", "default", "uuid: " + a.UUID()},
		{"tcp", b.TCPURI(), "uuid: " + b.UUID() + " encrypted: false local: false"},
		{"tls", b.TLSURI(), "uuid: " + b.UUID() + " encrypted: true local: false"},
		{"tls is the default for a host", "qemu://b/system", "uuid: " + b.UUID()},
		{"tls by a name that is not in the certificate", "qemu+tls://not-b.invalid/system", "fix: correct the host's name"},
		{"ssh with libvirt's helper", "qemu+ssh://a/system?command=" + ssh, "uuid: " + a.UUID() + " encrypted: true local: false"},
		{"ssh without any helper", "qemu+ssh://a/system?proxy=netcat&netcat=/no/nc&command=" + ssh, "fix: install libvirt-daemon"},
		{"ssh that is not there", "qemu+ssh://a/system?command=/no/ssh", "fix: install the OpenSSH client"},
		{"a port that nobody listens on", "qemu+tcp://b:1/system", "fix: let libvirt listen on port 1"},
		{"an unknown driver on a daemon", b.TCPURI() + "?name=qemu:///nowhere", "error: "},
	} {
		if got := openFrom(testContext(t), t, a, c.uri); !strings.Contains(got, c.says) {
			t.Errorf("%s: %s: got %q, want %q", c.name, c.uri, got, c.says)
		}
	}
}

// standInSSH is a program that takes ssh's arguments and runs the remote command on the very host.
func standInSSH(t *testing.T, h *testenv.Host) string {
	t.Helper()
	script := "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n"
	if err := os.WriteFile(filepath.Join(h.ImagesDir(), "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return images + "/ssh"
}

// TestT4ExpiredCertificates: each end's certificate runs out, and the error names the right file.
func TestT4ExpiredCertificates(t *testing.T) {
	lab := theLab.up(t)
	ctx := testContext(t)
	a, b := mustHost(t, lab, "a"), mustHost(t, lab, "b")
	t.Cleanup(func() {
		for _, h := range []*testenv.Host{a, b} {
			if err := h.IssueCertificates(time.Time{}); err != nil {
				t.Error(err)
			}
		}
		if err := b.RestartLibvirtd(context.Background()); err != nil {
			t.Error(err)
		}
	})
	past := time.Now().Add(-time.Hour)
	if err := a.IssueCertificates(past); err != nil {
		t.Fatal(err)
	}
	if got := openFrom(ctx, t, a, b.TLSURI()); !strings.Contains(got, "expired") || !strings.Contains(got, "fix: renew /etc/pki/libvirt/clientcert.pem") {
		t.Errorf("the client's: %s", got)
	}
	if err := a.IssueCertificates(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := b.IssueCertificates(past); err != nil {
		t.Fatal(err)
	}
	if err := b.RestartLibvirtd(ctx); err != nil {
		t.Skip("this libvirtd does not start with an expired certificate: ", err)
	}
	got := openFrom(ctx, t, a, b.TLSURI())
	t.Log(got)
	if !strings.Contains(got, "expired") {
		t.Errorf("the daemon's: %s", got)
	}
}
