package libvirthost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vmmigrate/vmmigrate/internal/sys"
	"github.com/vmmigrate/vmmigrate/migrate"
)

var _ migrate.Located = (*Host)(nil)

// peerOf is the process at the other end of a unix socket; 0 if it is none, or out of sight.
func peerOf(c net.Conn) int {
	sc, ok := c.(syscall.Conn)
	if _, unix := c.(*net.UnixConn); !ok || !unix {
		return 0
	}
	p, err := sys.PeerOf(sc)
	if err != nil {
		return 0
	}
	return p.PID
}

// Place is where libvirt's daemon runs. The paths in it are as that host sees them: PIDFile is libvirt's own, SocketDir
// the folder in which its QEMUs make their monitors. Of a session's daemon on another machine the folders are not known,
// which is ErrNotSupported; so is an ssh that is not the usual one.
func (h *Host) Place(context.Context) (migrate.Place, error) {
	p := migrate.Place{SocketDir: "/var/lib/libvirt/qemu", PIDFile: pidFileIn("/run/libvirt/qemu"), Name: h.t.host}
	session := h.t.path == "/session"
	const op, fix = "find out where an agent belongs", "use the system's daemon (…/system), or --engine native"
	no := func(why, fix string) (migrate.Place, error) {
		return migrate.Place{}, migrate.Fail(op+" for "+h.t.raw, "", fmt.Errorf("%s: %w", why, migrate.ErrNotSupported), fix)
	}
	switch h.t.transport {
	case transportUnix:
		pid, ok := h.daemonHere()
		if !ok {
			return no("its daemon's process cannot be seen from here", "run vmmigrate on the host itself, outside of containers")
		}
		p.Local, p.PID = true, pid
		if session {
			state, lib := sessionDirs(pid)
			p.PIDFile, p.SocketDir = pidFileIn(state), lib
		}
		return p, nil
	case transportSSH:
		if h.t.command != "" && filepath.Base(h.t.command) != "ssh" {
			return no("ssh is replaced by "+h.t.command, "leave out command=, or use --engine native")
		}
		p.SSH, p.SSHArgs = sshPlace(h.t)
	}
	if session {
		return no("a session's daemon on another machine", fix)
	}
	return p, nil
}

func pidFileIn(dir string) func(string) string {
	return func(domain string) string { return filepath.Join(dir, domain+".pid") }
}

// sshPlace is how ssh reaches the host, without a command to run there.
func sshPlace(t target) (dest string, args []string) {
	args = []string{"-o", "BatchMode=yes"}
	if t.port != "" {
		args = append(args, "-p", t.port)
	}
	if t.keyfile != "" {
		args = append(args, "-i", t.keyfile)
	}
	if t.user != "" {
		return t.user + "@" + t.host, args
	}
	return t.host, args
}

// daemonNames are libvirt's two kinds of daemon, of which one has the QEMU driver.
var daemonNames = []string{"virtqemud", "libvirtd"}

// daemonHere finds the daemon's process. A service manager that made the socket is what the socket names; the daemon has
// then written its number into a file.
func (h *Host) daemonHere() (int, bool) {
	if isDaemon(h.daemon) {
		return h.daemon, true
	}
	socket := defaultEnv().findSocket(h.t)
	first := filepath.Base(socket)
	for _, name := range daemonNames {
		for _, dir := range []string{"/run", "/run/libvirt", filepath.Dir(socket)} {
			if strings.HasPrefix(first, "virtqemud") && name != "virtqemud" || h.t.path == "/session" && dir != filepath.Dir(socket) {
				continue
			}
			pid, err := readPID(filepath.Join(dir, name+".pid"))
			if err == nil && isDaemon(pid) {
				return pid, true
			}
		}
	}
	return 0, false
}

func readPID(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0, errors.Join(err, fmt.Errorf("%s holds no process number", file))
	}
	return pid, nil
}

// isDaemon tells whether a process is one of libvirt's daemons.
func isDaemon(pid int) bool {
	if pid <= 0 {
		return false
	}
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	arg, _, _ := bytes.Cut(args, []byte{0})
	for _, name := range daemonNames {
		if filepath.Base(string(arg)) == name {
			return true
		}
	}
	return false
}

// sessionDirs are the folders of a session's daemon, by its own environment: for its QEMUs' process numbers, and for their
// monitors.
func sessionDirs(pid int) (state, lib string) {
	e := defaultEnv()
	run, config, home := e.get("XDG_RUNTIME_DIR"), e.get("XDG_CONFIG_HOME"), e.home
	if b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ")); err == nil {
		run, config = "", ""
		for v := range bytes.SplitSeq(b, []byte{0}) {
			switch key, value, _ := strings.Cut(string(v), "="); key {
			case "XDG_RUNTIME_DIR":
				run = value
			case "XDG_CONFIG_HOME":
				config = value
			case "HOME":
				home = value
			}
		}
	}
	if run == "" {
		run = filepath.Join(home, ".cache")
	}
	if config == "" {
		config = filepath.Join(home, ".config")
	}
	return filepath.Join(run, "libvirt", "qemu", "run"), filepath.Join(config, "libvirt", "qemu", "lib")
}
