package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vmmigrate/vmmigrate/testenv/internal/control"
	"github.com/vmmigrate/vmmigrate/testenv/internal/daemon"
	"github.com/vmmigrate/vmmigrate/testenv/internal/layout"
	"github.com/vmmigrate/vmmigrate/testenv/internal/netns"
)

// Host is one host of a lab. It is a handle, as a Lab is.
type Host struct {
	space
	lab  *Lab
	host layout.Host
}

func (l *Lab) newHost(h layout.Host) *Host {
	return &Host{
		space: space{owner: l.state.Hosts[h.Name], what: "host " + h.Name, plan: l.state.Plan},
		lab:   l, host: h,
	}
}

// Name is the host's name, as its own hostname and in addresses inside the lab.
func (h *Host) Name() string { return h.host.Name }

// URI is how a libvirt client on the machine connects to the host.
func (h *Host) URI() string { return h.host.URI() }

// TLSURI and TCPURI are how one host of the lab connects to this one.
func (h *Host) TLSURI() string { return "qemu+tls://" + h.Name() + "/system" }

// TCPURI is TLSURI without encryption or authentication.
func (h *Host) TCPURI() string { return "qemu+tcp://" + h.Name() + "/system" }

// UUID is the host UUID that its libvirtd reports.
func (h *Host) UUID() string { return h.host.UUID }

// Address is the host's address on the migration network.
func (h *Host) Address() netip.Addr { return h.host.Address.Addr() }

// ImagesDir, PKIDir and LogDir are the host's directories, as the machine sees them.
func (h *Host) ImagesDir() string { return h.host.Images() }

// PKIDir is the host's /etc/pki.
func (h *Host) PKIDir() string { return h.host.PKI() }

// LogDir is the host's /var/log/libvirt.
func (h *Host) LogDir() string { return h.host.Log() }

// PID is the host's first process, as the machine counts.
func (h *Host) PID() int { return h.owner.PID }

// Start starts a prepared command inside the host: its network, mounts, host name
// and processes. The caller waits for it with cmd.Wait. The working directory is
// cmd.Dir, or the caller's own.
func (h *Host) Start(cmd *exec.Cmd) error {
	if !h.owner.Alive() {
		return fmt.Errorf("%s: %w", h.what, ErrHostDown)
	}
	if cmd.Dir == "" {
		cmd.Dir = workingDirectory()
	}
	if err := netns.Start(h.owner.PID, cmd); err != nil {
		return fmt.Errorf("run %s in %s: %w", cmd.Path, h.what, err)
	}
	return nil
}

func workingDirectory() string {
	dir, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return dir
}

// Stdio is what a command reads and writes. A nil field is /dev/null.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// outputPatience is how long a command that was killed may leave children behind
// that hold its output open.
const outputPatience = 2 * time.Second

// Exec runs a command inside the host and waits for it. A command that fails gives
// an *exec.ExitError; when ctx ends it is killed. It gets our environment but for the
// libvirt that is meant by default: inside, that is the host's own.
func (h *Host) Exec(ctx context.Context, stdio Stdio, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "LIBVIRT_DEFAULT_URI=") || strings.HasPrefix(v, "VIRSH_DEFAULT_CONNECT_URI=")
	})
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	cmd.WaitDelay = outputPatience
	if err := h.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Output runs a command inside the host and returns what it wrote. The error of
// one that fails holds what it said.
func (h *Host) Output(ctx context.Context, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	err := h.Exec(ctx, Stdio{Out: &out, Err: &errs}, name, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s in %s: %w: %s", name, h.what, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

// RestartLibvirtd stops the host's libvirtd, if it runs, and starts it again. Its
// guests go on.
func (h *Host) RestartLibvirtd(ctx context.Context) error {
	return h.lab.call(ctx, control.Request{Op: daemon.OpRestart, Host: h.Name()}, nil)
}

// StopLibvirtd stops the host's libvirtd. Its guests go on.
func (h *Host) StopLibvirtd(ctx context.Context) error {
	return h.lab.call(ctx, control.Request{Op: daemon.OpStop, Host: h.Name()}, nil)
}

// Kill ends the host as a power failure would: libvirtd, every guest and their RAM
// are gone at once. It does not come back; its files stay.
func (h *Host) Kill(ctx context.Context) error {
	return h.lab.call(ctx, control.Request{Op: daemon.OpKill, Host: h.Name()}, nil)
}

// IssueCertificates replaces the host's certificates by ones that are valid until
// notAfter; zero is the usual validity. QEMU and libvirt clients read them anew for
// each connection, libvirtd when it starts.
func (h *Host) IssueCertificates(notAfter time.Time) error {
	ca, err := daemon.Authority(h.lab.state.Plan)
	if err != nil {
		return err
	}
	return daemon.InstallPKI(ca, h.host, notAfter)
}

// BlockPorts drops what other hosts send to these TCP and UDP ports of the host,
// both ends included, without an answer; connections that exist freeze.
func (h *Host) BlockPorts(ctx context.Context, low, high uint16) error {
	return h.lab.call(ctx, control.Request{Op: daemon.OpBlock, Host: h.Name(), Low: low, High: high}, nil)
}

// UnblockPorts undoes BlockPorts for exactly that range.
func (h *Host) UnblockPorts(ctx context.Context, low, high uint16) error {
	return h.lab.call(ctx, control.Request{Op: daemon.OpUnblock, Host: h.Name(), Low: low, High: high}, nil)
}
